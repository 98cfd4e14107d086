"""How this machine becomes a runner of a server, and remembers it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from .. import __version__
from ..wire import Gpu, RegisterAnswer, RegisterRequest, RegistrationToken, Timers
from .api import ApiError, Client, Retry, retrying
from .files import read_json, write_atomically
from .machine import GpuInfo, describe_system, machine_labels

CREDENTIALS_FILE = "credentials.json"
MACHINE_FILE = "machine.json"
# Exists only in the database of a local server; a deployment has no such user.
LOCAL_USER = ("user@example.com", "password123")


class RegistrationFailed(Exception):
    """The runner cannot register; the message says what to do."""


class Runner(BaseModel):
    """What a server calls this machine. Persisted."""

    runner_id: str
    runner_token: str
    timers: Timers


class _Credentials(BaseModel):
    """One entry for each server, by its URL. Persisted."""

    servers: dict[str, Runner] = {}


class _Login(BaseModel):
    access_token: str


@dataclass(frozen=True)
class Registration:
    """What is needed to register. `token` gives a registration token, or None to try the local user."""

    client: Client
    retry: Retry
    state_dir: Path
    name: str
    slots: int
    frameworks: Sequence[str]
    gpus: Sequence[GpuInfo]
    token: str | None
    is_local: bool
    log: Callable[[str], None]
    labels: Mapping[str, str] = field(default_factory=dict)


def saved_servers(state_dir: Path) -> dict[str, Runner]:
    """The servers that know this machine."""
    try:
        return _Credentials.model_validate(read_json(state_dir / CREDENTIALS_FILE) or {}).servers
    except ValidationError:
        return {}


async def sign_in(registration: Registration) -> Runner:
    """The runner that this machine is at the server: as saved, else newly registered. Raises RegistrationFailed."""
    saved = saved_servers(registration.state_dir).get(registration.client.base_url)
    return saved or await register(registration)


async def register(registration: Registration) -> Runner:
    """Registers anew, e.g. after the saved token was refused. Raises RegistrationFailed."""
    client, state_dir = registration.client, registration.state_dir
    token = registration.token or await _local_token(registration)
    request = RegisterRequest(
        machine_id=machine_id(state_dir),
        name=registration.name,
        os=describe_system(),
        gpus=[Gpu(model=gpu.model, vram_mb=gpu.vram_mb) for gpu in registration.gpus],
        frameworks=list(registration.frameworks),
        labels={**machine_labels(), **registration.labels},
        slots=registration.slots,
        version=__version__,
        protocol=1,
    )
    try:
        answer = await retrying(
            lambda: client.call("POST", "/api/v1/internal/runners/register", RegisterAnswer, token=token, json=request),
            registration.retry,
        )
    except ApiError as error:
        hint = "the registration token is not valid any more; ask for a new one" if error.status == 401 else "refused"
        raise RegistrationFailed(f"{hint}: {error}") from error
    runner = Runner(runner_id=answer.runner_id, runner_token=answer.runner_token, timers=answer.timers)
    servers = {**saved_servers(state_dir), client.base_url: runner}
    write_atomically(state_dir / CREDENTIALS_FILE, _Credentials(servers=servers).model_dump_json())
    registration.log(f"registered at {client.base_url} as {registration.name} ({runner.runner_id})")
    return runner


async def _local_token(registration: Registration) -> str:
    """A registration token by way of the user that every local server has."""
    if not registration.is_local:
        raise RegistrationFailed(
            "this machine is not registered there: run `cultivar-runner register --url … --token …` first"
        )
    client, retry = registration.client, registration.retry
    email, password = LOCAL_USER
    registration.log(f"no token given: using the local user {email} of npm run dev")
    try:
        login = await retrying(
            lambda: client.call("POST", "/api/v1/auth/login", _Login, json={"email": email, "password": password}),
            retry,
        )
        granted = await retrying(
            lambda: client.call(
                "POST",
                "/api/v1/runners/tokens",
                RegistrationToken,
                token=login.access_token,
                json={"uses": 1, "ttl_s": 600},
            ),
            retry,
        )
    except ApiError as error:
        raise RegistrationFailed(f"{email} may not add runners there, give --token: {error}") from error
    return granted.registration_token


def machine_id(state_dir: Path) -> str:
    """Stays the same for this state folder: the server keeps the runner's id by it."""
    path = state_dir / MACHINE_FILE
    known = read_json(path)
    if isinstance(known, dict) and isinstance(known.get("machine_id"), str) and known["machine_id"]:
        return str(known["machine_id"])
    made = str(uuid.uuid4())
    write_atomically(path, f'{{"machine_id": "{made}"}}')
    return made
