"""The trainer as a child process that leads its own process group, so that nothing it starts outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from ..trainer.channel import CHANNEL_VARIABLE
from ..trainer.messages import Message, Stop, TrainerMessage, trainer_message
from .outbox.log_shipper import LogStream

# Training gives way to the agent: on a machine with all cores busy the log still goes out in time.
TRAINER_NICENESS = 5
# Output that something the trainer started still holds open is given up after this.
PIPE_PATIENCE_S = 2.0
READ_BYTES = 64 * 1024
# A validation with all its images is one line.
MAX_MESSAGE_BYTES = 1024 * 1024 * 1024


class TrainerExit:
    """How the process ended: an exit code, or the name of a signal."""

    def __init__(self, code: int | None) -> None:
        self.exit_code = code if code is not None and code >= 0 else None
        self.signal = signal.Signals(-code).name if code is not None and code < 0 else None


class TrainerProcess:
    """Starts the process, hears its messages and its output, sends it commands."""

    def __init__(
        self,
        argv: list[str],
        *,
        cwd: Path,
        env: dict[str, str],
        on_message: Callable[[TrainerMessage], None],
        on_output: Callable[[LogStream, bytes], Awaitable[None]],
        on_noise: Callable[[str], None],
    ) -> None:
        self._argv = argv
        self._cwd = cwd
        self._env = env
        self._on_message = on_message
        self._on_output = on_output
        self._on_noise = on_noise
        self._child: subprocess.Popen[bytes] | None = None
        # The address of a Unix socket may have 107 bytes: the attempt's folder may be deeper than that.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="cultivar-"))
        self._connections: set[asyncio.StreamWriter] = set()
        self._listeners: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def pid(self) -> int:
        """Number of the process and of its group; 0 when it could not be started."""
        return 0 if self._child is None else self._child.pid

    async def run(self, on_start: Callable[[int], None]) -> TrainerExit:
        """Returns at the whole end: process gone, output read, messages heard, and its group gone with it."""
        address = str(self._socket_folder / "channel")
        server = await asyncio.start_unix_server(self._connected, address, limit=MAX_MESSAGE_BYTES)
        try:
            try:
                child = self._child = subprocess.Popen(  # noqa: ASYNC220 (waited for in a thread, see `_exit_code`)
                    self._argv,
                    cwd=self._cwd,
                    env={**self._env, CHANNEL_VARIABLE: address},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                self._on_noise(f"the trainer could not be started: {error}")
                return TrainerExit(None)
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PGRP, child.pid, TRAINER_NICENESS)
            on_start(child.pid)
            assert child.stdout is not None and child.stderr is not None
            reading = {
                asyncio.create_task(self._read(child.stdout, "stdout")),
                asyncio.create_task(self._read(child.stderr, "stderr")),
            }
            code = await _exit_code(child)
            self.kill(signal.SIGKILL)
            _, late = await asyncio.wait(reading | self._listeners, timeout=PIPE_PATIENCE_S)
            for task in late:
                task.cancel()
            return TrainerExit(code)
        finally:
            self.kill(signal.SIGKILL)
            server.close()
            for writer in self._connections:
                writer.close()
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def send(self, command: Message) -> None:
        """Sends a command to every process of the trainer that listens. A trainer that has left is about to end."""
        self._stopping = self._stopping or isinstance(command, Stop)
        for writer in self._connections:
            writer.write(command.line())

    def kill(self, number: signal.Signals) -> None:
        """Signals the whole group."""
        if self._child is not None:
            kill_group(self._child.pid, number)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._listeners.add(task)
        self._connections.add(writer)
        if self._stopping:  # It was asked before it could hear.
            writer.write(Stop().line())
        try:
            async for line in reader:
                self._hear(line)
        except (ConnectionError, ValueError) as error:
            self._on_noise(f"the channel to the trainer broke: {error}")
        finally:
            self._connections.discard(writer)
            writer.close()

    def _hear(self, line: bytes) -> None:
        try:
            message = trainer_message.validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            shown = line[:200].decode("utf-8", "replace").strip()
            self._on_noise(f"the trainer sent a message that is not known ({first['msg']}): {shown}")
            return
        self._on_message(message)

    async def _read(self, pipe: IO[bytes], stream: LogStream) -> None:
        reader = asyncio.StreamReader(limit=READ_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while data := await reader.read(READ_BYTES):
                # The trainer waits for a slow disk, not the memory.
                await self._on_output(stream, data)
        finally:
            transport.close()


async def _exit_code(child: subprocess.Popen[bytes]) -> int:
    """Waits in a thread: asyncio's own processes also wait for pipes that a grandchild may hold for ever."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def wait() -> None:
        code = child.wait()
        with contextlib.suppress(RuntimeError):  # The loop may have ended before.
            loop.call_soon_threadsafe(lambda: None if ended.done() else ended.set_result(code))

    threading.Thread(target=wait, name="cultivar-trainer", daemon=True).start()
    return await ended


def kill_group(pid: int, number: signal.Signals) -> None:
    """Signals a process group; one that is gone is fine."""
    if pid > 1:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)


def identity_of(pid: int) -> str | None:
    """What tells a process from a later one with the same number: its start time since boot, and the boot itself.

    None where the system does not say (not Linux) or the process is gone.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The second field is the name in parentheses and may hold anything; the state is field 3, the start time field 22.
    fields = stat[stat.rindex(")") + 2 :].split(" ")
    return None if fields[0] == "Z" else f"{boot}:{fields[19]}"
