"""One output stream of an attempt: cut into chunks, kept on disk, sent in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ...wire import Limits, LogChunkAnswer
from ..api import ApiError, Client, Retry, retrying
from ..log_chunker import LogChunker
from ..mask import Mask
from .journal import Journal

LogStream = Literal["stdout", "stderr"]
LOG_STREAMS: tuple[LogStream, ...] = ("stdout", "stderr")

FLUSH_S = 1.0
# A trainer that writes faster than the disk waits when this much is on its way there.
MAX_BACKLOG_BYTES = 4 * 1024 * 1024
# Last lines that explain a failure.
TAIL_LINES = 20
TAIL_LINE_LENGTH = 500


class LogShipper:
    """Opens what an earlier agent left of this stream in the folder of the attempt."""

    def __init__(
        self,
        folder: Path,
        *,
        stream: LogStream,
        client: Client,
        job_id: int,
        token: str,
        limits: Limits,
        mask: Mask,
        retry: Retry,
        on_trouble: Callable[[BaseException], None],
    ) -> None:
        self._stream = stream
        self._client = client
        self._path = f"/api/v1/internal/jobs/{job_id}/logs/{stream}"
        self._token = token
        self._quota_bytes = limits.job_log_bytes
        self._retry = retry
        self._on_trouble = on_trouble
        self._journal = Journal(folder / f"log-{stream}", on_trouble)
        self._chunker = LogChunker(limits.log_chunk_bytes, mask)
        self._kept_bytes = 0
        self._failed = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._ended = False

    @property
    def chunks(self) -> int:
        """Chunks so far; the last event announces them."""
        return self._journal.last_seq

    @property
    def failed(self) -> int:
        """Chunks that the server will not have."""
        return self._failed

    @property
    def pending(self) -> int:
        """Chunks that the server does not have yet."""
        return self._journal.last_seq - self._journal.released_seq

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, for an error message."""
        return tuple(self._tail)

    async def write(self, data: bytes) -> None:
        """Takes raw output. Returns when more may come."""
        self._keep(self._chunker.push(data))
        if self._journal.backlog_bytes > MAX_BACKLOG_BYTES:
            await self._journal.flushed()

    def note(self, line: str) -> None:
        """Adds a line of the agent's own."""
        if not self._ended:
            self._keep(self._chunker.insert(line))

    async def end(self) -> None:
        """The stream is over: its last, unfinished line is part of it. Returns when all of it is on disk."""
        if self._ended:
            return
        self._ended = True
        self._keep(self._chunker.end())
        await self._journal.flushed()

    async def run(self) -> None:
        """Flushes once a second and sends, for ever; raises what ends the right to send."""
        ticking = asyncio.create_task(self._tick())
        try:
            while True:
                seq = self._journal.released_seq + 1
                if seq <= self._journal.durable_seq:
                    await self._send(seq)
                else:
                    await self._journal.changed()
        finally:
            ticking.cancel()

    async def close(self) -> None:
        """Closes the file."""
        await self._journal.close()

    async def _tick(self) -> None:
        while not self._ended:
            await asyncio.sleep(FLUSH_S)
            chunk = self._chunker.flush()
            if chunk is not None:
                self._keep([chunk])

    def _keep(self, chunks: list[str]) -> None:
        for text in chunks:
            lines = [line[:TAIL_LINE_LENGTH] for line in text.split("\n")[-TAIL_LINES - 1 :] if line.strip()]
            self._tail.extend(lines)
            # Over the quota the server stores nothing more; the chunk that passes it lets the server say so.
            if self._kept_bytes > self._quota_bytes:
                continue
            self._kept_bytes += len(text.encode("utf-8", "replace"))
            self._journal.append({"text": text})

    async def _send(self, seq: int) -> None:
        records = self._journal.read([seq])
        if not records:
            self._failed += 1
        else:
            content = records[0]["text"].encode("utf-8", "replace")
            try:
                await retrying(
                    lambda: self._client.call(
                        "PUT",
                        f"{self._path}/{seq}",
                        LogChunkAnswer,
                        token=self._token,
                        content=content,
                        content_type="text/plain; charset=utf-8",
                    ),
                    self._retry,
                )
            except ApiError as error:
                if error.code != "LOG_CONFLICT" and error.status not in (400, 413, 422):
                    raise
                self._failed += 1
                self._on_trouble(error)
        self._journal.release(seq)
