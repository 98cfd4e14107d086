"""What the agent and its trainer say to each other: one JSON object a line over a Unix socket, and the job file.

The trainer sends `Started`, `Epoch`, `Validation`, `Checkpoint` and, last, `Finished`; the agent sends `Stop` and
`SaveCheckpoint`. Log lines are no messages: the trainer writes them to its stdout and stderr.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, field_validator

FinishReason = Literal[
    "done",
    "user_stop",
    "invalid_config",
    "exit_nonzero",
    "dataset_unavailable",
    "checkpoint_corrupt",
    "oom",
]


def plain(value: Any) -> JsonValue:
    """A value as JSON knows it: numbers of numpy and torch as Python's, tuples as lists, NaN and Infinity as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    # Arrays and scalars of numpy and torch have both of these; neither library is needed here.
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return plain(getattr(value, method)())
    raise TypeError(f"{type(value).__name__} is no JSON value")


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(extra="forbid")

    def line(self) -> bytes:
        """The message as it goes over the socket, with its line end."""
        return self.model_dump_json(exclude_none=False).encode() + b"\n"


class JobSpec(BaseModel):
    """A job as the server hands it out at accept. Unknown keys are dropped: a newer server may say more."""

    model_config = ConfigDict(extra="ignore")

    job_id: int
    framework: str
    model_name: str
    task_type: str
    dataset_id: str
    dataset_format: str
    num_classes: int | None = None
    class_names: list[str] | None = None
    epochs: int
    batch_size: int
    learning_rate: float
    advanced_config: dict[str, Any] | None = None
    primary_metric: str
    primary_metric_mode: Literal["max", "min"]
    image_size: int | None = None


class Resume(BaseModel):
    """The state to go on from."""

    path: Path
    # Complete epochs that the server believes to be in it; the state's own count is what is used.
    epoch: int
    # Take only the weights and begin at epoch 1.
    weights_only: bool = False


class TrainerJob(BaseModel):
    """Content of the job file."""

    spec: JobSpec
    # Folder that holds the dataset's files under their manifest paths. Only read.
    data_dir: Path
    # Folder for what this attempt makes; checkpoints go to `checkpoints` in it.
    work_dir: Path
    resume: Resume | None = None
    # Module that trains it, in place of the one of the framework (`--trainer framework=module`).
    module: str | None = None
    # What the runner was told for this trainer on its command line.
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def checkpoint_dir(self) -> Path:
        """Where checkpoints go; made if it is not there."""
        path = self.work_dir / "checkpoints"
        path.mkdir(parents=True, exist_ok=True)
        return path


class Started(Message):
    """Training begins."""

    type: Literal["started"] = "started"
    total_epochs: int


class Epoch(Message):
    """An epoch is over. Accuracy in 0..1, of the validation set when it was measured in this epoch."""

    type: Literal["epoch"] = "epoch"
    epoch: int = Field(ge=1)
    loss: float | None = None
    accuracy: float | None = None
    learning_rate: float | None = None
    extra_metrics: dict[str, float | None] = Field(default_factory=dict)

    @field_validator("loss", "accuracy", "learning_rate", "extra_metrics", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return plain(value)


class Validation(Message):
    """A validation result under the contract's field names, with `epoch` and all `images` (the agent pages them)."""

    type: Literal["validation"] = "validation"
    data: dict[str, Any]

    @field_validator("data", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return plain(value)


class CheckpointFile(Message):
    """One file of a checkpoint: complete on disk and never written to again."""

    kind: Literal["model", "checkpoint", "file"]
    path: Path
    # Name of the artifact: best.onnx, best.bin, last.state …
    name: str
    # Of models only. `external_data` names a file of the same checkpoint that comes before: [{"path", "file"}].
    manifest: dict[str, Any] | None = None

    @field_validator("manifest", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return plain(value)


class Checkpoint(Message):
    """A checkpoint is on disk. `epoch` counts the complete epochs behind it; 0 while the first one is in progress."""

    type: Literal["checkpoint"] = "checkpoint"
    epoch: int = Field(ge=0)
    role: Literal["best", "last"]
    files: list[CheckpointFile]


class Finished(Message):
    """The last message."""

    type: Literal["finished"] = "finished"
    reason: FinishReason
    message: str | None = None


class Stop(Message):
    """Save a checkpoint between two batches, report `finished` with `user_stop`, exit 0."""

    type: Literal["stop"] = "stop"


class SaveCheckpoint(Message):
    """Save a checkpoint between two batches and go on."""

    type: Literal["checkpoint"] = "checkpoint"


TrainerMessage = Annotated[
    Started | Epoch | Validation | Checkpoint | Finished,
    Field(discriminator="type"),
]
AgentCommand = Annotated[Stop | SaveCheckpoint, Field(discriminator="type")]

trainer_message: TypeAdapter[TrainerMessage] = TypeAdapter(TrainerMessage)
agent_command: TypeAdapter[AgentCommand] = TypeAdapter(AgentCommand)
