"""Trains detection, instance segmentation, pose and classification with Ultralytics."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

from ..channel import Channel, InvalidConfig, TrainerError
from ..messages import FinishReason, TrainerJob
from .arguments import Plan, plan
from .dataset_dir import write_dataset
from .environment import prepare, published_weights
from .relay import Relay

# Where the processes of several devices find the job; the library starts them itself, the environment is inherited.
_JOIN = "CULTIVAR_ULTRALYTICS_RUN"


def train(job: TrainerJob, channel: Channel) -> FinishReason:
    """Trains the job until it is done or asked to stop. Raises a `TrainerError` for what has a reason of its own."""
    wanted = plan(job.spec)
    work = job.work_dir.resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepare(work / "ultralytics")
    model = _model_of(job, wanted)
    data = write_dataset(job.spec, wanted.task, job.data_dir.resolve(), work / "dataset")

    import torch

    from .run import RUNS, Run, use

    devices = torch.cuda.device_count()
    run = Run(job, channel, data)
    use(run)
    arguments: dict[str, Any] = {
        **wanted.arguments,
        **model,
        "data": str(data),
        "project": str(work),
        "name": "run",
        "device": ",".join(str(i) for i in range(devices)) if devices else "cpu",
        "verbose": False,
    }
    trainer = RUNS[wanted.task](overrides=arguments)
    if not trainer.ddp:
        trainer.train()
        return cast(FinishReason, run.outcome)
    return _on_several_devices(trainer, job, channel, data)


def description_of(model_name: str) -> str:
    """The library's description of a model, from which it is built with random weights."""
    # That of v5 models has no u in its name; the size is read out of the name.
    return f"{model_name.removesuffix('u') if model_name.startswith('yolov5') else model_name}.yaml"


def _model_of(job: TrainerJob, wanted: Plan) -> dict[str, Any]:
    """The `model` and `pretrained` arguments."""
    name = job.spec.model_name
    from ultralytics.nn.tasks import yaml_model_load

    try:
        yaml_model_load(description_of(name))
    except Exception as error:
        raise InvalidConfig("model_name", f"this version of Ultralytics has no model {name}") from error
    if wanted.pretrained and job.resume is None:
        return {"model": str(published_weights(name)), "pretrained": True}
    return {"model": description_of(name), "pretrained": False}


def _on_several_devices(trainer: Any, job: TrainerJob, channel: Channel, data: Path) -> FinishReason:
    """Lets the library start a process for each device; the first of them speaks through this one's channel."""
    work = job.work_dir.resolve()
    job_file, outcome = work / "run-job.json", work / "run-outcome.json"
    job_file.write_text(job.model_dump_json(), encoding="utf-8")
    outcome.unlink(missing_ok=True)
    with Relay(channel) as relay:
        os.environ[_JOIN] = json.dumps(
            {"job": str(job_file), "data": str(data), "socket": relay.path, "outcome": str(outcome)}
        )
        try:
            trainer.train()
        except Exception:
            if not outcome.exists():
                raise
        finally:
            del os.environ[_JOIN]
    said = json.loads(outcome.read_text(encoding="utf-8"))
    if "error" in said:
        error = TrainerError(said["error"])
        error.reason = said["reason"]
        raise error
    return cast(FinishReason, said["reason"])


def join() -> None:
    """In a process that the library started for a device: takes part in the run of the process that trains the job."""
    given = os.environ.get(_JOIN)
    if given is None:
        raise RuntimeError("this trainer belongs to no run")
    import atexit

    from ultralytics.utils import RANK

    from .run import Run, use

    told = json.loads(given)
    job = TrainerJob.model_validate_json(Path(told["job"]).read_bytes())
    first = RANK == 0
    channel = Channel.connect(told["socket"]) if first else Channel(None)
    run = Run(job, channel, Path(told["data"]))
    use(run)
    if first:
        run.outcome_file = Path(told["outcome"])
        atexit.register(channel.close)
