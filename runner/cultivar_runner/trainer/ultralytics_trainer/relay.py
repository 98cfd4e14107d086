"""A second channel behind the first: a process that the trainer started speaks to the agent through the trainer."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from ..channel import Channel
from ..messages import Message, SaveCheckpoint, Stop, trainer_message

_POLL_S = 0.2


class Relay:
    """Listens at `path`; messages of the one process that connects go to `channel`, its commands go back."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        # Paths of sockets have to be short; a work folder's may not be.
        self._folder = Path(tempfile.mkdtemp(prefix="cvr-"))
        self.path = str(self._folder / "s")
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(self.path)
        self._server.listen(1)
        self._over = threading.Event()
        self._connection: socket.socket | None = None
        self._accepting = threading.Thread(target=self._accept, name="cultivar-relay", daemon=True)

    def __enter__(self) -> Relay:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was sent before the process ended is still in the socket, perhaps not even accepted: it is read first.
        self._accepting.join(timeout=10 if self._connection is not None else 0.5)
        self._over.set()
        for end in (self._server, self._connection):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._accepting.join(timeout=10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            self._connection, _ = self._server.accept()
            commands = threading.Thread(target=self._command, name="cultivar-relay-commands", daemon=True)
            commands.start()
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    self._channel.send(trainer_message.validate_json(line))
            self._over.set()

    def _command(self) -> None:
        stopped = False
        while not self._over.wait(_POLL_S):
            if self._channel.take_checkpoint_request():
                self._tell(SaveCheckpoint())
            if self._channel.stop_requested and not stopped:
                stopped = True
                self._tell(Stop())

    def _tell(self, command: Message) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.sendall(command.line())
