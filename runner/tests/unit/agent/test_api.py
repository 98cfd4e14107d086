from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from cultivar_runner.agent.api import (
    ApiError,
    Client,
    Reachability,
    Retry,
    TransportError,
    ends_the_attempt,
    is_retryable,
    retrying,
)
from cultivar_runner.agent.backoff import Backoff
from tests.support.scripted_server import Call, Reply, ScriptedServer, json_reply, problem

Serve = Callable[[Callable[[Call], Reply]], ScriptedServer]


class Answer(BaseModel):
    value: int


def ask(server: ScriptedServer, retry: Retry | None = None, **options: Any) -> Answer:
    async def work() -> Answer:
        client = Client(server.url)
        try:
            if retry is None:
                return await client.call("POST", "/x", Answer, **options)
            return await retrying(lambda: client.call("POST", "/x", Answer, **options), retry)
        finally:
            await client.close()

    return asyncio.run(work())


def in_turn(*replies: Reply) -> Callable[[Call], Reply]:
    waiting = list(replies)
    return lambda call: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def test_a_token_travels_in_the_header_and_nowhere_else(serve: Serve) -> None:
    server = serve(lambda call: json_reply({"value": 1, "more": 2}))
    assert ask(server, token="cvrun_secret", json={"a": 1}).value == 1
    [call] = server.calls
    assert call.headers["authorization"] == "Bearer cvrun_secret"
    assert "secret" not in call.path
    assert call.json == {"a": 1}


@pytest.mark.parametrize(
    "fault",
    [
        problem(500, "INTERNAL_ERROR"),
        problem(503, "TRAINING_SERVICE_UNAVAILABLE"),
        problem(429, "RATE_LIMITED"),
        Reply(502, b"<html>bad gateway</html>"),
        Reply(200, b"<html>a captive portal</html>"),
        Reply(404, b"<html>some proxy</html>"),
        Reply(302, b"", {"location": "https://login.example"}),
        Reply(drop=True),
        Reply(200, b'{"value": 1}', cut_after=5),
        json_reply({"value": "not a number"}),
    ],
    ids=lambda reply: f"{reply.status}-{reply.body[:12]!r}-{reply.drop}-{reply.cut_after}",
)
def test_what_says_nothing_about_the_job_is_tried_again(serve: Serve, hasty: Retry, fault: Reply) -> None:
    server = serve(in_turn(fault, fault, json_reply({"value": 7})))
    assert ask(server, hasty).value == 7
    assert len(server.calls) >= 3


def test_a_refusal_is_final(serve: Serve, hasty: Retry) -> None:
    server = serve(in_turn(problem(409, "STALE_LEASE"), json_reply({"value": 1})))
    with pytest.raises(ApiError) as caught:
        ask(server, hasty)
    assert ends_the_attempt(caught.value)
    assert len(server.calls) == 1


def test_which_errors_end_what() -> None:
    assert [is_retryable(ApiError(status, "X", "x")) for status in (408, 429, 500, 503, 400, 409, 422)] == [
        *[True] * 4,
        *[False] * 3,
    ]
    assert [ends_the_attempt(ApiError(status, "X", "x")) for status in (401, 403, 404, 409)] == [
        True,
        True,
        False,
        False,
    ]
    assert not ends_the_attempt(TransportError("x"))


def test_retry_after_is_obeyed(serve: Serve, hasty: Retry) -> None:
    server = serve(in_turn(problem(503, "BUSY", **{"retry-after": "1"}), json_reply({"value": 1})))
    started = time.monotonic()
    ask(server, hasty)
    assert time.monotonic() - started >= 1


def test_a_server_that_does_not_answer_is_given_up_in_time(serve: Serve) -> None:
    def slow(call: Call) -> Reply:
        time.sleep(2)
        return json_reply({"value": 1})

    started = time.monotonic()
    with pytest.raises(TransportError, match="no answer in time"):
        ask(serve(slow), timeout_s=0.3)
    assert time.monotonic() - started < 1.5


def test_large_bodies_are_compressed_and_noise_is_not(serve: Serve) -> None:
    server = serve(lambda call: json_reply({"value": 1}))
    ask(server, content=b"text " * 10_000, content_type="text/plain")
    ask(server, content=b"text " * 10_000)
    assert server.calls[0].headers["content-encoding"] == "gzip"
    assert server.calls[0].body == b"text " * 10_000
    assert len(gzip.compress(server.calls[0].body)) >= int(server.calls[0].headers["content-length"]) - 100
    assert "content-encoding" not in server.calls[1].headers


def test_it_gives_up_when_it_was_told_to(serve: Serve, hasty: Retry) -> None:
    server = serve(lambda call: problem(500, "X"))
    with pytest.raises(ApiError):
        ask(server, hasty.within(0.2))
    assert len(server.calls) > 2


def test_who_waits_is_woken_when_the_server_is_back() -> None:
    async def work() -> None:
        reachability = Reachability()
        reachability._worked_at -= 10
        reachability.failed(TransportError("gone"))
        waiting = asyncio.create_task(reachability.sleep(30, TransportError("gone")))
        asked = asyncio.create_task(reachability.sleep(30, TransportError("busy", retry_after_s=30)))
        await asyncio.sleep(0.05)
        reachability.worked()
        await asyncio.wait_for(waiting, 1)
        assert not asked.done()
        asked.cancel()

    asyncio.run(work())


def test_a_call_that_works_wakes_nobody_whose_own_calls_fail() -> None:
    async def work() -> None:
        reachability = Reachability()
        reachability.failed(ApiError(500, "X", "x"))
        waiting = asyncio.create_task(reachability.sleep(30, ApiError(500, "X", "x")))
        await asyncio.sleep(0.05)
        reachability.worked()
        await asyncio.sleep(0.05)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(work())


def test_full_jitter_is_drawn_for_every_try(serve: Serve) -> None:
    drawn: list[float] = []
    retry = Retry(Backoff(0.01, 0.02), on_retry=lambda error, delay_s, failures: drawn.append(delay_s))
    server = serve(in_turn(*[problem(500, "X")] * 5, json_reply({"value": 1})))
    ask(server, retry)
    assert len(set(drawn)) > 1
    assert max(drawn) <= 0.02
