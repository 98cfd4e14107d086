"""Sends the events of one attempt until the server has them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...wire import CallbackAnswer, Limits
from ..api import ApiError, Client, Retry, retrying
from .batch import Cursor, advance, next_batch
from .journal import Journal

# Room for `{"job_id":…,"events":[…]}`.
ENVELOPE_BYTES = 200
CALLBACK = "/api/v1/internal/training/callback"


def tombstone(seq: int, line: str | None) -> dict[str, Any]:
    """Takes the place of an event that cannot be sent, so that its number does not hold up those behind it."""
    return {"seq": seq, "event": "log", "data": {"stream": "stderr", "lines": [] if line is None else [line]}}


class EventSender:
    """Sends in batches, in order. While one batch is under way the next one grows."""

    def __init__(
        self,
        *,
        client: Client,
        job_id: int,
        token: str,
        journal: Journal,
        limits: Limits,
        retry: Retry,
        on_desired: Callable[[str], None],
        on_rejected: Callable[[str], None],
    ) -> None:
        self._client = client
        self._job_id = job_id
        self._token = token
        self._journal = journal
        self._limits = limits
        self._retry = retry
        self._on_desired = on_desired
        # An event is not in the job's data; its owner should know.
        self._on_rejected = on_rejected
        self._cursor = Cursor(journal.released_seq, journal.released_seq)

    @property
    def acked(self) -> int:
        """The server has everything up to here."""
        return self._cursor.acked

    @property
    def pending(self) -> int:
        """Events that the server does not have yet."""
        return self._journal.last_seq - self._cursor.acked

    async def run(self) -> None:
        """Sends for ever; raises what ends the attempt's right to send."""
        while True:
            # Sizes are those before compression: what is within them fits in any case.
            batch = next_batch(
                self._cursor,
                self._journal.durable_seq,
                self._limits.events_per_batch,
                self._limits.body_bytes - ENVELOPE_BYTES,
                self._journal.bytes_of,
            )
            if not batch:
                await self._journal.changed()
                continue
            found = {record["seq"]: record for record in self._journal.read(batch)}
            await self._send([found.get(seq) or tombstone(seq, None) for seq in batch])

    async def _send(self, events: list[dict[str, Any]]) -> None:
        try:
            answer = await retrying(
                lambda: self._client.call(
                    "POST",
                    CALLBACK,
                    CallbackAnswer,
                    token=self._token,
                    json={"job_id": self._job_id, "events": events},
                ),
                self._retry,
            )
        except ApiError as error:
            if error.status not in (400, 413, 422):
                raise
            await self._narrow(events, error)
            return
        names = {event["seq"]: event["event"] for event in events}
        for item in answer.rejected or []:
            name = names.get(item.seq, "")
            self._on_rejected(f"event {item.seq} ({name}) was rejected: {item.message} ({item.code})")
        acked = answer.ack_seq if answer.ack_seq is not None else self._cursor.acked
        self._cursor = advance(self._cursor, [event["seq"] for event in events], acked, answer.missing or [])
        self._journal.release(self._cursor.acked)
        if answer.desired is not None:
            self._on_desired(answer.desired)

    async def _narrow(self, events: list[dict[str, Any]], error: ApiError) -> None:
        """A batch was refused as a whole: finds the event that is the cause and sends the others."""
        if len(events) > 1:
            half = (len(events) + 1) // 2
            await self._send(events[:half])
            await self._send(events[half:])
            return
        [event] = events
        if event["event"] == "log":  # A refused tombstone would go round for ever.
            raise error
        line = f"[runner] event {event['seq']} ({event['event']}) could not be stored: {error}"
        self._on_rejected(line)
        await self._send([tombstone(event["seq"], line)])
