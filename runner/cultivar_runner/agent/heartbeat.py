"""Renews the lease of one attempt, in a process of its own: whatever the agent is busy with, the beat goes on.

The process is `python -m cultivar_runner.agent.heartbeat`. It reads JSON lines from stdin, first what to call, then
what to tell, and writes one line for each answer. It ends with its stdin: a lease of a dead agent has to run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from ..wire import HeartbeatAnswer, HeartbeatRequest, Timers
from .api import USER_AGENT, ApiError, TransportError, failure_of, is_retryable, reason_of
from .backoff import Backoff, jittered, retry_delay

TIMEOUT_S = 10.0
# Before other processes where the system allows it: training keeps all cores busy.
PRIORITY = -5


class Order(BaseModel):
    """What the process is started for; its first line of input."""

    url: str
    job_id: int
    token: str
    timers: Timers


class Beat(BaseModel):
    """What one try came to; a line of output."""

    answer: HeartbeatAnswer | None = None
    # Not the end of anything: tried again soon.
    trouble: str | None = None
    # The server refuses; the process ends.
    final: dict[str, Any] | None = None


# The agent's side


class Heartbeat:
    """The process as the agent sees it. `report` is asked what to tell, `on_answer` hears what the server says."""

    def __init__(
        self,
        order: Order,
        *,
        report: Callable[[], dict[str, Any]],
        on_answer: Callable[[HeartbeatAnswer], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._order = order
        self._report = report
        self._on_answer = on_answer
        self._on_trouble = on_trouble
        self.pid: int | None = None

    async def run(self) -> None:
        """Keeps the lease for ever. Raises ApiError when the server refuses, RuntimeError when the process has died."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C of a terminal is for the agent alone.
            start_new_session=True,
        )
        self.pid = process.pid
        assert process.stdin is not None and process.stdout is not None
        telling = asyncio.create_task(self._tell(process.stdin))
        try:
            async for line in process.stdout:
                self._hear(Beat.model_validate_json(line))
            raise RuntimeError("the heartbeat's process ended; it is started again")
        finally:
            telling.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _tell(self, stdin: asyncio.StreamWriter) -> None:
        stdin.write(self._order.model_dump_json().encode() + b"\n")
        while True:
            stdin.write(json.dumps(self._report()).encode() + b"\n")
            # The process has gone; whoever reads its output finds out.
            with contextlib.suppress(ConnectionError):
                await stdin.drain()
            await asyncio.sleep(max(0.2, self._order.timers.heartbeat_s / 4))

    def _hear(self, beat: Beat) -> None:
        if beat.final is not None:
            raise ApiError(beat.final["status"], beat.final["code"], beat.final["detail"])
        if beat.answer is not None:
            self._on_answer(beat.answer)
        if beat.trouble is not None:
            self._on_trouble(beat.trouble)


# The process's side


class _Told:
    """What the agent told last, and when."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {}
        self.at = time.monotonic()

    def listen(self) -> None:
        for line in sys.stdin.buffer:
            self.status = json.loads(line)
            self.at = time.monotonic()
        os._exit(0)


def beat(http: httpx.Client, order: Order, status: dict[str, Any]) -> HeartbeatAnswer:
    """One call. Raises ApiError or TransportError."""
    what = f"POST /api/v1/internal/jobs/{order.job_id}/heartbeat"
    request = HeartbeatRequest(**status, sent_at=datetime.now(UTC).isoformat())
    try:
        response = http.post(what.split(" ")[1], content=request.model_dump_json(exclude_unset=True))
    except httpx.HTTPError as error:
        raise TransportError(f"{what}: {reason_of(error)}") from error
    if response.status_code >= 300:
        raise failure_of(response, what)
    try:
        return HeartbeatAnswer.model_validate_json(response.content)
    except ValidationError as error:
        raise TransportError(f"{what}: not the expected answer") from error


def main() -> None:
    """Entry point of the process."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    order = Order.model_validate_json(sys.stdin.buffer.readline())
    told = _Told()
    threading.Thread(target=told.listen, daemon=True).start()
    timers = order.timers
    # An agent that is alive tells something several times a beat; one that hangs must not hold its job for ever.
    silence_s = timers.lease_s + timers.lost_after_s
    headers = {"authorization": f"Bearer {order.token}", "user-agent": USER_AGENT, "content-type": "application/json"}
    failures = 0
    with httpx.Client(base_url=order.url, headers=headers, timeout=TIMEOUT_S) as http:
        while time.monotonic() - told.at < silence_s:
            said = Beat()
            try:
                said.answer = beat(http, order, told.status)
                failures = 0
                pause_s = jittered(timers.heartbeat_s, random.random())
            except (ApiError, TransportError) as error:
                if isinstance(error, ApiError) and not is_retryable(error):
                    said.final = {"status": error.status, "code": error.code, "detail": str(error)}
                else:
                    said.trouble = str(error)
                # A call that fails is made again sooner than the next beat; that never ends anything.
                backoff = Backoff(timers.retry_base_s, min(timers.heartbeat_s, timers.retry_cap_s))
                pause_s = retry_delay(backoff, failures, random.random(), error.retry_after_s)
                failures += 1
            sys.stdout.write(said.model_dump_json() + "\n")
            sys.stdout.flush()
            if said.final is not None:
                return
            time.sleep(pause_s)


if __name__ == "__main__":
    main()
