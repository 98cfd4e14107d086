"""The outbox's file format: one record a line, `crc32(json) in 8 hex digits, blank, json, line feed`.

JSON has no line feed of its own, so a damaged record costs only itself, and the line that a crash left half written is
seen for what it is. Persisted: a reader has to understand what an older agent wrote. Pure.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

PREFIX_BYTES = 9


def encode_record(record: dict[str, Any]) -> bytes:
    """One line. The record has its number under `seq`."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


@dataclass(frozen=True)
class RecordPlace:
    """Where the JSON of a record lies in its file."""

    seq: int
    offset: int
    length: int


@dataclass(frozen=True)
class Scan:
    """What a file holds. `whole_bytes`: up to here it ends with a line; what is behind was never written completely."""

    places: list[RecordPlace]
    whole_bytes: int
    damaged: int


def scan_records(data: bytes) -> Scan:
    """Finds the records of a file. Never fails: what is not a good record is counted and left out."""
    places: list[RecordPlace] = []
    damaged = 0
    start = 0
    while (end := data.find(b"\n", start)) != -1:
        seq = _seq_of(data[start:end])
        if seq is not None:
            places.append(RecordPlace(seq, start + PREFIX_BYTES, end - start - PREFIX_BYTES))
        elif end > start:  # An empty line is a seam: see the writer.
            damaged += 1
        start = end + 1
    return Scan(places, start, damaged)


def _seq_of(line: bytes) -> int | None:
    text = line[PREFIX_BYTES:]
    if len(line) <= PREFIX_BYTES or line[:PREFIX_BYTES] != b"%08x " % zlib.crc32(text):
        return None
    value = json.loads(text)
    seq = value.get("seq") if isinstance(value, dict) else None
    return seq if isinstance(seq, int) and seq > 0 else None
