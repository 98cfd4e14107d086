"""`cultivar-runner`: register, run, doctor."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from . import __version__
from .agent.agent import Agent, AgentDeps, AgentStopped
from .agent.api import ApiError, Client, Retry, TransportError, seldom
from .agent.attempt import AttemptDeps
from .agent.backoff import Backoff
from .agent.dataset.cache import ContentCache
from .agent.leftovers import settle_leftovers
from .agent.lock import try_lock
from .agent.machine import find_gpus
from .agent.mask import create_mask
from .agent.registration import Registration, RegistrationFailed, register, saved_servers, sign_in
from .config import (
    DEFAULT_CACHE_MB,
    MIB,
    Settings,
    UsageError,
    checked_url,
    default_name,
    default_state_dir,
    is_local,
    read_gpus,
    read_labels,
    read_trainers,
)
from .doctor import Finding, examine
from .wire import Timers

EXIT_ENDED, EXIT_FAILED, EXIT_USAGE, EXIT_IN_USE = 0, 1, 2, 3
# How long unfinished business of an earlier process may delay the end of this one.
LEFTOVER_PATIENCE_S = 10.0
# One Ctrl-C may arrive twice: from the terminal, and from whatever runs this.
SAME_KEY_S = 0.25

app = typer.Typer(add_completion=False, no_args_is_help=True, help="A runner of the cultivar training platform.")

UrlOption = Annotated[str | None, typer.Option("--url", envvar="CULTIVAR_URL", help="The server.")]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar="CULTIVAR_TOKEN", help="Registration token of an admin.", show_envvar=True),
]
TokenStdinOption = Annotated[bool, typer.Option("--token-stdin", help="Read the registration token from stdin.")]
StateOption = Annotated[
    Path | None, typer.Option("--state-dir", envvar="CULTIVAR_STATE_DIR", help="Credentials, outbox, cache.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="Shown in the list of runners. Default: the host's.")]
SlotsOption = Annotated[int, typer.Option("--slots", min=1, max=64, help="Jobs at the same time.")]
GpusOption = Annotated[
    str | None, typer.Option("--gpus", help="Devices, as in 0,1; `none`: CPU only. Default: all. Slots share them.")
]
LabelOption = Annotated[list[str] | None, typer.Option("--label", help="NAME=VALUE; may be repeated.")]
TrainerOption = Annotated[
    list[str] | None, typer.Option("--trainer", help="FRAMEWORK=MODULE: a trainer of your own; may be repeated.")
]
ExecOption = Annotated[
    str | None,
    typer.Option("--exec", help="Train with this command, e.g. 'python train.py', in place of the package's trainers."),
]
FrameworkOption = Annotated[
    list[str] | None, typer.Option("--framework", help="Take jobs of this framework only; may be repeated.")
]
InsecureOption = Annotated[bool, typer.Option("--insecure-http", help="Allow http:// to another machine.")]


class Reporter:
    """Lines for whoever looks at the terminal or the journal. Tokens never appear in them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._mask = create_mask()
        self._status: Status | None = None

    def log(self, line: str) -> None:
        """One line with the time."""
        text = escape(self._mask(line))
        for words, style in STYLES:
            if any(word in line for word in words):
                text = f"[{style}]{text}[/{style}]"
                break
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", highlight=False, soft_wrap=True)

    def waiting(self, idle: bool) -> None:
        """Shows on a terminal that there is nothing to do right now."""
        if not self._console.is_terminal:
            return
        if idle and self._status is None:
            self._status = self._console.status("waiting for a job", spinner="dots")
            self._status.start()
        elif not idle and self._status is not None:
            self._status.stop()
            self._status = None


STYLES = [
    ((": completed",), "green"),
    ((": failed", "given up", "lost", "refuse", "could not", "rejected"), "red"),
    ((": stopped", ": released", "again in", "; try ", "SIG"), "yellow"),
    (("ready:", "registered"), "bold"),
]


def fail(message: str, code: int) -> typer.Exit:
    """Says on stderr why it ends."""
    Console(stderr=True).print(f"cultivar-runner: {escape(create_mask()(message))}", highlight=False, soft_wrap=True)
    return typer.Exit(code)


def read_token(token: str | None, from_stdin: bool) -> str | None:
    """The registration token as given."""
    if from_stdin:
        if token is not None:
            raise UsageError("--token and --token-stdin exclude each other")
        return sys.stdin.readline().strip()
    return token


def settings_of(
    url: str | None,
    state_dir: Path | None,
    *,
    name: str | None,
    slots: int,
    gpus: str | None,
    labels: list[str] | None,
    trainers: list[str] | None,
    command: str | None,
    frameworks: list[str] | None,
    insecure_http: bool,
    once: bool = False,
    cache_mb: int = DEFAULT_CACHE_MB,
    cache_dir: Path | None = None,
) -> Settings:
    """The command line, checked. Without --url the only server that knows this machine."""
    state = (state_dir or default_state_dir()).absolute()
    if url is None:
        known = list(saved_servers(state))
        if len(known) != 1:
            raise UsageError("--url is needed" if not known else f"--url is needed, one of {', '.join(known)}")
        url, insecure_http = known[0], True
    found = read_trainers(trainers or [], command, frameworks)
    if not found:
        raise UsageError("neither timm nor ultralytics is installed: pip install 'cultivar-runner[timm,ultralytics]'")
    return Settings(
        url=checked_url(url, insecure_http=insecure_http),
        state_dir=state,
        name=(name or default_name())[:200],
        trainers=found,
        slots=slots,
        once=once,
        gpus=read_gpus(gpus),
        labels=read_labels(labels or []),
        cache_bytes=cache_mb * MIB,
        cache_dir=cache_dir,
    )


def registration_of(settings: Settings, client: Client, token: str | None, log: Callable[[str], None]) -> Registration:
    """What this machine says of itself."""
    timers = Timers()
    return Registration(
        client=client,
        retry=Retry(Backoff(timers.retry_base_s, timers.retry_cap_s), on_retry=seldom(log)),
        state_dir=settings.state_dir,
        name=settings.name,
        slots=settings.slots,
        frameworks=sorted(settings.trainers),
        gpus=find_gpus(settings.gpus),
        token=token,
        is_local=is_local(settings.url),
        log=log,
        labels=settings.labels,
    )


@app.command("register")
def register_command(
    url: UrlOption = None,
    token: TokenOption = None,
    token_stdin: TokenStdinOption = False,
    state_dir: StateOption = None,
    name: NameOption = None,
    slots: SlotsOption = 1,
    gpus: GpusOption = None,
    label: LabelOption = None,
    trainer: TrainerOption = None,
    exec_command: ExecOption = None,
    framework: FrameworkOption = None,
    insecure_http: InsecureOption = False,
) -> None:
    """Make this machine a runner of a server. Again: the same runner with a new token."""
    try:
        settings = settings_of(
            url,
            state_dir,
            name=name,
            slots=slots,
            gpus=gpus,
            labels=label,
            trainers=trainer,
            command=exec_command,
            frameworks=framework,
            insecure_http=insecure_http,
        )
        given = read_token(token, token_stdin)
    except UsageError as error:
        raise fail(str(error), EXIT_USAGE) from error
    reporter = Reporter(Console())
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def work() -> None:
        client = Client(settings.url)
        try:
            registration = registration_of(settings, client, given, reporter.log)
            await register(registration)
        finally:
            await client.close()

    try:
        asyncio.run(work())
    except (RegistrationFailed, ApiError, TransportError) as error:
        raise fail(str(error), EXIT_FAILED) from error


@app.command("run")
def run_command(
    url: UrlOption = None,
    token: TokenOption = None,
    token_stdin: TokenStdinOption = False,
    state_dir: StateOption = None,
    name: NameOption = None,
    slots: SlotsOption = 1,
    gpus: GpusOption = None,
    label: LabelOption = None,
    trainer: TrainerOption = None,
    exec_command: ExecOption = None,
    framework: FrameworkOption = None,
    once: Annotated[bool, typer.Option("--once", help="End after one job.")] = False,
    cache_mb: Annotated[int, typer.Option("--cache-mb", min=1, help="Limit of the dataset cache.")] = DEFAULT_CACHE_MB,
    cache_dir: Annotated[Path | None, typer.Option("--cache-dir", help="Default: in the state folder.")] = None,
    insecure_http: InsecureOption = False,
) -> None:
    """Take jobs and train them.

    First Ctrl-C or SIGTERM: finish the job, then leave. Second: save a checkpoint, give the job back, leave.
    SIGQUIT: end at once.
    """
    try:
        settings = settings_of(
            url,
            state_dir,
            name=name,
            slots=slots,
            gpus=gpus,
            labels=label,
            trainers=trainer,
            command=exec_command,
            frameworks=framework,
            insecure_http=insecure_http,
            once=once,
            cache_mb=cache_mb,
            cache_dir=cache_dir,
        )
        given = read_token(token, token_stdin)
    except UsageError as error:
        raise fail(str(error), EXIT_USAGE) from error
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.state_dir.chmod(0o700)
    lock = try_lock(settings.state_dir / "agent.lock")
    if lock is None:
        raise fail(f"another process uses {settings.state_dir}; give this one another --state-dir", EXIT_IN_USE)
    try:
        asyncio.run(serve(settings, given, Reporter(Console())))
    except (AgentStopped, RegistrationFailed, ApiError, TransportError) as error:
        raise fail(str(error), EXIT_FAILED) from error
    finally:
        lock.release()


@app.command("doctor")
def doctor_command(url: UrlOption = None, state_dir: StateOption = None, gpus: GpusOption = None) -> None:
    """Look whether this machine can train: GPU, disk, clock, server, versions."""
    state = (state_dir or default_state_dir()).absolute()
    known = list(saved_servers(state))
    try:
        target = checked_url(url, insecure_http=True) if url else known[0] if known else None
        wanted = read_gpus(gpus)
    except UsageError as error:
        raise fail(str(error), EXIT_USAGE) from error
    table = Table(show_header=False, box=None, padding=(0, 1))
    marks = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "error": "[red]✗[/red]"}

    def show(finding: Finding) -> None:
        table.add_row(marks[finding.verdict], finding.what, escape(finding.text))

    good = examine(target, state, wanted, show)
    Console().print(table)
    if target is None:
        Console().print("no server given: --url", style="dim")
    raise typer.Exit(EXIT_ENDED if good else EXIT_FAILED)


class _Signals:
    """First: finish. Second: give back. Third, or SIGQUIT: end at once."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._count = 0
        self._last = float("-inf")
        self.agent: Agent | None = None
        self.stopped = asyncio.Event()

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._received, number)

    def _received(self, number: signal.Signals) -> None:
        now = time.monotonic()
        again = number == signal.SIGINT and now - self._last < SAME_KEY_S
        self._last = now
        if again:
            return
        self._count = 3 if number == signal.SIGQUIT else self._count + 1
        self.stopped.set()
        jobs = 0 if self.agent is None else self.agent.active_jobs
        if self._count == 1:
            end = "leaving" if jobs == 0 else f"finishing {jobs} job(s); again to give them back"
            self._log(f"{number.name}: {end}")
            act = "drain"
        elif self._count == 2:
            self._log(f"{number.name}: saving checkpoints and giving {jobs} job(s) back; again to end at once")
            act = "release"
        else:
            self._log(f"{number.name}: ending at once")
            act = "kill"
        if self.agent is not None:
            getattr(self.agent, act)()


async def serve(settings: Settings, token: str | None, reporter: Reporter) -> None:
    """The runner from sign-in to its end. Raises AgentStopped, RegistrationFailed."""
    signals = _Signals(reporter.log)
    signals.install()
    client = Client(settings.url)
    try:
        registration = registration_of(settings, client, token, reporter.log)
        signing_in = asyncio.create_task(sign_in(registration))
        stopped = asyncio.create_task(signals.stopped.wait())
        await asyncio.wait({signing_in, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not signing_in.done():
            signing_in.cancel()
            return
        stopped.cancel()
        runner = signing_in.result()
        leftovers = asyncio.create_task(settle_leftovers(settings.attempts_dir, (runner.runner_token,), reporter.log))
        # Their trainers are ended before new ones want the devices.
        devices = [gpu.index for gpu in registration.gpus]
        frameworks = ", ".join(sorted(settings.trainers))
        on = f", GPU {', '.join(devices)}" if devices else ", CPU"

        def ready() -> None:
            reporter.log(
                f"ready: {settings.name} ({runner.runner_id}) at {settings.url}, {frameworks}, "
                f"{settings.slots} slot(s){on}"
            )

        cache_folder = settings.cache_dir or settings.state_dir / "cache"
        agent = signals.agent = Agent(
            AgentDeps(
                client=client,
                attempts=AttemptDeps(
                    client=client,
                    cache=ContentCache(cache_folder, settings.cache_bytes),
                    trainers=settings.trainers,
                    attempts_folder=settings.attempts_dir,
                    secrets=(runner.runner_token, *([token] if token else [])),
                    log=reporter.log,
                ),
                runner=runner,
                renew=lambda: register(registration),
                log=reporter.log,
                on_ready=ready,
                on_idle=reporter.waiting,
                slots=settings.slots,
                once=settings.once,
                # Without devices, or with --gpus none, the trainers must not find any either.
                gpus=devices if devices or settings.gpus is not None else None,
            )
        )
        if not signals.stopped.is_set():
            await agent.run()
        reporter.waiting(False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEFTOVER_PATIENCE_S):
                await leftovers
    finally:
        reporter.waiting(False)
        await client.close()


@app.callback(invoke_without_command=True)
def about(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """A runner of the cultivar training platform."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
