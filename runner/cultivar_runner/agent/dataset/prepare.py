"""Brings a job's dataset into a folder of its own."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ...wire import DatasetManifest, File
from ..api import ApiError, Client, Retry, TransportError, ends_the_attempt, retrying
from ..files import error_text
from .cache import ContentCache
from .download import HashMismatch
from .plan import distinct_contents, fault_of_manifest

# Small files are bound by the way to the server and back; each of these has its own connection.
CONCURRENT_FILES = 12
# Left free on the disk for checkpoints and logs.
SPARE_BYTES = 256 * 1024 * 1024


class DatasetUnavailable(Exception):
    """The dataset cannot be had; the message says why."""


@dataclass(frozen=True)
class DatasetSummary:
    """What was prepared; bytes count each content once."""

    files: int
    size_bytes: int
    fetched_bytes: int


async def prepare_dataset(
    *,
    client: Client,
    job_id: int,
    token: str,
    cache: ContentCache,
    data_dir: Path,
    retry: Retry,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DatasetSummary:
    """Pages through the manifest, checks every name, fetches what the cache does not have, links files to their names.

    on_progress: contents that are here, and how many there are. Raises DatasetUnavailable, or the server's error when
    it ends the attempt.
    """
    try:
        return await _prepare(client, job_id, token, cache, data_dir, retry, on_progress)
    except (ApiError, TransportError, HashMismatch, OSError) as error:
        if ends_the_attempt(error):
            raise
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DatasetUnavailable(("the disk is full: " if full else "") + error_text(error)) from error


async def _prepare(
    client: Client,
    job_id: int,
    token: str,
    cache: ContentCache,
    data_dir: Path,
    retry: Retry,
    on_progress: Callable[[int, int], None],
) -> DatasetSummary:
    base = f"/api/v1/internal/jobs/{job_id}/dataset"
    files = await _read_manifest(client, base, token, retry)
    fault = fault_of_manifest(files)
    if fault is not None:
        raise DatasetUnavailable(f"the manifest is not safe: {fault}")
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    contents = distinct_contents(files)
    _need_room(data_dir, cache, contents)
    names_of: dict[str, list[str]] = defaultdict(list)
    for file in files:
        names_of[file.sha256].append(file.path)
    folders = _Folders(data_dir)
    queue = list(reversed(contents))
    fetched_bytes = done = 0

    async def worker() -> None:
        nonlocal fetched_bytes, done
        while queue:
            file = queue.pop()
            fetched = await cache.fill(
                sha256=file.sha256,
                size=file.size,
                client=client,
                path=f"{base}/{file.file_id}",
                token=token,
                retry=retry,
            )
            # Not in one statement with the await: others add to it meanwhile.
            fetched_bytes += fetched
            for name in names_of[file.sha256]:
                cache.place(file.sha256, folders.target_of(name))
            done += 1
            on_progress(done, len(contents))

    try:
        # The first failure stops the others: they would go on for nothing.
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENT_FILES, len(contents))):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    if fetched_bytes > 0:
        await cache.trim()
    return DatasetSummary(len(files), sum(file.size for file in contents), fetched_bytes)


async def _read_manifest(client: Client, base: str, token: str, retry: Retry) -> list[File]:
    files: list[File] = []
    cursor: str | None = ""
    while cursor is not None:
        path = f"{base}?cursor={quote(cursor, safe='')}" if cursor else base
        page = await retrying(lambda path=path: client.call("GET", path, DatasetManifest, token=token), retry)  # type: ignore[misc]
        if page.next_cursor is not None and not page.files:
            raise DatasetUnavailable("the manifest does not end")
        files.extend(page.files)
        cursor = page.next_cursor
    return files


def _need_room(data_dir: Path, cache: ContentCache, contents: Sequence[File]) -> None:
    missing = sum(file.size for file in contents if not cache.has(sha256=file.sha256, size=file.size))
    if missing == 0:
        return
    found = os.statvfs(data_dir)
    free = found.f_bavail * found.f_frsize
    if missing + SPARE_BYTES > free:
        raise DatasetUnavailable(f"{missing} bytes have to be fetched and {free} are free on the disk")


class _Folders:
    """Makes the folders of files, each once, and sees that they are where they seem to be."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir.resolve()
        self._made: set[Path] = set()

    def target_of(self, name: str) -> Path:
        target = self._root / name
        folder = target.parent
        if folder not in self._made:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The names were checked; this is about links that somebody else may have put there.
            if not folder.resolve().is_relative_to(self._root):
                raise DatasetUnavailable(f"{name!r} leads out of the dataset's folder")
            self._made.add(folder)
        return target
