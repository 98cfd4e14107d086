"""What a manifest asks for. It is untrusted: nothing of it touches the disk before it was checked. Pure."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ...wire import File

MAX_SEGMENT_BYTES = 255
HASH = re.compile(r"[0-9a-f]{64}")


def fault_of_path(path: str) -> str | None:
    """Why a name may not be used: it leads out of the folder, or is another name elsewhere. None when it may."""
    if not path or path.startswith("/"):
        return "is absolute or empty"
    if "\\" in path or any(ord(char) < 32 or ord(char) == 127 for char in path):
        return "has a backslash or a control character"
    if re.match(r"[A-Za-z]:", path):
        return "begins with a drive letter"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in its one spelling"
    for part in path.split("/"):
        # Windows drops dots and blanks at the end of a name; other systems fold look-alikes.
        if re.fullmatch(r"[. ]*", unicodedata.normalize("NFKC", part)):
            return "has an empty, '.' or '..' part"
        if len(part.encode("utf-8", "surrogatepass")) > MAX_SEGMENT_BYTES:
            return "has a part that is too long"
    return None


def fault_of_manifest(files: Sequence[File]) -> str | None:
    """Why a manifest cannot be put on this disk, or None."""
    paths: set[str] = set()
    for file in files:
        fault = fault_of_path(file.path)
        if fault is not None:
            return f"{file.path[:200]!r} {fault}"
        if not HASH.fullmatch(file.sha256) or file.size < 0:
            return f"{file.path[:200]!r} has no proper hash or size"
        if file.path in paths:
            return f"{file.path[:200]!r} is there twice"
        paths.add(file.path)
    # macOS and Windows take names that differ in case for one.
    if sys.platform != "linux" and len({path.casefold() for path in paths}) != len(paths):
        return "two names differ only in case, which this file system cannot keep apart"
    for path in paths:
        for folder in _folders_of(path):
            if folder in paths:
                return f"{folder[:200]!r} is a file and a folder"
    return None


def _folders_of(path: str) -> Iterable[str]:
    end = path.find("/")
    while end != -1:
        yield path[:end]
        end = path.find("/", end + 1)


def distinct_contents(files: Iterable[File]) -> list[File]:
    """Bytes to fetch: each content once, however many names it has."""
    return list({file.sha256: file for file in files}.values())


@dataclass(frozen=True)
class CacheEntry:
    """A content in the cache. `in_use`: a running job has a name of it."""

    path: Path
    size: int
    last_used: float
    in_use: bool


def to_evict(entries: Sequence[CacheEntry], max_bytes: int) -> list[CacheEntry]:
    """The entries to delete so that the rest fits: least recently used first; what is in use stays."""
    total = sum(entry.size for entry in entries)
    chosen: list[CacheEntry] = []
    for entry in sorted((entry for entry in entries if not entry.in_use), key=lambda entry: entry.last_used):
        if total <= max_bytes:
            break
        chosen.append(entry)
        total -= entry.size
    return chosen


@dataclass(frozen=True)
class Segment:
    """A range of a large file that is fetched on its own: from `start` up to `end`, of which `done` bytes are there."""

    start: int
    end: int
    done: int


def segments_of(size: int, count: int) -> list[Segment]:
    """A file in `count` ranges of about equal size."""
    edges = [size * index // count for index in range(count + 1)]
    return [Segment(start, end, 0) for start, end in pairwise(edges)]
