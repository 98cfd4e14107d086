"""Takes credentials out of text before it is shown, stored or sent (runner protocol, section 1). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MASKED = "[masked]"
PATTERNS = [
    # Registration and runner tokens.
    (re.compile(r"\bcv[a-z]{1,4}_[0-9a-f]{16,}\b"), MASKED),
    # Access and job tokens.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}", re.ASCII), MASKED),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{16,}", re.IGNORECASE | re.ASCII), rf"\1{MASKED}"),
]
# No secret that the agent handles is longer; a text that is cut keeps this much together.
LONGEST_SECRET = 2_048
SHORTEST_SECRET = 8

Mask = Callable[[str], str]


def create_mask(secrets: Iterable[str] = ()) -> Mask:
    """A function that masks the given secrets by value and whatever looks like one of our tokens by form."""
    known = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]

    def mask(text: str) -> str:
        for secret in known:
            text = text.replace(secret, MASKED)
        for pattern, replacement in PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    return mask
