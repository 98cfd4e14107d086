"""What the agent holds of an attempt and keeps beside its outbox, so that a restarted agent can say how it ended.

Persisted: fields may be added as optional ones, never renamed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..wire import Limits, Timers
from .files import read_json

LEASE_FILE = "lease.json"
TRAINER_FILE = "trainer.json"
ENDING_FILE = "ending.json"

EndEvent = Literal["completed", "failed", "stopped", "released"]
EndReason = Literal[
    "done",
    "user_stop",
    "runner_shutdown",
    "runner_lost",
    "invalid_config",
    "dataset_unavailable",
    "checkpoint_corrupt",
    "exit_nonzero",
    "oom",
]
Stored = TypeVar("Stored", bound=BaseModel)


class Lease(BaseModel):
    """The right to report on one attempt."""

    model_config = ConfigDict(frozen=True)

    url: str
    job_id: int
    attempt: int
    job_token: str
    timers: Timers
    limits: Limits


class TrainerMark(BaseModel):
    """The trainer's process, to be ended by a restarted agent if it outlived its own."""

    pid: int
    identity: str | None


class Ending(BaseModel):
    """How the attempt ended, before the counts of its log are known."""

    model_config = ConfigDict(frozen=True)

    event: EndEvent
    reason: EndReason
    message: str | None = None
    exit_code: int | None = None
    signal: str | None = None


def load(path: Path, kind: type[Stored]) -> Stored | None:
    """What was stored in a file, or None when there is nothing that can be read."""
    try:
        return kind.model_validate(read_json(path))
    except ValidationError:
        return None
