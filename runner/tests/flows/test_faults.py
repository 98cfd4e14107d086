"""Bad lines, dead servers, dead runners: nothing that was reported is lost, and nothing is reported twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows.test_agent import create, ended, messages, scripted_runner
from tests.support import scripted_trainer as scripted
from tests.support.proxy import BadLine
from tests.support.runner import SCRIPTED, RunnerProcess, eventually, is_alive
from tests.support.server import FlowServer, User

Start = Callable[..., RunnerProcess]


def behind(line: BadLine, start_runner: Start, *arguments: str, name: str = "a") -> RunnerProcess:
    runner = start_runner(line.url, "--trainer", f"timm={SCRIPTED}", *arguments, name=name)
    runner.says("ready: ")
    return runner


def trainer_pid(runner: RunnerProcess) -> int:
    """Process number of the only trainer of a runner."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [json.loads(path.read_text()) for path in (runner.state_dir / "attempts").glob("*/trainer.json")]
        return len(found) == 1

    assert eventually(look, 40), runner.output
    return int(found[0]["pid"])


def test_a_bad_line_costs_time_and_nothing_else(server: FlowServer, user: User, start_runner: Start) -> None:
    line = BadLine(server.url, share=0.25)
    try:
        runner = behind(line, start_runner, "--once")
        job_id = create(user, epochs=20)
        user.start(job_id)
        job = user.until(job_id, ended, 150)
        assert (job["status"], job["attempt"], job["data_complete"]) == ("completed", 1, True)
        assert [row["epoch"] for row in user.metrics(job_id)] == list(range(1, 21))
        lines = [text for text in messages(user, job_id, "stdout") if text.startswith("line of")]
        assert lines == [f"line of epoch {n}" for n in range(1, 21)]
        assert len(user.checkpoints(job_id)["checkpoints"]) >= 1
        assert runner.ended() == 0
        assert sum(line.faults.values()) >= 20
    finally:
        line.close()


def test_a_job_survives_the_death_of_the_server(user: User, server: FlowServer, start_runner: Start) -> None:
    runner = scripted_runner(start_runner, server)
    job_id = create(user, epochs=60)
    user.start(job_id)
    user.until(job_id, lambda job: job["current_epoch"] >= 3)
    server.kill()
    # The trainer goes on meanwhile: its epochs are in the outbox.
    runner.says("epoch 30", 60)
    server.start()
    job = user.until(job_id, ended, 120)
    assert (job["status"], job["attempt"], job["data_complete"]) == ("completed", 1, True)
    assert [row["epoch"] for row in user.metrics(job_id)] == list(range(1, 61))
    assert "try 2 in" in runner.output


def test_a_killed_runner_takes_its_trainer_along_and_the_next_start_reports_it(
    server: FlowServer, user: User, start_runner: Start
) -> None:
    first = scripted_runner(start_runner, server)
    job_id = create(user, epochs=60)
    user.start(job_id)
    first.says("stored the last checkpoint of epoch", 60)
    pid = trainer_pid(first)
    first.signal(signal.SIGKILL)
    first.ended()
    # It saves its state and leaves by itself, well before the ten seconds after which it would be killed.
    assert eventually(lambda: not is_alive(pid), 30)
    second = scripted_runner(start_runner, server)
    second.says(r"leftover \S+: reported: failed \(runner_lost\)", 60)
    job = user.until(job_id, ended, 120)
    assert (job["status"], job["attempt"]) == ("completed", 2)
    assert [row["epoch"] for row in user.metrics(job_id)] == list(range(1, 61))
    begins = [line for line in messages(user, job_id, "stdout") if line.startswith("begins after epoch")]
    # What the first one said in its last second may have died with its agent.
    assert begins[-1] != "begins after epoch 0, sees GPUs None"
    assert len(list((second.state_dir / "attempts").iterdir())) == 0


def test_a_killed_heartbeat_is_replaced(server: FlowServer, user: User, start_runner: Start) -> None:
    runner = scripted_runner(start_runner, server)
    job_id = create(user, epochs=60)
    user.start(job_id)
    runner.says("epoch 2,", 60)
    beats = [
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and is_child(int(entry), runner.pid) and b"agent.heartbeat" in command_of(int(entry))
    ]
    assert len(beats) == 1
    os.kill(beats[0], signal.SIGKILL)
    runner.says("heartbeat: the heartbeat's process ended")
    assert user.until(job_id, ended, 60)["attempt"] == 1


def is_child(pid: int, parent: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[1]) == parent
    except OSError:
        return False


def command_of(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_a_job_that_was_taken_away_meanwhile_is_killed(server: FlowServer, user: User, start_runner: Start) -> None:
    line = BadLine(server.url)
    try:
        runner = behind(line, start_runner)
        job_id = create(user, epochs=1_000, seed=scripted.HAS_CHILDREN)
        user.start(job_id)
        user.until(job_id, lambda job: job["current_epoch"] >= 2)
        pid = trainer_pid(runner)
        line.is_cut = True
        user.stop(job_id)
        # Two leases without a call: fenced off.
        user.until(job_id, ended, 60)
        assert is_alive(pid)
        epochs = len(user.metrics(job_id))
        line.is_cut = False
        runner.says("given up", 60)
        assert eventually(lambda: not is_alive(pid))
        assert len(user.metrics(job_id)) == epochs
        assert eventually(lambda: list((runner.state_dir / "attempts").iterdir()) == [])
    finally:
        line.close()


def test_a_quit_ends_at_once_and_the_job_is_queued_again(server: FlowServer, user: User, start_runner: Start) -> None:
    runner = scripted_runner(start_runner, server)
    job_id = create(user, epochs=1_000)
    user.start(job_id)
    user.until(job_id, lambda job: job["current_epoch"] >= 2)
    pid = trainer_pid(runner)
    started = time.monotonic()
    runner.signal(signal.SIGQUIT)
    assert runner.ended() == 0
    assert time.monotonic() - started < 20
    assert not is_alive(pid)
    # Whatever could not be said in the hurry is said at the next start.
    second = scripted_runner(start_runner, server)
    user.until(job_id, lambda job: job["attempt"] == 2, 60)
    user.stop(job_id)
    user.until(job_id, ended)
    assert re.search("stopped", second.output)


def test_two_processes_with_one_token_do_not_work_at_once(server: FlowServer, user: User, start_runner: Start) -> None:
    first = scripted_runner(start_runner, server)
    other = first.state_dir.parent / "runner-b"
    other.mkdir()
    for name in ("credentials.json", "machine.json"):
        (other / name).write_text((first.state_dir / name).read_text())
    second = start_runner(server.url, "--trainer", f"timm={SCRIPTED}", name="b")
    second.says("the server still sees another process of this runner", 60)
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    second.says("ready: ", 60)


def test_a_full_disk_under_the_outbox_costs_no_report(
    server: FlowServer, user: User, start_runner: Start, tmp_path: Path
) -> None:
    """The state folder is a file system of 2 MB, half of it data, where the system allows to mount one."""
    small = tmp_path / "runner-small"
    small.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2000k", "tmpfs", str(small)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("may not mount")
    try:
        cache = str(tmp_path / "cache")
        # Data that have to be fetched are refused on a disk without room; these are here already.
        first = scripted_runner(start_runner, server, "--once", "--cache-dir", cache)
        warm = create(user, epochs=1)
        user.start(warm)
        user.until(warm, ended)
        assert first.ended() == 0
        runner = scripted_runner(start_runner, server, "--once", "--cache-dir", cache, name="small")
        job_id = create(user, epochs=4, seed=scripted.TALKS)
        user.start(job_id)
        job = user.until(job_id, ended)
        assert (job["status"], job["data_complete"]) == ("completed", True)
        assert [row["epoch"] for row in user.metrics(job_id)] == [1, 2, 3, 4]
        lines = [text for text in messages(user, job_id, "stdout") if text.startswith("epoch 4 line")]
        assert len(lines) > 4_000
        assert runner.ended() == 0
        assert "No space left on device" in runner.output
    finally:
        for _ in range(20):
            if subprocess.run(["umount", str(small)], capture_output=True).returncode == 0:
                break
            time.sleep(0.2)
