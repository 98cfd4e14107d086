"""When a call is made again (runner protocol, sections 2 and 10). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Longer than this no server may put a runner to sleep by one header.
LONGEST_RETRY_AFTER_S = 3_600.0


@dataclass(frozen=True)
class Backoff:
    """Base and cap of full jitter, in seconds."""

    base_s: float
    cap_s: float


def retry_delay(backoff: Backoff, failures: int, chance: float, retry_after_s: float | None = None) -> float:
    """Seconds to wait before the next try.

    Full jitter: any time up to `base * 2^failures`, capped, so that a thousand runners that lost the server together
    do not come back together. A `Retry-After` is the earliest moment; the jitter comes on top of it.

    failures: calls that have failed in a row before this wait, from 0. chance: 0 <= value < 1.
    """
    ceiling = min(backoff.cap_s, backoff.base_s * 2.0 ** min(failures, 30))
    if retry_after_s is None:
        return chance * ceiling
    return min(retry_after_s, LONGEST_RETRY_AFTER_S) + chance * min(ceiling, backoff.base_s)


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds of a `Retry-After` header, a number or an HTTP date (RFC 9110, section 10.2.3); None when there is none.

    now: the server's `Date` header where it sent one, so that the runner's own clock does not matter.
    """
    if header is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}\s*", header):
        return float(header)
    at = parse_http_date(header)
    return None if at is None else max(0.0, (at - now).total_seconds())


def parse_http_date(header: str | None) -> datetime | None:
    """Time of an HTTP date, or None."""
    try:
        at = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def jittered(base_s: float, chance: float) -> float:
    """An interval of `base_s` ±20 %, so that heartbeats of many runners do not fall into step."""
    return base_s * (0.8 + 0.4 * chance)
