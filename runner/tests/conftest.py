"""Fixtures for tests against the real Worker; everything else needs none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.runner import RunnerProcess
from tests.support.server import FlowServer, User

# Short times, so that what takes minutes in use takes seconds here.
TIMERS = {
    "heartbeat_s": 0.5,
    "claim_wait_s": 5,
    "offer_s": 8,
    "lease_s": 6,
    "lost_after_s": 60,
    "stop_grace_s": 10,
    "finalize_s": 60,
    "retry_base_s": 0.2,
    "retry_cap_s": 2,
}


@pytest.fixture(scope="session")
def server() -> Iterator[FlowServer]:
    """A server with short times, shared by all tests that leave it as it is."""
    running = FlowServer(TIMERS)
    yield running
    running.close()


@pytest.fixture
def user(server: FlowServer) -> User:
    """The local user of that server."""
    return User(server.url)


@pytest.fixture
def start_runner(tmp_path: Path) -> Iterator[Callable[..., RunnerProcess]]:
    """Starts `cultivar-runner run` with the given arguments; all of them end with the test."""
    started: list[RunnerProcess] = []

    def start(url: str, *arguments: str, name: str = "a", env: dict[str, str] | None = None) -> RunnerProcess:
        runner = RunnerProcess(url, tmp_path / f"runner-{name}", "--name", name, *arguments, env=env)
        started.append(runner)
        return runner

    yield start
    for runner in started:
        runner.close()
