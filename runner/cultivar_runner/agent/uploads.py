"""Uploads checkpoints beside the training."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from ..trainer.messages import Checkpoint
from ..wire import ArtifactCreated, ArtifactRequest, ArtifactState
from .api import ApiError, Client, Retry, ends_the_attempt, retrying
from .files import error_text, hash_file, link_or_copy, write_atomically
from .lease import load

# Bytes that arrive with another hash, and uploads that the server has closed, are begun anew this often.
MAX_BEGINNINGS = 3
# A part of 64 MiB over a line of 1 Mbit/s takes nine minutes.
PART_TIMEOUT_S = 20 * 60.0
# Parts on their way at once; each is held in memory.
CONCURRENT_PARTS = 3


class StoredFile(BaseModel):
    """One file of a checkpoint, as it is remembered on disk. Persisted: fields may be added as optional ones."""

    kind: Literal["model", "checkpoint", "file"]
    name: str
    manifest: dict[str, Any] | None = None
    artifact_id: str | None = None
    # The server has it and its announcement is in the outbox.
    stored: bool = False


class Queued(BaseModel):
    """A checkpoint that waits or is on its way."""

    id: int
    role: Literal["best", "last"]
    epoch: int
    files: list[StoredFile]
    # Number of the newest event when the checkpoint was made.
    after_seq: int = 0

    @property
    def names(self) -> set[str]:
        """Names of its files."""
        return {file.name for file in self.files}


class Uploads:
    """One file at a time, in the order in which the checkpoints came.

    Files are taken over by a hard link, so the trainer may delete its own; of the checkpoints that wait, the newest of
    its role and names replaces the others. What waits is on disk and survives a restart.
    """

    def __init__(
        self,
        folder: Path,
        *,
        client: Client,
        job_id: int,
        token: str,
        retry: Retry,
        on_stored: Callable[[str, int, str], Awaitable[None]],
        note: Callable[[str], None],
        reported: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Opens what an earlier agent left.

        on_stored: artifact id, epoch, role; returns when it cannot be lost.
        reported: returns when the server has the events up to a number. A complete checkpoint can be resumed from, and
        the epochs before it are never trained again: were this machine lost with their events, the curve would have a
        hole for good.
        """
        self._folder = folder / "uploads"
        self._client = client
        self._base = f"/api/v1/internal/jobs/{job_id}/artifacts"
        self._token = token
        self._retry = retry
        self._on_stored = on_stored
        self._reported = reported
        self._note = note
        self._queue: list[Queued] = []
        self._current: Queued | None = None
        self._last_id = 0
        self._failures: list[str] = []
        self._wake = asyncio.Event()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._folder.glob("*.json"):
            entry = load(path, Queued)
            if entry is not None:
                self._last_id = max(self._last_id, entry.id)
                self._queue.append(entry)
        self._queue.sort(key=lambda entry: entry.id)

    @property
    def pending(self) -> int:
        """Checkpoints that are not stored yet."""
        return len(self._queue) + (self._current is not None)

    @property
    def failures(self) -> list[str]:
        """Why single files could not be stored."""
        return list(self._failures)

    async def add(self, message: Checkpoint, after_seq: int = 0) -> None:
        """Takes the files of a checkpoint over. One that is gone already has a newer one behind it: it is left out.

        after_seq: number of the newest event; the checkpoint is complete only after it.
        """
        self._last_id += 1
        entry = Queued(id=self._last_id, role=message.role, epoch=message.epoch, files=[], after_seq=after_seq)
        for file in message.files:
            stored = StoredFile(kind=file.kind, name=file.name, manifest=file.manifest)
            try:
                await asyncio.to_thread(link_or_copy, file.path, self._bytes_path(entry, len(entry.files)))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._failed(entry, stored, error)
                continue
            entry.files.append(stored)
        if not entry.files:
            return
        try:
            self._save(entry)
        except OSError as error:
            # Without the note a restart would not find it; for this process it is as good as ever.
            self._note(f"checkpoint of epoch {entry.epoch} is not remembered over a restart: {error_text(error)}")
        replaced = [old for old in self._queue if old.role == entry.role and old.names <= entry.names]
        self._queue = [old for old in self._queue if old not in replaced] + [entry]
        for old in replaced:
            self._forget(old)
        self._wake.set()

    async def run(self) -> None:
        """Uploads what comes, for ever; raises what ends the attempt's right to send."""
        while True:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            entry = self._current = self._queue.pop(0)
            try:
                await self._upload(entry)
            except asyncio.CancelledError:
                self._queue.insert(0, entry)
                raise
            finally:
                self._current = None
            self._forget(entry)

    async def _upload(self, entry: Queued) -> None:
        for index, file in enumerate(entry.files):
            if file.stored:
                continue
            try:
                await self._upload_file(entry, index, file)
            except Exception as error:
                if ends_the_attempt(error):
                    raise
                self._failed(entry, file, error)
                continue
            if file.kind != "file":
                await self._on_stored(file.artifact_id or "", entry.epoch, entry.role)
            file.stored = True
            self._remember(entry)

    async def _upload_file(self, entry: Queued, index: int, file: StoredFile) -> None:
        path = self._bytes_path(entry, index)
        manifest = resolved_manifest(file.manifest, entry.files)
        sha256, size = await asyncio.to_thread(hash_file, path)
        request = ArtifactRequest(
            kind=file.kind,
            name=file.name,
            size=size,
            sha256=sha256,
            epoch=entry.epoch,
            role=None if file.kind == "file" else entry.role,
            manifest=manifest,
        )
        for beginning in range(1, MAX_BEGINNINGS + 1):
            try:
                await self._transfer(entry, file, path, request)
                return
            except ApiError as error:
                again = error.code in ("UPLOAD_CLOSED", "ARTIFACT_NOT_FOUND") or error.field in (
                    "sha256",
                    "x-part-sha256",
                    "parts",
                )
                if not again or beginning == MAX_BEGINNINGS:
                    raise
                file.artifact_id = None

    async def _transfer(self, entry: Queued, file: StoredFile, path: Path, request: ArtifactRequest) -> None:
        """Create, parts, complete; goes on where an earlier try stopped."""
        received: set[int] = set()
        if file.artifact_id is None:
            created = await retrying(
                lambda: self._client.call("POST", self._base, ArtifactCreated, token=self._token, json=request),
                self._retry,
            )
            file.artifact_id = created.artifact_id
            self._remember(entry)
            part_size, parts = created.part_size, created.parts
        else:
            state = await self._state(file.artifact_id)
            if state.state == "complete":
                return
            part_size, parts, received = state.part_size, state.parts, set(state.received)
        own = f"{self._base}/{file.artifact_id}"
        waiting = [n for n in range(parts, 0, -1) if n not in received]

        async def worker(artifact_id: str) -> None:
            while waiting:
                await self._send_part(artifact_id, path, waiting.pop(), part_size)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(CONCURRENT_PARTS, len(waiting))):
                    group.create_task(worker(file.artifact_id))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if self._reported is not None:
            await self._reported(entry.after_seq)
        await retrying(lambda: self._client.send("POST", f"{own}/complete", token=self._token), self._retry)

    async def _send_part(self, artifact_id: str, path: Path, n: int, part_size: int) -> None:
        content = await asyncio.to_thread(read_part, path, (n - 1) * part_size, part_size)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        tries = 0

        async def once() -> None:
            nonlocal tries
            tries += 1
            # A part whose answer was lost need not travel twice.
            if tries > 1:
                state = await self._state(artifact_id)
                if state.state == "complete" or n in state.received:
                    return
            await self._client.send(
                "PUT",
                f"{self._base}/{artifact_id}/parts/{n}",
                token=self._token,
                content=content,
                headers={"x-part-sha256": digest},
                timeout_s=PART_TIMEOUT_S,
            )

        await retrying(once, self._retry)

    async def _state(self, artifact_id: str) -> ArtifactState:
        path = f"{self._base}/{artifact_id}"
        state = await retrying(lambda: self._client.call("GET", path, ArtifactState, token=self._token), self._retry)
        if state.state == "aborted":
            raise ApiError(409, "UPLOAD_CLOSED", "This upload was aborted")
        return state

    def _failed(self, entry: Queued, file: StoredFile, error: BaseException) -> None:
        line = f"{file.name} of epoch {entry.epoch} could not be stored: {error_text(error)}"
        self._failures.append(line)
        self._note(line)

    def _bytes_path(self, entry: Queued, index: int) -> Path:
        return self._folder / f"{entry.id}-{index}.bytes"

    def _save(self, entry: Queued) -> None:
        write_atomically(self._folder / f"{entry.id}.json", entry.model_dump_json())

    def _remember(self, entry: Queued) -> None:
        # A full disk costs a second upload after a restart, not this one.
        with contextlib.suppress(OSError):
            self._save(entry)

    def _forget(self, entry: Queued) -> None:
        (self._folder / f"{entry.id}.json").unlink(missing_ok=True)
        for index in range(len(entry.files)):
            self._bytes_path(entry, index).unlink(missing_ok=True)


def read_part(path: Path, offset: int, size: int) -> bytes:
    """A piece of a file, shorter at its end."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def resolved_manifest(manifest: dict[str, Any] | None, files: list[StoredFile]) -> dict[str, Any] | None:
    """The manifest with the artifacts' ids in place of the names of files that were uploaded before.

    Raises ValueError when such a file is not at the server: a model without its weights is of no use.
    """
    if manifest is None or not manifest.get("external_data"):
        return manifest
    ids = {file.name: file.artifact_id for file in files if file.stored}
    external = []
    for item in manifest["external_data"]:
        if "file" not in item:
            external.append(item)
            continue
        artifact_id = ids.get(item["file"])
        if artifact_id is None:
            raise ValueError(f"its weights ({item['file']}) were not stored")
        external.append({"path": item["path"], "artifact_id": artifact_id})
    return {**manifest, "external_data": external}
