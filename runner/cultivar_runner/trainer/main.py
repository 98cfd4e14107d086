"""`python -m cultivar_runner.trainer JOBFILE`: the rim of a trainer process.

Job file, channel, signals, exit code; the framework's module does the rest. A trainer module has
`train(job: TrainerJob, channel: Channel) -> FinishReason`; it may raise a `TrainerError`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Protocol, cast

from pydantic import ValidationError

from .channel import Channel, InvalidConfig, TrainerError, end_group_later
from .messages import Finished, FinishReason, TrainerJob

MODULES = {
    "timm": "cultivar_runner.trainer.timm_trainer",
    "ultralytics": "cultivar_runner.trainer.ultralytics_trainer",
}


class TrainerModule(Protocol):
    """What a framework's module has to offer."""

    def train(self, job: TrainerJob, channel: Channel) -> FinishReason:
        """Trains the job until it is done or asked to stop."""
        ...


def load_module(job: TrainerJob) -> TrainerModule:
    """The module that trains this job; `InvalidConfig` when there is none."""
    name = job.module or MODULES.get(job.spec.framework)
    if name is None:
        raise InvalidConfig("framework", f"this runner cannot train {job.spec.framework!r}")
    return cast(TrainerModule, importlib.import_module(name))


def outcome_of(error: BaseException) -> Finished:
    """How an exception ends a job."""
    if isinstance(error, TrainerError):
        return Finished(reason=cast(FinishReason, error.reason), message=str(error))
    # torch.cuda.OutOfMemoryError (a RuntimeError) cannot be imported here: not every trainer has torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Finished(reason="oom", message=str(error).split("\n")[0] or "out of memory")
    return Finished(reason="exit_nonzero", message=f"{type(error).__name__}: {error}")


def run(job: TrainerJob, channel: Channel) -> Finished:
    """Trains the job; an exception becomes an outcome, its traceback goes to stderr, which is the job's log."""
    try:
        return Finished(reason=load_module(job).train(job, channel))
    except TrainerError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return outcome_of(error)
    except Exception as error:
        traceback.print_exc()
        return outcome_of(error)


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    leads_group = os.getpgrp() == os.getpid()
    channel = Channel.connect(on_agent_gone=end_group_later if leads_group else None)
    signal.signal(signal.SIGTERM, lambda *_: channel.request_stop())
    # Ctrl-C reaches the whole group of the terminal; what it means for the job is the agent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN if channel.connected else lambda *_: channel.request_stop())
    try:
        job = TrainerJob.model_validate_json(Path(arguments[0]).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "spec")
        finished = Finished(reason="invalid_config", message=f"{field}: {first['msg']}")
        print(f"invalid_config: {finished.message}", file=sys.stderr)
    else:
        finished = run(job, channel)
    print(f"finished: {finished.reason}", flush=True)
    sys.stderr.flush()
    channel.send(finished)
    channel.close()
    return 0 if finished.reason in ("done", "user_stop") else 1
