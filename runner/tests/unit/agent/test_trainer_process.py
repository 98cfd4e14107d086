from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from cultivar_runner.agent.trainer_process import TrainerExit, TrainerProcess, identity_of
from cultivar_runner.trainer.messages import Stop, TrainerMessage
from tests.support.runner import RUNNER_ROOT, eventually, is_alive

CONNECT = """
import os, sys, time
from cultivar_runner.trainer.channel import Channel
from cultivar_runner.trainer.messages import Epoch, Finished, Started
channel = Channel.connect()
"""


class Heard:
    def __init__(self) -> None:
        self.messages: list[TrainerMessage] = []
        self.output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.noise: list[str] = []
        self.pid = 0

    async def take(self, stream: str, data: bytes) -> None:
        self.output[stream] += data


def run(argv: list[str], cwd: Path, *, stop_early: bool = False) -> tuple[TrainerExit, Heard]:
    heard = Heard()

    async def work() -> TrainerExit:
        process = TrainerProcess(
            argv,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(RUNNER_ROOT)},
            on_message=heard.messages.append,
            on_output=heard.take,
            on_noise=heard.noise.append,
        )

        def started(pid: int) -> None:
            heard.pid = pid
            if stop_early:
                process.send(Stop())

        async with asyncio.timeout(60):
            return await process.run(started)

    return asyncio.run(work()), heard


def python(source: str) -> list[str]:
    return [sys.executable, "-c", CONNECT + source]


def test_everything_that_was_said_before_the_end_is_heard(tmp_path: Path) -> None:
    source = """
for n in range(2000):
    channel.send(Epoch(epoch=n + 1))
print("out"); print("err", file=sys.stderr)
channel.send(Finished(reason="done"))
"""
    end, heard = run(python(source), tmp_path)
    assert (end.exit_code, end.signal) == (0, None)
    assert len(heard.messages) == 2001
    assert heard.messages[-1].type == "finished"
    assert heard.output == {"stdout": b"out\n", "stderr": b"err\n"}


def test_a_stop_that_came_before_the_trainer_listened_is_not_lost(tmp_path: Path) -> None:
    end, _ = run(python("sys.exit(7 if channel.wait_for_stop(30) else 1)"), tmp_path, stop_early=True)
    assert end.exit_code == 7


def test_a_process_that_it_started_may_speak_too(tmp_path: Path) -> None:
    inner = CONNECT + "channel.send(Started(total_epochs=2))"
    source = (
        f"import subprocess; subprocess.run([sys.executable, '-c', {inner!r}]); channel.send(Finished(reason='done'))"
    )
    _, heard = run(python(source), tmp_path)
    assert sorted(message.type for message in heard.messages) == ["finished", "started"]


def test_what_is_left_of_its_group_dies_with_it_and_holds_nobody_up(tmp_path: Path) -> None:
    started = time.monotonic()
    end, heard = run(["sh", "-c", "sleep 300 & echo $!; exit 3"], tmp_path)
    assert end.exit_code == 3
    assert time.monotonic() - started < 30
    assert eventually(lambda: not is_alive(int(heard.output["stdout"])))


def test_a_process_that_left_its_group_does_not_hold_the_job_up(tmp_path: Path) -> None:
    source = "import subprocess; subprocess.Popen(['sleep', '20'], start_new_session=True); print('bye', flush=True)"
    started = time.monotonic()
    end, heard = run([sys.executable, "-c", source], tmp_path)
    assert (end.exit_code, heard.output["stdout"]) == (0, b"bye\n")
    assert time.monotonic() - started < 15


def test_a_message_that_nobody_knows_is_said_to_be_one(tmp_path: Path) -> None:
    source = (
        "channel._connection.sendall(b'{\"type\": \"dance\"}\\nnonsense\\n'); channel.send(Finished(reason='done'))"
    )
    _, heard = run(python(source), tmp_path)
    assert [message.type for message in heard.messages] == ["finished"]
    assert len(heard.noise) == 2 and "dance" in heard.noise[0]


def test_a_signal_and_a_program_that_is_not_there(tmp_path: Path) -> None:
    end, _ = run(["sh", "-c", "kill -TERM $$"], tmp_path)
    assert (end.exit_code, end.signal) == (None, "SIGTERM")
    end, heard = run([str(tmp_path / "nothing")], tmp_path)
    assert (end.exit_code, end.signal) == (None, None)
    assert "could not be started" in heard.noise[0]


def test_a_process_is_told_from_a_later_one_of_its_number(tmp_path: Path) -> None:
    _, heard = run(["true"], tmp_path)
    assert identity_of(os.getpid()) == identity_of(os.getpid()) != identity_of(1)
    assert identity_of(heard.pid) is None


def test_a_trainer_that_lost_its_agent_saves_and_goes(tmp_path: Path) -> None:
    """The agent's side is closed under a trainer that works."""
    source = """
while not channel.stop_requested:
    time.sleep(0.05)
open("saved", "w").write(str(channel.agent_gone))
"""

    async def work() -> Any:
        heard = Heard()
        process = TrainerProcess(
            python(source),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(RUNNER_ROOT)},
            on_message=heard.messages.append,
            on_output=heard.take,
            on_noise=heard.noise.append,
        )
        running = asyncio.create_task(process.run(lambda pid: None))
        async with asyncio.timeout(60):
            while not process._connections:
                await asyncio.sleep(0.05)
            for writer in process._connections:
                writer.close()
            return await running

    assert asyncio.run(work()).exit_code == 0
    assert (tmp_path / "saved").read_text() == "True"
