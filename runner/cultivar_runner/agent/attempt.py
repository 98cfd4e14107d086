"""One attempt at one job: brings the data, runs the trainer, reports, cleans up."""

from __future__ import annotations

import asyncio
import json
import os
import secrets as random_secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..trainer.messages import Checkpoint, Epoch, Finished, SaveCheckpoint, Started, Stop, TrainerMessage
from ..wire import AcceptAnswer
from .api import ApiError, Client, TransportError, ends_the_attempt
from .dataset.cache import ContentCache
from .dataset.download import Download, HashMismatch, download
from .dataset.prepare import DatasetUnavailable, prepare_dataset
from .files import error_text, remove_tree, write_atomically
from .lease import ENDING_FILE, LEASE_FILE, TRAINER_FILE, EndEvent, Ending, EndReason, Lease, TrainerMark
from .link import FinishLimits, Link
from .report import Intent, TrainerEnd, ending_of, events_of
from .trainer_process import TrainerProcess, identity_of

T = TypeVar("T")
# After SIGTERM at the end of the grace.
TERM_TO_KILL_S = 5.0
# A file of the dataset that cannot be had for so long, while the server is there, is not going to come.
FETCH_PATIENCE_S = 15 * 60.0
# Of the time that the server grants after a stop, the share for uploads; the rest is for logs and the last event.
SHARE_FOR_UPLOADS = 0.7
SHARE_FOR_LOGS = 0.2
# A long download says how far it is.
TELL_EVERY_S = 10.0
# What the runner was given and no trainer has to know.
PRIVATE_VARIABLES = ("CULTIVAR_TOKEN", "CULTIVAR_PASSWORD")


@dataclass(frozen=True)
class TrainerEntry:
    """How jobs of one framework are trained: the module, None for the framework's own, and what it is told."""

    module: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AttemptDeps:
    """What attempts share. `attempts_folder`: folder of all of them."""

    client: Client
    cache: ContentCache
    trainers: Mapping[str, TrainerEntry]
    attempts_folder: Path
    secrets: tuple[str, ...]
    log: Callable[[str], None]


@dataclass(frozen=True)
class AttemptResult:
    """`abandoned`: the server took the job away, or could not be told how it ended."""

    event: EndEvent | Literal["abandoned"]
    reason: EndReason | None


class _ResumeUnusable(Exception):
    """The checkpoint to resume from is gone or damaged."""


class Attempt:
    """`gpus`: the devices that the trainer may see, as in CUDA_VISIBLE_DEVICES; None leaves that as it is."""

    def __init__(
        self, deps: AttemptDeps, job_id: int, accepted: AcceptAnswer, gpus: Sequence[str] | None = None
    ) -> None:
        self._deps = deps
        self._accepted = accepted
        self._gpus = gpus
        self._lease = Lease(
            url=deps.client.base_url,
            job_id=job_id,
            attempt=accepted.attempt,
            job_token=accepted.job_token,
            timers=accepted.timers,
            limits=accepted.limits,
        )
        # Another server has jobs and attempts of the same numbers.
        self._folder = deps.attempts_folder / f"{job_id}-{accepted.attempt}-{random_secrets.token_hex(4)}"
        # Set as soon as the attempt should not go on, for whatever reason.
        self._halted = asyncio.Event()
        self._intent: Intent = None
        self._killed = False
        self._trainer: TrainerProcess | None = None
        self._trainer_ended = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stage = "dataset"
        self._epoch: int | None = None
        self._files: int | None = None
        self._told_at = time.monotonic()
        self._total_epochs: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"job {self._lease.job_id} attempt {self._lease.attempt}"

    @property
    def folder(self) -> Path:
        """Its own folder."""
        return self._folder

    def release(self) -> None:
        """Saves a checkpoint and gives the job back: it is queued again at once."""
        self._halt("release", self._lease.timers.stop_grace_s)

    def kill(self) -> None:
        """Ends the trainer now; what it did since its last checkpoint is lost."""
        self._killed = True
        self._intent = self._intent or "release"
        if self._trainer is not None:
            self._trainer.kill(signal.SIGKILL)
        self._halted.set()

    async def run(self) -> AttemptResult:
        """Runs to the end. Whatever happens to the job is reported, or there is nobody to report to.

        Raises OSError when its folder cannot be made.
        """
        self._folder.mkdir(parents=True, mode=0o700)
        write_atomically(self._folder / LEASE_FILE, self._lease.model_dump_json())
        link = Link(
            client=self._deps.client,
            lease=self._lease,
            folder=self._folder,
            secrets=self._deps.secrets,
            log=self._log,
            on_stop=self._stop,
            on_checkpoint=lambda: None if self._trainer is None else self._trainer.send(SaveCheckpoint()),
            progress=self._progress,
        )
        link.start()
        keep = False
        ending: Ending | None = None
        try:
            ending = await self._unless_gone(link, self._work(link))
            if ending is None:
                self._log(f"given up: {error_text(link.gone.reason) if link.gone.reason else 'closed'}")
                return AttemptResult("abandoned", None)
            self._stage = "finishing"
            try:
                write_atomically(self._folder / ENDING_FILE, ending.model_dump_json())
            except OSError as error:
                self._log(error_text(error))
            delivered = await link.finish(ending, self._limits_of(ending))
            suffix = "" if delivered else ", which the server does not know yet"
            self._log(f"{ending.event} ({ending.reason}){suffix}")
            # Ended in a hurry: the next start of this agent delivers it.
            keep = not delivered and self._killed
            return AttemptResult(ending.event, ending.reason)
        finally:
            for task in self._tasks:
                task.cancel()
            await link.close()
            if not keep:
                await asyncio.to_thread(remove_tree, self._folder)

    def _log(self, line: str) -> None:
        self._deps.log(f"{self.name}: {line}")

    def _progress(self) -> dict[str, Any]:
        known: dict[str, Any] = {
            "stage": self._stage,
            "files": self._files,
            "epoch": self._epoch,
            "total_epochs": self._total_epochs,
        }
        return {key: value for key, value in known.items() if value is not None}

    def _follow_dataset(self, done: int, total: int) -> None:
        self._files = done
        if time.monotonic() - self._told_at >= TELL_EVERY_S:
            self._told_at = time.monotonic()
            self._log(f"dataset: {done} of {total} files are here")

    def _stop(self, grace_s: float) -> None:
        self._log("the server wants it stopped")
        self._halt("stop", grace_s)

    def _halt(self, intent: Intent, grace_s: float) -> None:
        if self._intent is None:
            self._intent = intent
            if self._trainer is not None:
                self._spawn(self._end_trainer(self._trainer, grace_s))
        self._halted.set()

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_trainer(self, trainer: TrainerProcess, grace_s: float) -> None:
        """Asks, waits, insists."""
        trainer.send(Stop())
        for patience_s, number in ((grace_s, signal.SIGTERM), (TERM_TO_KILL_S, signal.SIGKILL)):
            try:
                async with asyncio.timeout(patience_s):
                    await self._trainer_ended.wait()
                    return
            except TimeoutError:
                trainer.kill(number)

    async def _unless_gone(self, link: Link, work: Coroutine[Any, Any, Ending]) -> Ending | None:
        """How the work ended; None when the server takes nothing more. Then the trainer is dead on return."""
        working = asyncio.create_task(work)
        gone = asyncio.create_task(link.gone.wait())
        try:
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            if link.gone.is_set():
                return None
            try:
                return working.result()
            except Exception as error:
                if ends_the_attempt(error):
                    link.gone.set(error)
                    return None
                # This machine's fault, not the job's: somebody else may do better.
                return Ending(event="failed", reason="runner_lost", message=f"the runner failed: {error_text(error)}")
        finally:
            if link.gone.is_set() and self._trainer is not None:
                self._trainer.kill(signal.SIGKILL)
            for task in (working, gone):
                task.cancel()
            await asyncio.gather(working, gone, return_exceptions=True)

    async def _unless_halted(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work gives; None when the attempt was halted before."""
        working = asyncio.create_task(work)
        halted = asyncio.create_task(self._halted.wait())
        try:
            await asyncio.wait({working, halted}, return_when=asyncio.FIRST_COMPLETED)
            return None if self._halted.is_set() else working.result()
        finally:
            for task in (working, halted):
                task.cancel()
            await asyncio.gather(working, halted, return_exceptions=True)

    async def _work(self, link: Link) -> Ending:
        framework = str(self._accepted.spec.get("framework"))
        entry = self._deps.trainers.get(framework)
        if entry is None:
            return Ending(
                event="failed", reason="invalid_config", message=f"this runner has no trainer for {framework}"
            )
        try:
            job = await self._unless_halted(self._prepare(link, entry))
        except (DatasetUnavailable, _ResumeUnusable, ApiError, TransportError, OSError) as error:
            if ends_the_attempt(error):
                raise
            reason: EndReason = "runner_lost"
            if isinstance(error, DatasetUnavailable):
                reason = "dataset_unavailable"
            elif isinstance(error, _ResumeUnusable):
                reason = "checkpoint_corrupt"
            line = f"{reason}: {error_text(error)}"
            link.note("stderr", line)
            self._log(line)
            return Ending(event="failed", reason=reason, message=error_text(error))
        if job is None:
            return ending_of(TrainerEnd(), self._intent)
        return await self._train(job, link)

    async def _prepare(self, link: Link, entry: TrainerEntry) -> dict[str, Any]:
        """The job file."""
        data_dir, work_dir = self._folder / "data", self._folder / "work"
        work_dir.mkdir(exist_ok=True, mode=0o700)
        summary = await prepare_dataset(
            client=self._deps.client,
            job_id=self._lease.job_id,
            token=self._lease.job_token,
            cache=self._deps.cache,
            data_dir=data_dir,
            retry=link.retry.within(FETCH_PATIENCE_S),
            on_progress=self._follow_dataset,
        )
        line = (
            f"dataset: {summary.files} files, {summary.size_bytes} bytes, "
            f"{summary.fetched_bytes} of them fetched, the rest was here"
        )
        link.note("stdout", line)
        self._log(line)
        return {
            "spec": self._accepted.spec,
            "data_dir": str(data_dir),
            "work_dir": str(work_dir),
            "resume": await self._fetch_resume(link),
            "module": entry.module,
            "options": dict(entry.options),
        }

    async def _fetch_resume(self, link: Link) -> dict[str, Any] | None:
        resume = self._accepted.resume
        if resume is None:
            return None
        target = self._folder / "resume.state"
        path = f"/api/v1/internal/jobs/{self._lease.job_id}/artifacts/{resume.artifact_id}/content"
        try:
            await download(
                Download(
                    self._deps.client,
                    path,
                    self._lease.job_token,
                    target,
                    resume.size,
                    resume.sha256,
                    link.retry.within(FETCH_PATIENCE_S),
                )
            )
        except (HashMismatch, ApiError) as error:
            # The server then goes back to the checkpoint before this one.
            if isinstance(error, HashMismatch) or error.status == 404:
                raise _ResumeUnusable(error_text(error)) from error
            raise
        link.note("stdout", f"resumes from the checkpoint of epoch {resume.epoch}")
        return {"path": str(target), "epoch": resume.epoch, "weights_only": resume.weights_only}

    def _environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if name not in PRIVATE_VARIABLES}
        # Lines have to appear when they are written, not when a buffer is full.
        env["PYTHONUNBUFFERED"] = "1"
        if self._gpus is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus)
        return env

    async def _train(self, job: dict[str, Any], link: Link) -> Ending:
        job_file = self._folder / "job.json"
        write_atomically(job_file, json.dumps(job))
        if self._halted.is_set():
            return ending_of(TrainerEnd(), self._intent)
        finished: list[Finished] = []
        checkpoints: asyncio.Queue[Checkpoint] = asyncio.Queue()

        def on_message(message: TrainerMessage) -> None:
            if isinstance(message, Finished):
                finished[:] = [message]
            elif isinstance(message, Checkpoint):
                checkpoints.put_nowait(message)
            else:
                for event in events_of(message):
                    link.emit(event)
                self._follow(message)

        async def take_checkpoints() -> None:
            while True:
                message = await checkpoints.get()
                try:
                    await link.checkpoint(message)
                except Exception as error:
                    link.note("stderr", f"a checkpoint was lost: {error_text(error)}")
                finally:
                    checkpoints.task_done()

        def on_start(pid: int) -> None:
            mark = TrainerMark(pid=pid, identity=identity_of(pid))
            write_atomically(self._folder / TRAINER_FILE, mark.model_dump_json())

        self._stage = "training"
        trainer = self._trainer = TrainerProcess(
            [sys.executable, "-m", "cultivar_runner.trainer", str(job_file)],
            cwd=Path(job["work_dir"]),
            env=self._environment(),
            on_message=on_message,
            on_output=link.output,
            on_noise=lambda line: link.note("stderr", line),
        )
        self._spawn(take_checkpoints())
        try:
            end = await trainer.run(on_start)
        finally:
            self._trainer_ended.set()
        await checkpoints.join()
        await link.end_logs()
        return ending_of(
            TrainerEnd(finished[0] if finished else None, end.exit_code, end.signal, link.stderr_tail), self._intent
        )

    def _follow(self, message: TrainerMessage) -> None:
        if isinstance(message, Started):
            self._total_epochs = message.total_epochs
            self._log(f"training, {message.total_epochs} epochs")
        elif isinstance(message, Epoch):
            self._epoch = message.epoch
            numbers = [
                f"{name} {value:.4g}"
                for name, value in (("loss", message.loss), ("accuracy", message.accuracy))
                if value is not None
            ]
            self._log(", ".join([f"epoch {message.epoch}", *numbers]))

    def _limits_of(self, ending: Ending) -> FinishLimits:
        if self._killed:
            return FinishLimits(0, 0.5, 1.5)
        timers = self._lease.timers
        return finish_limits(ending, timers.finalize_s, timers.terminal_retry_s)


def finish_limits(ending: Ending, finalize_s: float, last_event_s: float) -> FinishLimits:
    """How long the end of an attempt may take.

    After a stop the server waits for `finalize_s` at most, and whoever shuts a runner down waits for it; a job that
    ended by itself keeps its lease for as long as its last checkpoints take.
    """
    hurried = ending.event in ("stopped", "released")
    return FinishLimits(
        uploads_s=finalize_s * SHARE_FOR_UPLOADS if hurried else last_event_s,
        logs_s=finalize_s * SHARE_FOR_LOGS if hurried else finalize_s,
        last_event_s=last_event_s,
    )
