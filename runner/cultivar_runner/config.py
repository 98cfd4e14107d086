"""What the runner is told: checked values of the command line, and where it keeps its state."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from .agent.attempt import TrainerEntry

MIB = 1024 * 1024
DEFAULT_CACHE_MB = 100_000
# Trainers that come with the package, and the library that each needs.
FRAMEWORKS = {"timm": "timm", "ultralytics": "ultralytics"}
# Runs a command that knows nothing of this package.
EXEC_MODULE = "cultivar_runner.legacy"
LABEL = re.compile(r"([\w.-]{1,100})=(.{0,200})")
TRAINER = re.compile(r"([\w.-]{1,50})=([\w.]+)")


class UsageError(Exception):
    """Something on the command line cannot be; the message says what."""


def default_state_dir() -> Path:
    """Where the state goes unless told otherwise (XDG base directories)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "cultivar-runner"


def default_name() -> str:
    """The machine's name."""
    return socket.gethostname()[:200] or "runner"


def is_local(url: str) -> bool:
    """Whether a URL is this machine's own."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def checked_url(url: str, *, insecure_http: bool = False) -> str:
    """A server's URL without a slash at its end. Tokens travel with it: HTTPS, unless it is this machine."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--url {url} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("--url must begin with https:// or http://")
    if parts.username or parts.password:
        raise UsageError("--url must not hold a password")
    if parts.query or parts.fragment:
        raise UsageError("--url must not have a query or fragment")
    if parts.scheme == "http" and not is_local(url) and not insecure_http:
        raise UsageError("--url must be https:// for a server on another machine (or add --insecure-http)")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def read_labels(given: list[str]) -> dict[str, str]:
    """Labels of the command line, NAME=VALUE each."""
    labels: dict[str, str] = {}
    for text in given:
        match = LABEL.fullmatch(text)
        if match is None:
            raise UsageError(f"--label {text} is not NAME=VALUE")
        labels[match[1]] = match[2]
    return labels


def read_gpus(text: str | None) -> list[str] | None:
    """Device numbers or ids; an empty list for `none`, None when nothing was said: all that there are."""
    if text is None or text == "all":
        return None
    if text in ("", "none"):
        return []
    gpus = [part.strip() for part in text.split(",")]
    for gpu in gpus:
        if not re.fullmatch(r"\d{1,3}|(GPU|MIG)-[\w/-]+", gpu):
            raise UsageError(f"--gpus {text}: {gpu!r} is no number and no id of a device")
    if len(set(gpus)) != len(gpus):
        raise UsageError(f"--gpus {text}: a device is there twice")
    return gpus


def read_trainers(
    given: list[str], command: str | None = None, frameworks: list[str] | None = None
) -> dict[str, TrainerEntry]:
    """Trainers of this machine: those whose library is installed, and those of the command line.

    With a `command` it trains the jobs of `frameworks` (all of the platform's unless told) instead, without a library.
    """
    for name in frameworks or []:
        if not re.fullmatch(r"[\w.-]{1,50}", name):
            raise UsageError(f"--framework {name} is no name")
    if command is not None:
        entry = TrainerEntry(module=EXEC_MODULE, options={"command": command})
        trainers = dict.fromkeys(frameworks or FRAMEWORKS, entry)
    else:
        trainers = {
            name: TrainerEntry()
            for name, library in FRAMEWORKS.items()
            if importlib.util.find_spec(library) is not None and name in (frameworks or FRAMEWORKS)
        }
    for text in given:
        match = TRAINER.fullmatch(text)
        if match is None:
            raise UsageError(f"--trainer {text} is not FRAMEWORK=MODULE")
        trainers[match[1]] = TrainerEntry(module=match[2])
    return trainers


@dataclass(frozen=True)
class Settings:
    """All of a running runner."""

    url: str
    state_dir: Path
    name: str
    trainers: dict[str, TrainerEntry]
    slots: int = 1
    once: bool = False
    gpus: list[str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    cache_bytes: int = DEFAULT_CACHE_MB * MIB
    cache_dir: Path | None = None

    @property
    def attempts_dir(self) -> Path:
        """A folder for each attempt."""
        return self.state_dir / "attempts"
