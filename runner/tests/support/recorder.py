"""A channel for tests of trainers: it keeps what is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cultivar_runner.trainer.channel import Channel
from cultivar_runner.trainer.messages import Checkpoint, Epoch, Message, TrainerJob, Validation, trainer_message

JobMaker = Callable[..., TrainerJob]
CLASSES = ("dark", "light", "striped")


class Recorder(Channel):
    """A channel that keeps what is sent, and asks for a stop or a checkpoint when it is told to."""

    def __init__(self) -> None:
        super().__init__(None)
        self.sent: list[Message] = []
        self.at: dict[str, Callable[[Recorder], None]] = {}
        self.polls = 0

    @property
    def stop_requested(self) -> bool:
        self.polls += 1
        if (ask := self.at.pop(f"poll {self.polls}", None)) is not None:
            ask(self)
        return super().stop_requested

    def send(self, message: Message) -> None:
        # As it would be read at the other end.
        self.sent.append(trainer_message.validate_json(message.line()))

    def request_checkpoint(self) -> None:
        self._checkpoint.set()

    @property
    def epochs(self) -> list[Epoch]:
        return [message for message in self.sent if isinstance(message, Epoch)]

    @property
    def validations(self) -> list[dict[str, Any]]:
        return [message.data for message in self.sent if isinstance(message, Validation)]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [message for message in self.sent if isinstance(message, Checkpoint)]

    def summary(self) -> list[str]:
        """What was sent, in order: `epoch 1`, `best 1` …"""
        return [
            f"{m.role} {m.epoch}"
            if isinstance(m, Checkpoint)
            else f"{m.type} {m.epoch}"
            if isinstance(m, Epoch)
            else "…"
            for m in self.sent
            if isinstance(m, Checkpoint | Epoch)
        ]

    @property
    def state(self) -> Path:
        """The newest resumable state."""
        return next(f.path for c in reversed(self.checkpoints) for f in c.files if f.kind == "checkpoint")
