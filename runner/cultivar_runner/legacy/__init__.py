"""Trainers that exist already, unchanged: `run --exec`.

A trainer module like those of the frameworks: it starts the command as its child, with the environment that the
trainers of the platform read, and listens on this machine for what they send: "trainer SDK 2.0" and "MVP logger"
calls, the plain callback, and S3 requests for the job's data set and checkpoints. Lease, stop, heartbeat and outbox
are the agent's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ..trainer.channel import Channel, TrainerError
from ..trainer.messages import Checkpoint, CheckpointFile, FinishReason, TrainerJob
from .calls import Calls
from .environment import Endpoint, child_environment
from .objects import ObjectStore
from .server import LocalServer
from .translate import Outcome, Translator

# How often the command is looked after, and how long a trainer that was asked to stop may take before it is told again.
POLL_S = 0.2
INTERRUPT_AGAIN_S = 10.0
# A signal that ended the command, as shells count it.
SIGNAL_EXIT_BASE = 128


class TrainerFailed(TrainerError):
    """The trainer said that it failed, or ended badly."""

    def __init__(self, reason: FinishReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def train(job: TrainerJob, channel: Channel) -> FinishReason:
    """Runs the command of the job's options to its end. Raises TrainerFailed with the trainer's own words."""
    command = str(job.options["command"])
    token = secrets.token_hex(16)
    translator = Translator(channel.send, resumed_after=_resumed_after(job))
    (job.work_dir / "output").mkdir(parents=True, exist_ok=True)
    uploads = job.work_dir / "objects"
    store = ObjectStore(
        dataset_dir=job.data_dir,
        dataset_id=job.spec.dataset_id,
        folder=uploads,
        on_upload=lambda key, path: _publish(job, channel, translator, key, path),
    )
    if job.resume is not None:
        store.offer(f"checkpoints/{job.spec.job_id}/last.pt", job.resume.path)
    calls = Calls(job.spec.job_id, translator)
    with LocalServer(token, calls, store) as server:
        environment = child_environment(job, Endpoint(server.url, token), os.environ)
        code = _run(command, environment, channel)
    translator.flush()
    return _finished(translator.outcome, code, channel.stop_requested)


def _resumed_after(job: TrainerJob) -> int:
    """Epochs that the server has from an earlier attempt: a trainer that cannot resume tells them once more."""
    return 0 if job.resume is None or job.resume.weights_only else job.resume.epoch


def _run(command: str, environment: Mapping[str, str], channel: Channel) -> int:
    """Starts the command in this process's group and waits for its end; a stop is an interrupt, as Ctrl-C would be."""
    # This process ignores interrupts, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        child = subprocess.Popen(command, shell=True, env=dict(environment), stdin=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, before)
    interrupted_at = 0.0
    while (code := child.poll()) is None:
        time.sleep(POLL_S)
        if channel.stop_requested and time.monotonic() - interrupted_at > INTERRUPT_AGAIN_S:
            interrupted_at = time.monotonic()
            _interrupt_children()
    return code


def _interrupt_children() -> None:
    """Interrupts the whole group: a shell does not pass a signal on to what it runs. This process ignores it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(os.getpgrp(), signal.SIGINT)


def _finished(outcome: Outcome | None, code: int, stopped: bool) -> FinishReason:
    # The first word about the end counts: a lost answer makes clients say "failed" behind "completed".
    if outcome is not None and outcome.reason == "done":
        return "done"
    if stopped:
        return "user_stop"
    if outcome is not None:
        raise TrainerFailed(outcome.reason, outcome.message)
    if code == 0:
        return "done"
    if code < 0:
        raise TrainerFailed("exit_nonzero", f"the trainer was ended by {signal.Signals(-code).name}")
    if code > SIGNAL_EXIT_BASE and code - SIGNAL_EXIT_BASE in {int(number) for number in signal.Signals}:
        name = signal.Signals(code - SIGNAL_EXIT_BASE).name
        raise TrainerFailed("exit_nonzero", f"the trainer was ended by {name}")
    raise TrainerFailed("exit_nonzero", f"the trainer ended with exit code {code}")


def _publish(job: TrainerJob, channel: Channel, translator: Translator, key: str, path: Path) -> None:
    """An object that the trainer has stored under the job's own prefix is an artifact of the job."""
    prefix, name = f"checkpoints/{job.spec.job_id}/", key.rsplit("/", 1)[-1]
    if not key.startswith(prefix) or not name:
        return
    translator.flush()
    # The trainer may store the same key again while this one is on its way.
    kept = job.checkpoint_dir / f"{secrets.token_hex(4)}-{name}"
    os.link(path, kept)
    role = "best" if Path(name).stem == "best" else "last"
    file = CheckpointFile(kind="checkpoint", path=kept, name=name)
    channel.send(Checkpoint(epoch=translator.last_epoch, role=role, files=[file]))
