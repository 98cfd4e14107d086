"""Small helpers around files. What blocks is short, or runs in a thread of the caller's choice."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1024 * 1024
# Hard links do not go over file systems, and some have none.
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES}


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a small file so that it is the old or the new one at any time, readable by this user only."""
    temporary = path.with_name(f"{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """The value in a JSON file, or None when there is none or it was cut."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 of a file in lower-case hex, and its size in bytes."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file's bytes; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def remove_tree(path: Path) -> None:
    """Deletes a folder with everything in it; what is gone already is fine."""

    def retry(function: Any, name: str, _: Any) -> None:
        # A folder that somebody made read-only.
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            function(name)

    shutil.rmtree(path, onerror=retry)


def error_text(error: BaseException) -> str:
    """What an exception says; its kind where it says nothing."""
    return str(error) or type(error).__name__
