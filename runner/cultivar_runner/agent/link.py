"""Everything between one attempt and the server: the outbox of events and log chunks, uploads, and the heartbeat."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..trainer.messages import Checkpoint
from ..wire import HeartbeatAnswer
from .api import ApiError, Client, Retry, ends_the_attempt, retrying, seldom
from .backoff import Backoff
from .files import error_text
from .heartbeat import Heartbeat, Order
from .lease import Ending, Lease
from .mask import create_mask
from .outbox.event_sender import EventSender
from .outbox.journal import Journal
from .outbox.log_shipper import LOG_STREAMS, LogShipper, LogStream
from .report import Event, last_event
from .uploads import Uploads

# How often a wait looks whether what it waits for has happened.
POLL_S = 0.05
# After an error of this machine, not of a call (a disk that cannot be read), a sender begins again.
RESTART_S = 2.0
# The same trouble is said again after so long.
REPEAT_S = 60.0


class LeaseLost(Exception):
    """The server takes nothing more of the attempt."""


class Gone:
    """Set once, with the reason, when nothing more can be reported."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason: BaseException | None = None

    def set(self, reason: BaseException) -> None:
        """The first reason counts."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Until it happens."""
        await self._event.wait()


@dataclass(frozen=True)
class FinishLimits:
    """How long each step of the end may take, in seconds."""

    uploads_s: float
    logs_s: float
    last_event_s: float


class Link:
    """Opens what an earlier agent left in the folder. `gone` is set when the server takes nothing more."""

    def __init__(
        self,
        *,
        client: Client,
        lease: Lease,
        folder: Path,
        secrets: tuple[str, ...],
        log: Callable[[str], None],
        on_stop: Callable[[float], None] = lambda grace_s: None,
        on_checkpoint: Callable[[], None] = lambda: None,
        progress: Callable[[], dict[str, Any]] = lambda: {"stage": "finishing"},
    ) -> None:
        """on_stop: the server wants the trainer to end within so many seconds; on_checkpoint: to save and go on."""
        self.gone = Gone()
        self._client = client
        self._lease = lease
        self._log = log
        self._on_stop = on_stop
        self._on_checkpoint = on_checkpoint
        self._progress = progress
        self._desired = "run"
        self._last_seq: int | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._said, self._said_at = "", 0.0
        self._announced_seq = 0
        timers, limits = lease.timers, lease.limits
        self.retry = Retry(Backoff(timers.retry_base_s, timers.retry_cap_s), on_retry=seldom(log))
        mask = create_mask([lease.job_token, *secrets])
        self._journal = Journal(folder / "events", self._trouble)

        def open_log(stream: LogStream) -> LogShipper:
            return LogShipper(
                folder,
                stream=stream,
                client=client,
                job_id=lease.job_id,
                token=lease.job_token,
                limits=limits,
                mask=mask,
                retry=self.retry,
                on_trouble=self._trouble,
            )

        self._logs = {stream: open_log(stream) for stream in LOG_STREAMS}
        self._uploads = Uploads(
            folder,
            client=client,
            job_id=lease.job_id,
            token=lease.job_token,
            retry=self.retry,
            on_stored=self._stored,
            note=lambda line: self.note("stderr", line),
            reported=self._reported,
        )
        self._events = EventSender(
            client=client,
            job_id=lease.job_id,
            token=lease.job_token,
            journal=self._journal,
            limits=limits,
            retry=self.retry,
            on_desired=self._heard,
            on_rejected=self._rejected,
        )
        self.heartbeat = Heartbeat(
            Order(url=lease.url, job_id=lease.job_id, token=lease.job_token, timers=timers),
            report=lambda: {"outbox": self.outbox, "progress": self._progress()},
            on_answer=lambda answer: self._heard(answer.desired, answer.grace_s),
            on_trouble=lambda text: None,
        )

    @property
    def outbox(self) -> int:
        """What the server does not have yet."""
        return self._events.pending + self._uploads.pending + sum(log.pending for log in self._logs.values())

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The trainer's last lines on stderr."""
        return self._logs["stderr"].tail

    def start(self) -> None:
        """Begins to send."""
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "heartbeat": self.heartbeat.run,
            "events": self._events.run,
            "stdout": self._logs["stdout"].run,
            "stderr": self._logs["stderr"].run,
            "uploads": self._uploads.run,
        }
        self._loops = [asyncio.create_task(self._supervise(name, loop), name=name) for name, loop in loops.items()]

    async def greet(self) -> None:
        """One heartbeat before anything else, for an agent that comes back: learns how far the server is."""
        lease = self._lease
        answer = await retrying(
            lambda: self._client.call(
                "POST",
                f"/api/v1/internal/jobs/{lease.job_id}/heartbeat",
                HeartbeatAnswer,
                token=lease.job_token,
                json={"outbox": self.outbox},
            ),
            self.retry,
        )
        self._journal.skip_to(answer.ack_seq)

    def emit(self, event: Event) -> int:
        """Takes an event into the outbox; returns its number."""
        return self._journal.append({**event, "emitted_at": datetime.now(UTC).isoformat()})

    async def output(self, stream: LogStream, data: bytes) -> None:
        """Takes raw output of the trainer."""
        await self._logs[stream].write(data)

    def note(self, stream: LogStream, line: str) -> None:
        """A line of the agent's own in the job's log."""
        self._logs[stream].note(f"[runner] {line}")

    async def checkpoint(self, message: Checkpoint) -> None:
        """Takes a checkpoint over."""
        await self._uploads.add(message, self._journal.last_seq)

    async def end_logs(self) -> None:
        """The streams are over."""
        for log in self._logs.values():
            await log.end()

    async def finish(self, ending: Ending, limits: FinishLimits) -> bool:
        """Reports the end: first what is still to be uploaded and sent, then the last event.

        Returns whether the server has the last event.
        """
        uploaded = await self._until(lambda: self._uploads.pending == 0, limits.uploads_s)
        not_stored = self._uploads.failures + ([] if uploaded else ["not all checkpoints were stored in time"])
        await self.end_logs()
        await self._until(lambda: self._logs_sent() and self._events.pending == 0, limits.logs_s)
        if self.gone.is_set():
            return False
        chunks: dict[str, int] = {stream: self._logs[stream].chunks for stream in LOG_STREAMS}
        failed = sum(log.failed for log in self._logs.values())
        seq = self._last_seq = self.emit(last_event(ending, chunks, failed, not_stored))
        await self._until(lambda: self._events.acked >= seq, limits.last_event_s)
        # The server waits for announced chunks, and takes them for a while after the end.
        if self._events.acked >= seq:
            await self._until(self._logs_sent, limits.logs_s)
        # A refusal after the last event was sent: an earlier try of it got through, or nobody waits for it.
        return self._events.acked >= seq or isinstance(self.gone.reason, LeaseLost)

    async def close(self) -> None:
        """Stops sending; what was not sent stays on disk."""
        self.gone.set(RuntimeError("closed"))
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._journal.close()
        for log in self._logs.values():
            await log.close()

    def _heard(self, desired: str, grace_s: float | None = None) -> None:
        """What the server wants, from whichever answer says it. After the last event it is of no interest."""
        if self._last_seq is not None or desired == self._desired:
            return
        self._desired = desired
        if desired == "stop":
            self._on_stop(self._lease.timers.stop_grace_s if grace_s is None else grace_s)
        elif desired == "checkpoint":
            self._on_checkpoint()
        elif desired == "abandon":
            self.gone.set(LeaseLost("the server wants this attempt abandoned"))

    async def _reported(self, seq: int) -> None:
        # The checkpoint before is announced first, too: the server may remove it when the next one is complete.
        await self._until(lambda: self._events.acked >= max(seq, self._announced_seq), math.inf)

    async def _stored(self, artifact_id: str, epoch: int, role: str) -> None:
        data = {"artifact_id": artifact_id, "epoch": epoch, "role": role}
        self._announced_seq = self.emit({"event": "checkpoint", "data": data})
        await self._journal.flushed()
        self._log(f"stored the {role} checkpoint of epoch {epoch}")

    def _rejected(self, line: str) -> None:
        self._log(line)
        self.note("stderr", line)

    def _trouble(self, error: BaseException) -> None:
        # A full disk fails with every write: said once in a while.
        text = error_text(error)
        if text != self._said or time.monotonic() - self._said_at >= REPEAT_S:
            self._said, self._said_at = text, time.monotonic()
            self._log(text)

    async def _supervise(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Keeps a loop going until the end of the link; the server's refusal of the attempt is that end."""
        while not self.gone.is_set():
            try:
                await loop()
            except Exception as error:
                unknown = isinstance(error, ApiError) and error.status == 404 and name == "heartbeat"
                if ends_the_attempt(error) or unknown:
                    self.gone.set(LeaseLost(error_text(error)))
                else:
                    self._log(f"{name}: {error_text(error)}")
                    await asyncio.sleep(RESTART_S)

    def _logs_sent(self) -> bool:
        return all(log.pending == 0 for log in self._logs.values())

    async def _until(self, happened: Callable[[], bool], limit_s: float) -> bool:
        """True when it came to pass; False after the time, or when the link has ended."""
        started = time.monotonic()
        while not happened():
            if self.gone.is_set() or time.monotonic() - started >= limit_s:
                return False
            await asyncio.sleep(POLL_S)
        return True
