"""From what a trainer says and how it ends to the events of the protocol (its sections 5 and 11). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..trainer.messages import Epoch, Finished, Started, Validation
from .lease import Ending

# Most images of one event, and how large a page of them may be, so that it travels with others in one batch.
PAGE_IMAGES = 500
PAGE_BYTES = 256 * 1024
# Leaves room for what is added to it; the server keeps 4,000 characters.
MAX_MESSAGE = 3_500

Event = dict[str, Any]
# Why the agent asked the trainer to end: the server wants the job stopped, or this runner goes away.
Intent = Literal["stop", "release"] | None


def events_of(message: Started | Epoch | Validation) -> list[Event]:
    """The events that say what a message says. A validation of many images becomes several."""
    if isinstance(message, Started):
        return [{"event": "started", "data": {"total_epochs": message.total_epochs}}]
    if isinstance(message, Epoch):
        return [{"event": "epoch_complete", "data": message.model_dump(exclude={"type"})}]
    return _validation_events(message.data)


def _validation_events(data: dict[str, Any]) -> list[Event]:
    result = {key: value for key, value in data.items() if key != "images"}
    images = data.get("images") or []
    pages = list(_pages_of(images))
    first = pages[0][1] if pages else []
    events: list[Event] = [{"event": "validation", "data": {**result, "images": first}}]
    for offset, page in pages[1:]:
        events.append(
            {"event": "validation_images", "data": {"epoch": result.get("epoch"), "offset": offset, "images": page}}
        )
    return events


def _pages_of(images: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
    page: list[Any] = []
    offset = size = 0
    for index, image in enumerate(images):
        image_bytes = len(json.dumps(image, separators=(",", ":"))) + 1
        if page and (len(page) == PAGE_IMAGES or size + image_bytes > PAGE_BYTES):
            yield offset, page
            page, offset, size = [], index, 0
        page.append(image)
        size += image_bytes
    if page:
        yield offset, page


@dataclass(frozen=True)
class TrainerEnd:
    """How a trainer's process ended. `finished`: its last message, if it came to that."""

    finished: Finished | None = None
    exit_code: int | None = None
    signal: str | None = None
    stderr_tail: tuple[str, ...] = ()


def ending_of(end: TrainerEnd, intent: Intent) -> Ending:
    """What the job is told about the end of its trainer."""
    finished = end.finished
    message = finished.message if finished else None

    def ending(event: Any, reason: Any, text: str | None) -> Ending:
        return Ending(
            event=event,
            reason=reason,
            message=text[:MAX_MESSAGE] if text else None,
            exit_code=end.exit_code,
            signal=end.signal,
        )

    if intent == "stop":
        return ending("stopped", "user_stop", message)
    if finished is not None and finished.reason == "done":
        return ending("completed", "done", message)
    # Nobody asked the job to stop: its trainer was told to by the system, or by this agent's own end.
    if intent == "release" or (finished is not None and finished.reason == "user_stop"):
        return ending("released", "runner_shutdown", "the runner was shut down")
    if finished is not None:
        return ending("failed", finished.reason, message)
    return ending("failed", "exit_nonzero", "\n".join([_how_it_died(end), *end.stderr_tail]))


def _how_it_died(end: TrainerEnd) -> str:
    if end.signal == "SIGKILL":
        # The kernel does not tell anybody that it was short of memory.
        return "the trainer was killed (SIGKILL); out of memory is the usual cause"
    if end.signal is not None:
        return f"the trainer was ended by {end.signal}"
    if end.exit_code is None:
        return "the trainer could not be started"
    return f"the trainer ended with exit code {end.exit_code} and without a last word"


def last_event(ending: Ending, chunks: dict[str, int], chunks_failed: int, not_stored: Sequence[str]) -> Event:
    """The last event of an attempt."""
    texts = [text for text in (ending.message, *not_stored) if text]
    return {
        "event": ending.event,
        "data": {
            "reason": ending.reason,
            "exit_code": ending.exit_code,
            "signal": ending.signal,
            "message": "\n".join(texts) or None,
            "log_chunks": chunks,
            "chunks_failed": chunks_failed,
        },
    }
