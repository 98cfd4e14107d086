"""An append-only journal of numbered records in a folder."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import sync_folder
from .frame import PREFIX_BYTES, encode_record, scan_records

SEGMENT_BYTES = 1024 * 1024
Record = dict[str, Any]


@dataclass(eq=False)
class _Segment:
    path: Path
    # No record in it has a lower number.
    first: int
    size: int = 0


@dataclass(frozen=True)
class _OnDisk:
    segment: _Segment
    offset: int
    size: int


@dataclass(frozen=True)
class _InMemory:
    """The disk refused it; kept until it is acknowledged."""

    text: bytes

    @property
    def size(self) -> int:
        return len(self.text)


@dataclass
class _Pending:
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    size: int = 0


class Journal:
    """What is reported of an attempt, until the server has it.

    Numbers begin at 1 and have no holes. Appends that come together share one write and one flush; what is acknowledged
    is deleted by whole files. Only places are held in memory, so hours without a server cost disk, not memory. A full
    disk costs durability, never a record.

    The newest file is never deleted: its name says which number comes next after a restart.
    """

    def __init__(
        self, folder: Path, on_trouble: Callable[[BaseException], None], *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Opens what is there, or begins. A half-written last line is cut off: nobody has seen it."""
        self._folder = folder
        self._on_trouble = on_trouble
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._places: dict[int, _OnDisk | _InMemory] = {}
        self._pending = _Pending()
        self._flushing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._handle: int | None = None
        self._broken = False
        self._last = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(folder.glob("*.log")):
            if path.stem.isdigit() and len(path.stem) == 12:
                self._load(path)
        self._durable = self._last
        self._released = min(self._places, default=self._last + 1) - 1

    @property
    def last_seq(self) -> int:
        """Number of the newest record, on disk or about to be."""
        return self._last

    @property
    def durable_seq(self) -> int:
        """Up to here records are flushed; only those may be sent, or a crash gives their number to another record."""
        return self._durable

    @property
    def released_seq(self) -> int:
        """Up to here records are gone, acknowledged."""
        return self._released

    @property
    def backlog_bytes(self) -> int:
        """Bytes handed in and not yet on disk."""
        return self._pending.size

    def append(self, record: Record) -> int:
        """Takes a record and gives it the next number at once; it is on disk when `flushed` says so."""
        self._last += 1
        line = encode_record({"seq": self._last, **record})
        self._pending.lines.append((self._last, line))
        self._pending.size += len(line)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return self._last

    async def flushed(self) -> None:
        """Returns when everything that was appended so far is on disk."""
        while self._flushing is not None:
            await asyncio.shield(self._flushing)

    async def changed(self) -> None:
        """Waits until more records are on disk than when it was asked last."""
        await self._changed.wait()
        self._changed.clear()

    def skip_to(self, seq: int) -> None:
        """Raises the next number above one that the server has seen. Only while nothing is on its way to disk."""
        self._last = max(self._last, seq)
        self._durable = max(self._durable, seq)

    def bytes_of(self, seq: int) -> int:
        """Size of a record in bytes; 0 when it is not there."""
        place = self._places.get(seq)
        return 0 if place is None else place.size

    def read(self, seqs: Iterable[int]) -> list[Record]:
        """Records by number; one that is not there, or not readable any more, is left out."""
        records: list[Record] = []
        for seq in seqs:
            place = self._places.get(seq)
            if place is None:
                continue
            try:
                records.append(json.loads(place.text if isinstance(place, _InMemory) else self._bytes_at(place)))
            except (OSError, ValueError) as error:
                self._on_trouble(error)
        return records

    def release(self, seq: int) -> None:
        """Forgets everything up to `seq` and deletes the files that hold nothing else."""
        seq = min(seq, self._last)
        for number in range(self._released + 1, seq + 1):
            self._places.pop(number, None)
        self._released = max(self._released, seq)
        while len(self._segments) > 1 and self._segments[1].first <= self._released + 1:
            self._segments.pop(0).path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Flushes and closes."""
        await self.flushed()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _bytes_at(self, place: _OnDisk) -> bytes:
        with place.segment.path.open("rb") as file:
            file.seek(place.offset)
            return file.read(place.size)

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        scan = scan_records(data)
        if scan.whole_bytes < len(data):
            os.truncate(path, scan.whole_bytes)
        if scan.damaged:
            self._on_trouble(ValueError(f"{path}: {scan.damaged} damaged records"))
        segment = _Segment(path, int(path.stem), scan.whole_bytes)
        self._segments.append(segment)
        for place in scan.places:
            self._places[place.seq] = _OnDisk(segment, place.offset, place.length)
            self._last = max(self._last, place.seq)
        self._last = max(self._last, segment.first - 1)

    async def _flush(self) -> None:
        try:
            while self._pending.lines:
                batch, size = self._pending.lines, self._pending.size
                self._pending.lines = []
                try:
                    await asyncio.to_thread(self._write, batch)
                except OSError as error:
                    self._broken = True
                    self._on_trouble(error)
                    for seq, line in batch:
                        self._places[seq] = _InMemory(line[PREFIX_BYTES:-1])
                self._pending.size -= size
                self._durable = max(self._durable, batch[-1][0])
                self._changed.set()
        finally:
            self._flushing = None

    def _write(self, batch: Sequence[tuple[int, bytes]]) -> None:
        segment, handle = self._current(batch[0][0])
        # After a failed write the file may end in half a line; an empty line is the seam.
        seam = b"\n" if self._broken else b""
        if self._broken:
            segment.size = os.fstat(handle).st_size
        data = seam + b"".join(line for _, line in batch)
        written = os.write(handle, data)
        if written != len(data):
            raise OSError(f"only {written} of {len(data)} bytes were written")
        os.fdatasync(handle)
        self._broken = False
        offset = segment.size + len(seam)
        for seq, line in batch:
            self._places[seq] = _OnDisk(segment, offset + PREFIX_BYTES, len(line) - PREFIX_BYTES - 1)
            offset += len(line)
        segment.size = offset

    def _current(self, next_seq: int) -> tuple[_Segment, int]:
        """The file that is written to; a full one is followed by a new one."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        if self._segments and self._segments[-1].size < self._segment_bytes:
            if self._handle is None:
                self._handle = os.open(self._segments[-1].path, flags, 0o600)
            return self._segments[-1], self._handle
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        path = self._folder / f"{next_seq:012d}.log"
        self._handle = os.open(path, flags, 0o600)
        segment = _Segment(path, next_seq, os.fstat(self._handle).st_size)
        self._segments.append(segment)
        sync_folder(self._folder)
        return segment, self._handle
