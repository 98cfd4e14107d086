"""The trainer's end of the channel to its agent, and the errors by which a trainer ends.

The agent listens on a Unix socket whose path is in the environment variable `CULTIVAR_CHANNEL`. The environment goes
through torchrun and through Ultralytics' own launcher, so that rank 0 can connect wherever it runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable

from pydantic import ValidationError

from .messages import Message, SaveCheckpoint, Stop, agent_command

CHANNEL_VARIABLE = "CULTIVAR_CHANNEL"
# What a trainer whose agent is gone may still take to save its state.
AGENT_GONE_GRACE_S = 10.0


class TrainerError(Exception):
    """An end of training that has a reason code of the protocol."""

    reason: str = "exit_nonzero"


class InvalidConfig(TrainerError):
    """The job's configuration cannot be trained. `field` is its path, e.g. `advanced_config.scheduler.type`."""

    reason = "invalid_config"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class DatasetUnavailable(TrainerError):
    """Nothing of the dataset can be read."""

    reason = "dataset_unavailable"


class CheckpointCorrupt(TrainerError):
    """The state to resume from is damaged or belongs to another model."""

    reason = "checkpoint_corrupt"


class OutOfMemory(TrainerError):
    """The device or the machine has no memory left for this job."""

    reason = "oom"


class Channel:
    """Sends messages, hears commands. Without a socket it only keeps the two requests, so that a trainer runs by hand.

    `send` may be called from any thread. A lost agent is a request to stop, never an exception amid training.
    """

    def __init__(self, connection: socket.socket | None = None, *, on_agent_gone: Callable[[], None] | None = None):
        self._connection = connection
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._checkpoint = threading.Event()
        self._gone = threading.Event()
        self._closed = False
        self._on_agent_gone = on_agent_gone
        if connection is not None:
            threading.Thread(target=self._listen, name="cultivar-channel", daemon=True).start()

    @classmethod
    def connect(cls, path: str | None = None, *, on_agent_gone: Callable[[], None] | None = None) -> Channel:
        """Connects to `path`, or to the socket named by the environment; a channel to nobody if there is none."""
        path = path if path is not None else os.environ.get(CHANNEL_VARIABLE)
        if not path:
            return cls(None)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        return cls(connection, on_agent_gone=on_agent_gone)

    @property
    def connected(self) -> bool:
        """Whether somebody hears what is sent."""
        return self._connection is not None and not self._gone.is_set()

    @property
    def stop_requested(self) -> bool:
        """Save a checkpoint between two batches and return `user_stop`. True as well when the agent is gone."""
        return self._stop.is_set()

    @property
    def agent_gone(self) -> bool:
        """The agent has closed the channel: what is not quick to save is not worth saving."""
        return self._gone.is_set()

    def request_stop(self) -> None:
        """The same as a stop command; for signal handlers and tests."""
        self._stop.set()

    def take_checkpoint_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        requested = self._checkpoint.is_set()
        self._checkpoint.clear()
        return requested

    def wait_for_stop(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for a request to stop."""
        return self._stop.wait(timeout)

    def send(self, message: Message) -> None:
        """Sends one message; returns when the system has taken it. Does nothing when the agent is gone."""
        if self._connection is None or self._gone.is_set():
            return
        try:
            with self._sending:
                self._connection.sendall(message.line())
        except OSError:
            self._lost()

    def close(self) -> None:
        """Ends the connection; the agent reads what was sent before."""
        self._closed = True
        if self._connection is None:
            return
        with contextlib.suppress(OSError):  # The other side may have been faster.
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _listen(self) -> None:
        assert self._connection is not None
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    self._hear(line)
        except (OSError, ValueError):
            pass
        if not self._closed:
            self._lost()

    def _hear(self, line: bytes) -> None:
        try:
            command = agent_command.validate_json(line)
        except ValidationError:
            return  # A command that this version does not know.
        if isinstance(command, Stop):
            self._stop.set()
        elif isinstance(command, SaveCheckpoint):
            self._checkpoint.set()

    def _lost(self) -> None:
        if self._gone.is_set():
            return
        self._gone.set()
        self._stop.set()
        if self._on_agent_gone is not None:
            self._on_agent_gone()


def end_group_later(grace_s: float = AGENT_GONE_GRACE_S) -> None:
    """Kills this process's group after `grace_s`. For a trainer that leads its own group and whose agent is gone."""

    def end() -> None:
        os.killpg(os.getpgrp(), signal.SIGKILL)

    timer = threading.Timer(grace_s, end)
    timer.daemon = True
    timer.start()
