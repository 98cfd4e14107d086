"""A file that only one process holds at a time. The system lets go of it when its process ends, in whatever way."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

POLL_S = 0.1


class Lock:
    """A lock that is held."""

    def __init__(self, handle: int, path: Path) -> None:
        self._handle = handle
        self._path = path

    def release(self, *, remove: bool = False) -> None:
        """Lets go; with `remove` the file goes too, before anybody else can hold it."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._handle)


def try_lock(path: Path) -> Lock | None:
    """Takes the lock, or None when a living process has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        # The file may have been removed by its holder between the two calls: then this lock is of no file.
        try:
            same = os.stat(path).st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            same = False
        if same:
            return Lock(handle, path)
        os.close(handle)


@asynccontextmanager
async def locked_unless(path: Path, done: Callable[[], bool]) -> AsyncIterator[bool]:
    """Holds the lock as soon as it is free: True. False without it when there is nothing left to do."""
    while True:
        if done():
            yield False
            return
        lock = try_lock(path)
        if lock is not None and not done():  # The holder before may have done it just now.
            break
        if lock is not None:
            lock.release(remove=True)
            continue
        await asyncio.sleep(POLL_S)
    try:
        yield True
    finally:
        lock.release(remove=True)
