"""Fetches one file of known size and hash, going on where an earlier try stopped."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..api import Client, Retry, TransportError, retrying
from ..files import hash_file, read_json, write_atomically
from .plan import Segment, segments_of

# A file that arrives with another hash is fetched anew this often: a cut partial file or a line that changes bytes.
MAX_FETCHES = 3
IDLE_S = 60.0
# Small files arrive in one piece; their writing is left to the system.
SYNC_FROM_BYTES = 1024 * 1024
# A file of this size is fetched over several connections: one alone seldom fills a long line.
SEGMENTED_FROM_BYTES = 64 * 1024 * 1024
SEGMENTS = 4
# How much of a segment may have to be fetched again after a crash.
NOTE_EVERY_BYTES = 16 * 1024 * 1024


class HashMismatch(Exception):
    """The bytes that the server has are not those that it announced."""


@dataclass(frozen=True)
class Download:
    """A file at the server, and where it goes."""

    client: Client
    path: str
    token: str
    target: Path
    size: int
    sha256: str
    retry: Retry
    segmented_from_bytes: int = SEGMENTED_FROM_BYTES

    @property
    def partial(self) -> Path:
        """What has arrived so far."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def progress(self) -> Path:
        """How far each segment of a large file is."""
        return self.target.with_name(f"{self.target.name}.part.json")


async def download(request: Download) -> int:
    """Fetches to `target`; it is there complete or not at all. Returns the bytes that came over the network.

    Raises HashMismatch, OSError of this disk, and what `retrying` raises.
    """
    traffic = _Traffic()
    for fetch in range(1, MAX_FETCHES + 1):
        found: str | None = None
        if request.size >= request.segmented_from_bytes:
            await _fetch_segments(request, traffic)
        else:
            found = await _fetch_whole(request, traffic)
        if found is None:
            found, _ = await asyncio.to_thread(hash_file, request.partial)
        if found == request.sha256:
            break
        _forget(request)
        if fetch == MAX_FETCHES:
            raise HashMismatch(f"{request.path} has the hash {found}, not {request.sha256}")
    request.partial.replace(request.target)
    request.progress.unlink(missing_ok=True)
    return traffic.size_bytes


@dataclass
class _Traffic:
    """What came over the network, tries that broke off included."""

    size_bytes: int = 0


def _forget(request: Download) -> None:
    request.partial.unlink(missing_ok=True)
    request.progress.unlink(missing_ok=True)


async def _fetch_whole(request: Download, traffic: _Traffic) -> str | None:
    """One stream, with as many requests as it takes; the hash where all of it came in one."""
    return await retrying(lambda: _fetch_rest(request, traffic), request.retry)


async def _fetch_rest(request: Download, traffic: _Traffic) -> str | None:
    """One request for what is missing; the hash where all of it passed through here. Fails unless it is complete."""
    have = request.partial.stat().st_size if request.partial.exists() else 0
    if have > request.size:
        _forget(request)
        have = 0
    if have == request.size and request.size > 0:
        return None
    headers = {"range": f"bytes={have}-", "if-range": f'"{request.sha256}"'} if have else {}
    async with request.client.stream(request.path, token=request.token, headers=headers, idle_s=IDLE_S) as response:
        if response.status_code != 206:
            have = 0
        digest = hashlib.sha256()
        received = 0
        with request.partial.open("ab" if have else "wb") as file:
            async for data in response.aiter_raw():
                received += len(data)
                traffic.size_bytes += len(data)
                if have + received > request.size:
                    raise TransportError(f"{request.path}: more than {request.size} bytes")
                digest.update(data)
                file.write(data)
            file.flush()
            if request.size >= SYNC_FROM_BYTES:
                await asyncio.to_thread(os.fdatasync, file.fileno())
    if have + received < request.size:
        raise TransportError(f"{request.path}: cut after {have + received} of {request.size} bytes")
    return digest.hexdigest() if have == 0 else None


async def _fetch_segments(request: Download, traffic: _Traffic) -> None:
    """Several ranges at once, each with its own tries."""
    segments = _known_segments(request)
    handle = os.open(request.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    noting = asyncio.Lock()

    async def note(index: int, done: int) -> None:
        async with noting:
            # First the bytes, then the word that they are there.
            await asyncio.to_thread(os.fdatasync, handle)
            segments[index] = replace(segments[index], done=done)
            text = json.dumps({"sha256": request.sha256, "done": [segment.done for segment in segments]})
            await asyncio.to_thread(write_atomically, request.progress, text)

    async def fetch(index: int) -> None:
        await retrying(
            lambda: _fetch_segment(request, handle, segments[index], lambda done: note(index, done), traffic),
            request.retry,
        )

    try:
        os.ftruncate(handle, request.size)
        async with asyncio.TaskGroup() as group:
            for index in range(len(segments)):
                group.create_task(fetch(index))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        os.close(handle)


async def _fetch_segment(
    request: Download, handle: int, segment: Segment, note: Callable[[int], Awaitable[None]], traffic: _Traffic
) -> None:
    at = segment.start + segment.done
    if at == segment.end:
        return
    headers = {"range": f"bytes={at}-{segment.end - 1}", "if-range": f'"{request.sha256}"'}
    begun = noted = at
    try:
        async with request.client.stream(request.path, token=request.token, headers=headers, idle_s=IDLE_S) as response:
            if response.status_code != 206:
                raise TransportError(f"{request.path}: ranges are not served")
            async for data in response.aiter_raw():
                if at + len(data) > segment.end:
                    raise TransportError(f"{request.path}: more than was asked for")
                os.pwrite(handle, data, at)
                at += len(data)
                traffic.size_bytes += len(data)
                if at - noted >= NOTE_EVERY_BYTES:
                    await note(at - segment.start)
                    noted = at
    finally:
        if at > noted:
            await note(at - segment.start)
    if at < segment.end:
        raise TransportError(f"{request.path}: cut after {at - begun} of {segment.end - begun} bytes")


def _known_segments(request: Download) -> list[Segment]:
    fresh = segments_of(request.size, SEGMENTS)
    known = read_json(request.progress)
    there = request.partial.exists() and request.partial.stat().st_size == request.size
    if not there or not isinstance(known, dict) or known.get("sha256") != request.sha256:
        return fresh
    done = known.get("done")
    if not isinstance(done, list) or len(done) != len(fresh):
        return fresh
    return [
        replace(segment, done=count if isinstance(count, int) and 0 <= count <= segment.end - segment.start else 0)
        for segment, count in zip(fresh, done, strict=True)
    ]
