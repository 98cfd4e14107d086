"""Claims jobs and works on them until it is drained."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from ..wire import AcceptAnswer, AcceptRequest, ClaimRequest, Drain, Offer, OfflineRequest, Timers
from .api import ApiError, Client, Retry, TransportError, retrying, seldom
from .attempt import Attempt, AttemptDeps, AttemptResult
from .backoff import Backoff
from .files import error_text
from .machine import divide
from .registration import Runner

T = TypeVar("T")
# The answer to a claim may come this much later than asked for.
CLAIM_SLACK_S = 20.0
# An answer of nothing that comes sooner than this is not a long poll: the next claim waits a little.
SHORT_POLL_S = 1.0
OFFLINE_TIMEOUT_S = 3.0
# Another process of this runner: asked again so often within a lease, and for so many leases.
CONFLICT_TRIES_PER_LEASE = 2
CONFLICT_LEASES = 4
# After attempts that failed for want of something here, this runner leaves the next job to others for a while.
TROUBLE_BASE_S = 2.0
TROUBLE_CAP_S = 60.0
TROUBLES = {"dataset_unavailable", "checkpoint_corrupt", "runner_lost"}

_claim_answer: TypeAdapter[Offer | Drain] = TypeAdapter(Offer | Drain)


class AgentStopped(Exception):
    """The runner cannot go on; the message says why."""


@dataclass(frozen=True)
class AgentDeps:
    """What the agent works with.

    `gpus`: devices to be shared out among the slots; None leaves the choice to the trainers. `renew` makes a new runner
    of this machine when the server does not know its token any more. `on_ready`: the server knows this runner as live.
    """

    client: Client
    attempts: AttemptDeps
    runner: Runner
    renew: Callable[[], Awaitable[Runner]]
    log: Callable[[str], None]
    on_ready: Callable[[], None]
    on_idle: Callable[[bool], None] = lambda idle: None
    slots: int = 1
    once: bool = False
    gpus: Sequence[str] | None = None


class Agent:
    """One process of one runner."""

    def __init__(self, deps: AgentDeps) -> None:
        self._deps = deps
        self._runner = deps.runner
        self._instance_id = str(uuid.uuid4())
        self._draining = asyncio.Event()
        self._active: dict[Attempt, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._free_gpus = [] if deps.gpus is None else divide(deps.gpus, deps.slots)
        self._troubles = 0
        self._taken = 0
        self._is_ready = False
        self._retry = self._retry_of(deps.runner.timers)

    @property
    def active_jobs(self) -> int:
        """Jobs at work."""
        return len(self._active)

    def drain(self) -> None:
        """Claims no more; `run` ends when the running jobs have."""
        if self._draining.is_set():
            return
        self._draining.set()
        # Ends a waiting claim on the server's side, so that no job is offered to a runner that is leaving.
        self._spawn(self._offline())

    def release(self) -> None:
        """Saves checkpoints and gives the running jobs back."""
        self.drain()
        for attempt in self._active:
            attempt.release()

    def kill(self) -> None:
        """Ends trainers at once."""
        self.drain()
        for attempt in self._active:
            attempt.kill()

    async def run(self) -> None:
        """Works until drained, or until `once` is over. Raises AgentStopped, RegistrationFailed."""
        try:
            await self._loop()
        finally:
            self._draining.set()
            while self._active:
                await asyncio.gather(*self._active.values(), return_exceptions=True)
            await self._offline()

    async def _loop(self) -> None:
        deps = self._deps
        while not self._draining.is_set():
            if len(self._active) >= deps.slots or (deps.once and self._taken > 0):
                if not self._active:
                    return
                await asyncio.wait(self._active.values(), return_when=asyncio.FIRST_COMPLETED)
                continue
            deps.on_idle(not self._active)
            offer = await self._unless_draining(self._claim())
            if offer is None:
                continue
            if isinstance(offer, Drain):
                deps.log("the server wants this runner drained")
                self.drain()
                return
            deps.on_idle(False)
            await self._take(offer)

    async def _unless_draining(self, work: Coroutine[Any, Any, T]) -> T | None:
        working = asyncio.create_task(work)
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({working, draining}, return_when=asyncio.FIRST_COMPLETED)
            return None if self._draining.is_set() else working.result()
        finally:
            for task in (working, draining):
                task.cancel()
            await asyncio.gather(working, draining, return_exceptions=True)

    async def _claim(self) -> Offer | Drain | None:
        """None: nothing came."""
        deps, timers = self._deps, self._runner.timers
        started = time.monotonic()
        conflicts = 0
        while True:
            # The first claim does not wait: its answer says that the server knows this runner as live.
            wait_s = timers.claim_wait_s if self._is_ready else 0
            request = ClaimRequest(
                instance_id=self._instance_id, free_slots=deps.slots - len(self._active), wait_s=wait_s
            )
            try:
                response = await self._send_claim(request)
            except ApiError as error:
                if error.code == "INSTANCE_CONFLICT":
                    if conflicts == CONFLICT_TRIES_PER_LEASE * CONFLICT_LEASES:
                        raise AgentStopped(
                            "another process of this runner is alive; stop it, or use another --state-dir"
                        ) from error
                    if conflicts == 0:
                        deps.log("the server still sees another process of this runner; waiting for it to be gone")
                    conflicts += 1
                    await asyncio.sleep(timers.lease_s / CONFLICT_TRIES_PER_LEASE)
                elif error.status == 401:
                    deps.log("the server does not know this runner's token any more; registering again")
                    self._runner = await deps.renew()
                else:
                    raise AgentStopped(f"the server refuses to give work: {error}") from error
                continue
            if not self._is_ready:
                self._is_ready = True
                deps.on_ready()
            if response.status_code != 204:
                try:
                    return _claim_answer.validate_json(response.content)
                except ValidationError:
                    deps.log("the answer to a claim was not understood")
            elif wait_s == 0:
                return None
            if time.monotonic() - started < SHORT_POLL_S:
                await asyncio.sleep(SHORT_POLL_S)
            return None

    async def _send_claim(self, request: ClaimRequest) -> httpx.Response:
        return await retrying(
            lambda: self._deps.client.send(
                "POST",
                "/api/v1/internal/runners/claim",
                token=self._runner.runner_token,
                json=request,
                timeout_s=request.wait_s + CLAIM_SLACK_S,
            ),
            self._retry,
        )

    async def _take(self, offer: Offer) -> None:
        """Accepts an offer. Not cut by a drain: the server may have counted the attempt, and then it is ours."""
        deps = self._deps
        try:
            accepted = await retrying(
                lambda: deps.client.call(
                    "POST",
                    f"/api/v1/internal/jobs/{offer.job_id}/accept",
                    AcceptAnswer,
                    token=self._runner.runner_token,
                    json=AcceptRequest(fence=offer.fence),
                ),
                self._retry.within(offer.offer_s),
            )
        except (ApiError, TransportError) as error:
            deps.log(f"job {offer.job_id} was not taken: {error}")
            return
        self._taken += 1
        self._runner = self._runner.model_copy(update={"timers": accepted.timers})
        self._retry = self._retry_of(accepted.timers)
        gpus = self._free_gpus.pop(0) if self._free_gpus else None
        secrets = (*deps.attempts.secrets, self._runner.runner_token)
        attempt = Attempt(replace(deps.attempts, secrets=secrets), offer.job_id, accepted, gpus)
        seen = "" if not gpus else f" on GPU {', '.join(gpus)}"
        deps.log(f"{attempt.name}: accepted, {describe(accepted)}{seen}")
        self._active[attempt] = asyncio.create_task(self._work_on(attempt, gpus))

    async def _work_on(self, attempt: Attempt, gpus: list[str] | None) -> None:
        try:
            try:
                result = await attempt.run()
            except Exception as error:
                self._deps.log(f"{attempt.name}: {error_text(error)}")
                result = AttemptResult("failed", "runner_lost")
            await self._pause_after(result)
        finally:
            if gpus is not None:
                self._free_gpus.append(gpus)
            del self._active[attempt]

    async def _pause_after(self, result: AttemptResult) -> None:
        """Holds the slot for a while after trouble of this machine, so that the same job does not come back at once."""
        if result.reason not in TROUBLES:
            self._troubles = 0
            return
        if self._deps.once:
            return
        pause_s = min(TROUBLE_CAP_S, TROUBLE_BASE_S * 2.0**self._troubles) * (0.5 + random.random() / 2)
        self._troubles += 1
        self._deps.log(f"pausing for {pause_s:.0f} s")
        await self._unless_draining(asyncio.sleep(pause_s))

    def _retry_of(self, timers: Timers) -> Retry:
        return Retry(Backoff(timers.retry_base_s, timers.retry_cap_s), on_retry=seldom(self._deps.log))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _offline(self) -> None:
        # Unheard, the server finds out by itself, later.
        with contextlib.suppress(ApiError, TransportError):
            await self._deps.client.send(
                "POST",
                "/api/v1/internal/runners/offline",
                token=self._runner.runner_token,
                json=OfflineRequest(instance_id=self._instance_id),
                timeout_s=OFFLINE_TIMEOUT_S,
            )


def describe(accepted: AcceptAnswer) -> str:
    """The job in a few words."""
    spec = accepted.spec
    resumed = "" if accepted.resume is None else f", from epoch {accepted.resume.epoch}"
    return f"{spec.get('framework')} {spec.get('model_name')}, {spec.get('epochs')} epochs{resumed}"
