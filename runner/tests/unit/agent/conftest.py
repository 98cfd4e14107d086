from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cultivar_runner.agent.api import Retry
from cultivar_runner.agent.backoff import Backoff
from tests.support.scripted_server import Call, Reply, ScriptedServer


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Call], Reply]], ScriptedServer]]:
    started: list[ScriptedServer] = []

    def start(answer: Callable[[Call], Reply]) -> ScriptedServer:
        started.append(ScriptedServer(answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def hasty() -> Retry:
    """Tries again at once."""
    return Retry(Backoff(0.01, 0.02))
