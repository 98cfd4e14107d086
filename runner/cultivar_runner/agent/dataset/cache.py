"""Files by the hash of their content."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

from ..api import Client, Retry
from ..files import hash_file, link_or_copy, remove_tree
from ..lock import locked_unless
from .download import Download, download
from .plan import CacheEntry, to_evict

# Every verified file carries this time of change: one that somebody wrote to afterwards does not. (2000-01-01)
VERIFIED_AT_S = 946_684_800
HASH_NAME = re.compile(r"[0-9a-f]{64}")
# A partial file that nobody has gone on with for so long is given up.
PARTIAL_LIFE_S = 7 * 86_400


class ContentCache:
    """A dataset that was here before, or shares files with another, costs no second download.

    Contents lie below `sha256/ab/…`. Processes that share the folder do not fill the same entry at once.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder / "sha256"
        self._max_bytes = max_bytes
        self._trimming = asyncio.Lock()

    async def fill(self, *, sha256: str, size: int, client: Client, path: str, token: str, retry: Retry) -> int:
        """Makes sure that a content is here; returns the bytes that had to be fetched. Raises as `download`."""
        target = self._path_of(sha256)
        if await self._is_good(target, sha256, size):
            return 0
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = target.with_name(f"{sha256}.lock")
        async with locked_unless(lock, lambda: self._seems_good(target, size)) as ours:
            if not ours:
                return 0
            received = await download(Download(client, path, token, target, size, sha256, retry))
            self._stamp(target)
            return received

    def has(self, *, sha256: str, size: int) -> bool:
        """Whether a file of this name and size is here, good or not."""
        try:
            return self._path_of(sha256).lstat().st_size == size
        except OSError:
            return False

    def place(self, sha256: str, target: Path) -> None:
        """Puts a content that was filled under a name of its own: a link, or a copy where links do not go."""
        link_or_copy(self._path_of(sha256), target)

    async def trim(self) -> None:
        """Deletes what was not used for longest until the rest fits the limit. One clean-up at a time."""
        async with self._trimming:
            await asyncio.to_thread(self._trim)

    def _path_of(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _seems_good(self, path: Path, size: int) -> bool:
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        return found.st_size == size and int(found.st_mtime) == VERIFIED_AT_S and path.is_file()

    async def _is_good(self, path: Path, sha256: str, size: int) -> bool:
        """Whether an entry is there and is what it was; counts as a use. A changed one is read again or goes."""
        if not os.path.lexists(path):
            return False
        if not self._seems_good(path, size):
            same_size = path.is_file() and not path.is_symlink() and path.stat().st_size == size
            if not same_size or (await asyncio.to_thread(hash_file, path))[0] != sha256:
                if path.is_dir() and not path.is_symlink():
                    remove_tree(path)
                else:
                    path.unlink(missing_ok=True)
                return False
        self._stamp(path)
        return True

    def _stamp(self, path: Path) -> None:
        # Linked into the folders of jobs: a trainer that writes to its data would change them for all.
        path.chmod(0o444)
        os.utime(path, (time.time(), VERIFIED_AT_S))

    def _trim(self) -> None:
        entries: list[CacheEntry] = []
        for path in self._folder.glob("??/*"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if HASH_NAME.fullmatch(path.name):
                entries.append(CacheEntry(path, found.st_size, found.st_atime, found.st_nlink > 1))
            elif ".part" in path.name and time.time() - found.st_mtime > PARTIAL_LIFE_S:
                path.unlink(missing_ok=True)
        for entry in to_evict(entries, self._max_bytes):
            entry.path.unlink(missing_ok=True)
