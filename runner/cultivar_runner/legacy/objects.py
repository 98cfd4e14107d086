"""Objects of one job under S3's names: its data set, read only, and what its trainer stores."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

CHUNK_BYTES = 1024 * 1024
MAX_KEY_BYTES = 1024


class ObjectError(Exception):
    """An answer of S3's: `code` is its name for what is wrong, `status` the HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class StoredObject:
    """One object: its key, its file and what S3 says of it."""

    key: str
    path: Path

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size

    @property
    def modified(self) -> float:
        """Seconds since 1970."""
        return self.path.stat().st_mtime

    @property
    def etag(self) -> str:
        """Changes with the content; like that of an object stored in parts it is no MD5."""
        stat = self.path.stat()
        return hashlib.md5(f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest() + "-1"


def checked_key(key: str) -> PurePosixPath:
    """A key that names a file below a folder. Raises ObjectError for everything else."""
    parts = key.split("/")
    if not key or len(key.encode()) > MAX_KEY_BYTES or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise ObjectError(400, "InvalidArgument", "the key does not name a file below its bucket")
    return PurePosixPath(key)


class ObjectStore:
    """Buckets are names of the same store: each trainer has its own for data sets and for checkpoints.

    The data set is `datasets/{id}/…`, and `datasets/{id}.zip` as a whole; neither can be written.
    """

    def __init__(
        self, *, dataset_dir: Path, dataset_id: str, folder: Path, on_upload: Callable[[str, Path], None]
    ) -> None:
        self._dataset_dir = dataset_dir
        self._prefix = f"datasets/{dataset_id}/"
        self._zip_key = f"datasets/{dataset_id}.zip"
        self._stored = folder / "stored"
        self._parts = folder / "parts"
        self._zip = folder / "dataset.zip"
        self._on_upload = on_upload
        self._lock = threading.Lock()
        for path in (self._stored, self._parts):
            path.mkdir(parents=True, exist_ok=True)

    def offer(self, key: str, path: Path) -> None:
        """Makes a file of this machine readable under a key."""
        target = self._stored / checked_key(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)

    def find(self, key: str) -> StoredObject:
        """An object. Raises ObjectError when there is none."""
        checked_key(key)
        if key == self._zip_key:
            return StoredObject(key, self._zipped())
        if key.startswith(self._prefix):
            path = self._dataset_dir / key.removeprefix(self._prefix)
            # One file for all tasks stands for the file of one of them.
            if not path.is_file() and path.name.startswith("annotations_"):
                path = path.with_name("annotations.json")
        else:
            path = self._stored / key
        if not path.is_file():
            raise ObjectError(404, "NoSuchKey", "there is no such object")
        return StoredObject(key, path)

    def walk(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        """Objects whose keys begin with `prefix` and follow `after`, in their order."""
        found = [*self._files_of(self._dataset_dir, self._prefix), *self._files_of(self._stored, "")]
        for key, path in sorted(found):
            if key.startswith(prefix) and key > after:
                yield StoredObject(key, path)

    def put(self, key: str, body: IO[bytes], md5: str | None = None) -> StoredObject:
        """Stores an object; what was there under its key is replaced once all of it is here."""
        target = self._writable(key)
        temporary = self._receive(body, md5)
        return self._publish(key, temporary, target)

    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is deleted already."""
        self._writable(key).unlink(missing_ok=True)

    def begin_upload(self, key: str) -> str:
        """Begins an upload in parts."""
        self._writable(key)
        upload_id = secrets.token_hex(16)
        (self._parts / upload_id).mkdir()
        return upload_id

    def put_part(self, upload_id: str, number: int, body: IO[bytes], md5: str | None = None) -> str:
        """Stores one part and returns its ETag; sent again, it replaces the one before."""
        folder = self._upload(upload_id)
        if not 1 <= number <= 10_000:
            raise ObjectError(400, "InvalidArgument", "part numbers go from 1 to 10000")
        path = folder / f"{number:05}"
        self._receive(body, md5).replace(path)
        return StoredObject(path.name, path).etag

    def complete_upload(self, key: str, upload_id: str, numbers: list[int]) -> StoredObject:
        """Makes one object of the named parts."""
        target = self._writable(key)
        folder = self._upload(upload_id)
        paths = [folder / f"{number:05}" for number in numbers]
        if not paths or numbers != sorted(set(numbers)):
            raise ObjectError(400, "InvalidPartOrder", "the parts have to be named in their order")
        if not all(path.is_file() for path in paths):
            raise ObjectError(400, "InvalidPart", "a part that is named has not arrived")
        temporary = self._temporary()
        with temporary.open("wb") as whole:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole, CHUNK_BYTES)
        stored = self._publish(key, temporary, target)
        shutil.rmtree(folder, ignore_errors=True)
        return stored

    def abort_upload(self, upload_id: str) -> None:
        """Gives an upload up."""
        shutil.rmtree(self._upload(upload_id), ignore_errors=True)

    def _files_of(self, folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
        for path in folder.rglob("*"):
            if path.is_file():
                yield prefix + path.relative_to(folder).as_posix(), path

    def _writable(self, key: str) -> Path:
        if key.startswith(self._prefix) or key == self._zip_key:
            raise ObjectError(403, "AccessDenied", "the data set is not written to")
        return self._stored / checked_key(key)

    def _upload(self, upload_id: str) -> Path:
        folder = self._parts / upload_id
        if not upload_id.isalnum() or not folder.is_dir():
            raise ObjectError(404, "NoSuchUpload", "there is no such upload")
        return folder

    def _temporary(self) -> Path:
        return self._parts / f"{secrets.token_hex(8)}.tmp"

    def _receive(self, body: IO[bytes], md5: str | None) -> Path:
        temporary = self._temporary()
        digest = hashlib.md5()
        try:
            with temporary.open("wb") as file:
                while chunk := body.read(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            if md5 is not None and base64.b64encode(digest.digest()).decode() != md5:
                raise ObjectError(400, "BadDigest", "the bytes that arrived have another MD5")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _publish(self, key: str, temporary: Path, target: Path) -> StoredObject:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            temporary.unlink(missing_ok=True)
            raise ObjectError(409, "InvalidRequest", "the key is a folder of other keys, or below an object") from error
        self._on_upload(key, target)
        return StoredObject(key, target)

    def _zipped(self) -> Path:
        with self._lock:
            if not self._zip.is_file():
                temporary = self._zip.with_suffix(".tmp")
                with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
                    for name, path in sorted(self._files_of(self._dataset_dir, "")):
                        archive.write(path, name)
                temporary.replace(self._zip)
            return self._zip
