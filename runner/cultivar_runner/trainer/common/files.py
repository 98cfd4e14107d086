"""Checkpoints on disk: complete or not there, also after a loss of power, and never written to again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ..messages import Checkpoint, CheckpointFile

Role = Literal["best", "last"]

# Fewer would let a file be deleted while it is still being uploaded.
FEWEST_KEPT = 3


def write_durably(path: Path, write: bytes | Callable[[Path], object]) -> Path:
    """Makes a file beside its place, flushes it to the disk and renames it into place; returns `path`.

    `write` is the content, or a function that writes it to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        if isinstance(write, bytes):
            temporary.write_bytes(write)
        else:
            write(temporary)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return path


def sync(path: Path) -> None:
    """Flushes a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class CheckpointStore:
    """Names checkpoints and deletes old ones, only after a newer one of the role is in place."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = max(keep, FEWEST_KEPT)
        self._saved: dict[Role, list[list[Path]]] = {"best": [], "last": []}

    def stem(self, role: Role, epoch: int, batch: int) -> Path:
        """Path without ending of the files of a checkpoint; `batch` > 0 counts those of the epoch in progress."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / (f"{role}-{epoch:04}" + (f"-{batch:05}" if batch else ""))

    def saved(self, role: Role, epoch: int, files: list[CheckpointFile]) -> Checkpoint:
        """The message about files that are complete."""
        paths = [file.path for file in files]
        # A checkpoint asked for twice at the same place has the same names and content: it stays one entry.
        kept = [older for older in self._saved[role] if older[0] != paths[0]] + [paths]
        for old in kept[: -self._keep]:
            for path in old:
                path.unlink(missing_ok=True)
        self._saved[role] = kept[-self._keep :]
        return Checkpoint(epoch=epoch, role=role, files=files)
