"""The resumable state of a job (`last.state`), a file of PyTorch that holds tensors and plain values only."""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..channel import CheckpointCorrupt
from ..common.files import write_durably

FORMAT = 1


@dataclass
class Sums:
    """Of the training images of the epoch in progress."""

    loss: float = 0.0
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0


@dataclass
class Mark:
    """The best validation so far."""

    value: float
    loss: float
    epoch: int


@dataclass
class Progress:
    """Where training stands."""

    # Complete epochs.
    epoch: int = 0
    # Batches done in the epoch after them, and how many that epoch has.
    batch: int = 0
    batches: int = 0
    sums: Sums = field(default_factory=Sums)
    best: Mark | None = None
    # What early stopping counts from: the last gain of more than its least gain.
    plateau: Mark | None = None


@dataclass
class State:
    """All of it. The random numbers need no place here: they follow from seed, epoch and batch."""

    model_name: str
    class_names: list[str]
    input: dict[str, Any]
    progress: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    schedule: dict[str, Any]


def save_state(path: Path, state: State) -> Path:
    """Writes it durably; returns `path`."""
    content = {**vars(state), "progress": asdict(state.progress), "format": FORMAT, "framework": "timm"}
    return write_durably(path, lambda temporary: torch.save(content, temporary))


def load_state(path: Path) -> State:
    """Reads a state without running any code in it. `CheckpointCorrupt` when it is damaged or another framework's."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointCorrupt(f"the checkpoint cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict) or content.get("framework") != "timm" or content.get("format") != FORMAT:
        raise CheckpointCorrupt("the checkpoint is not a state of this trainer")
    try:
        progress = content["progress"]
        marks = {key: None if progress[key] is None else Mark(**progress[key]) for key in ("best", "plateau")}
        sums = Sums(**progress["sums"])
        return State(
            progress=Progress(**{**progress, **marks, "sums": sums}),
            **{name: content[name] for name in State.__dataclass_fields__ if name != "progress"},
        )
    except (KeyError, TypeError) as error:
        raise CheckpointCorrupt(f"the checkpoint lacks {error}") from error
