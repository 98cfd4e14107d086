"""HTTP calls to the server, and the one rule of which are made again."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from .. import __version__
from .backoff import Backoff, parse_http_date, parse_retry_after, retry_delay

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

USER_AGENT = f"cultivar-runner/{__version__} (python)"
DEFAULT_TIMEOUT_S = 30.0
# Below this a body is not worth compressing.
GZIP_FROM_BYTES = 16 * 1024
OCTETS = "application/octet-stream"
# The network is taken to be away when a call fails so long after the last one that got through.
AWAY_AFTER_S = 3.0


class ApiError(Exception):
    """The server said no, in its own words."""

    def __init__(
        self, status: int, code: str, detail: str, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{detail} ({status} {code})")
        self.status = status
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s


class TransportError(Exception):
    """No answer of the server: the network, a timeout, or something in between that answered in its place.

    It never says anything about the job, whatever its status was.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def is_retryable(error: BaseException) -> bool:
    """Whether a call is made again: 5xx, 408, 429 and transport errors. Any other answer is final."""
    if isinstance(error, ApiError):
        return error.status >= 500 or error.status in (408, 429)
    return isinstance(error, TransportError)


def ends_the_attempt(error: BaseException) -> bool:
    """Whether an error says that nothing more of this attempt is taken."""
    return isinstance(error, ApiError) and (error.code == "STALE_LEASE" or error.status in (401, 403))


def encode_json(value: BaseModel | dict[str, Any]) -> bytes:
    """A body; of a model only what was set, so that an old server is told nothing that it does not know."""
    if isinstance(value, BaseModel):
        return value.model_dump_json(exclude_unset=True).encode()
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def failure_of(response: httpx.Response, what: str) -> ApiError | TransportError:
    """The error that an answer of 3xx, 4xx or 5xx is. Its body has been read."""
    sent_at = parse_http_date(response.headers.get("date")) or datetime.now(UTC)
    retry_after_s = parse_retry_after(response.headers.get("retry-after"), sent_at)
    try:
        problem = response.json()
        detail, code, name = problem["detail"], problem["code"], problem.get("field")
        if isinstance(detail, str) and isinstance(code, str):
            return ApiError(response.status_code, code, detail, name if isinstance(name, str) else None, retry_after_s)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    target = response.headers.get("location")
    redirected = f", redirected to {target}" if target else ""
    message = f"{what}: status {response.status_code}{redirected}, not from the server's API"
    return TransportError(message, retry_after_s)


def reason_of(error: Exception) -> str:
    """What an error of the HTTP library says."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__


class Client:
    """The server at `base_url`, which has no slash at its end. Connections are kept and shared."""

    def __init__(self, base_url: str, *, connections: int = 16, transport: httpx.AsyncBaseTransport | None = None):
        self.base_url = base_url
        limits = httpx.Limits(max_connections=connections * 2, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={"user-agent": USER_AGENT, "accept": "application/json"},
            limits=limits,
            follow_redirects=False,
            transport=transport,
        )

    async def close(self) -> None:
        """Ends all connections."""
        await self._http.aclose()

    async def call(self, method: str, path: str, answer: type[Model], **options: Any) -> Model:
        """A call with a JSON answer of the given shape; raises ApiError or TransportError. Options: see `send`."""
        response = await self.send(method, path, **options)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise TransportError(f"{method} {path}: not the expected answer: {where} {first['msg']}") from error

    async def send(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: BaseModel | dict[str, Any] | None = None,
        content: bytes | None = None,
        content_type: str = OCTETS,
        headers: dict[str, str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> httpx.Response:
        """A call whose answer is read by the caller; `timeout_s` is for the whole call. Raises as `call`."""
        all_headers = dict(headers or {})
        if token is not None:
            all_headers["authorization"] = f"Bearer {token}"
        if json is not None:
            content, content_type = encode_json(json), "application/json"
        if content is not None:
            all_headers["content-type"] = content_type
            if len(content) >= GZIP_FROM_BYTES and content_type != OCTETS:
                packed = await asyncio.to_thread(gzip.compress, content, 6)
                # Noise grows by compressing, and limits count the bytes on the wire.
                if len(packed) < len(content):
                    content = packed
                    all_headers["content-encoding"] = "gzip"
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.request(
                    method, path, content=content, headers=all_headers, timeout=httpx.Timeout(timeout_s)
                )
        except TimeoutError as error:
            raise TransportError(f"{method} {path}: no answer in time") from error
        except httpx.HTTPError as error:
            raise TransportError(f"{method} {path}: {reason_of(error)}") from error
        if response.status_code < 300:
            return response
        raise failure_of(response, f"{method} {path}")

    @asynccontextmanager
    async def stream(
        self, path: str, *, token: str, headers: dict[str, str], idle_s: float
    ) -> AsyncIterator[httpx.Response]:
        """A download read by the caller; ends with a TransportError when nothing comes for `idle_s`."""
        all_headers = {"authorization": f"Bearer {token}", "accept": OCTETS, "accept-encoding": "identity", **headers}
        try:
            async with self._http.stream("GET", path, headers=all_headers, timeout=httpx.Timeout(idle_s)) as response:
                if response.status_code >= 300:
                    await response.aread()
                    raise failure_of(response, f"GET {path}")
                yield response
        except httpx.HTTPError as error:
            raise TransportError(f"GET {path}: {reason_of(error)}") from error


class Reachability:
    """Wakes those who wait to try again.

    When one call gets through after the network was away, nobody has to sleep out a long delay that was drawn while it
    was. One kind of call that fails while others get through wakes nobody.
    """

    def __init__(self) -> None:
        self._away = False
        self._worked_at = time.monotonic()
        self._wake = asyncio.Event()

    def failed(self, error: BaseException) -> None:
        """A call failed."""
        cut = isinstance(error, TransportError) and error.retry_after_s is None
        if cut and time.monotonic() - self._worked_at >= AWAY_AFTER_S:
            self._away = True

    def worked(self) -> None:
        """A call got through."""
        self._worked_at = time.monotonic()
        if self._away:
            self._away = False
            wake, self._wake = self._wake, asyncio.Event()
            wake.set()

    async def sleep(self, seconds: float, error: ApiError | TransportError) -> None:
        """Sleeps, shorter when the server is heard of again. A time that the server itself asked for is kept."""
        if error.retry_after_s is not None:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass


OnRetry = Callable[[ApiError | TransportError, float, int], None]


@dataclass(frozen=True)
class Retry:
    """How calls are made again. `give_up_after_s`: no further try begins after this time; None: never gives up."""

    backoff: Backoff
    reachability: Reachability = field(default_factory=Reachability)
    give_up_after_s: float | None = None
    on_retry: OnRetry | None = None
    chance: Callable[[], float] = random.random

    def within(self, seconds: float | None) -> Retry:
        """The same with a time after which it gives up."""
        return replace(self, give_up_after_s=seconds)


async def retrying(call: Callable[[], Awaitable[T]], retry: Retry) -> T:
    """Makes a call until it succeeds or fails for good; raises the final error, or the last one after the time."""
    started = time.monotonic()
    failures = 0
    while True:
        try:
            value = await call()
        except (ApiError, TransportError) as error:
            if not is_retryable(error):
                retry.reachability.worked()
                raise
            retry.reachability.failed(error)
            if retry.give_up_after_s is not None and time.monotonic() - started >= retry.give_up_after_s:
                raise
            delay_s = retry_delay(retry.backoff, failures, retry.chance(), error.retry_after_s)
            failures += 1
            if retry.on_retry is not None:
                retry.on_retry(error, delay_s, failures)
            await retry.reachability.sleep(delay_s, error)
        else:
            retry.reachability.worked()
            return value


def seldom(log: Callable[[str], None]) -> OnRetry:
    """Says the first, second, fourth, eighth … failure in a row: an outage of hours is a line now and then."""

    def on_retry(error: ApiError | TransportError, delay_s: float, failures: int) -> None:
        if failures & (failures - 1) == 0:
            log(f"{error}; try {failures + 1} in {delay_s:.1f} s")

    return on_retry
