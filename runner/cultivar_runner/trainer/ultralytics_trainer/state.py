"""The resumable state of a run: everything by which two runs that go on from the same point end in the same weights.

The library's own `last.pt` keeps half-precision averages and no random numbers, so a run that goes on from it ends
elsewhere. This file is tensors and plain values only, and is opened without running anything that is in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..channel import CheckpointCorrupt

FORMAT = 1


def random_state() -> dict[str, Any]:
    """The state of all global random-number generators of this process."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets the generators back to `random_state()`'s result."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    # A machine with another number of devices has no use for the states of those that it lacks.
    for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value, device)


def read_state(path: Path) -> dict[str, Any]:
    """Loads a state; `CheckpointCorrupt` when it is damaged or no state of this trainer."""
    try:
        # mmap would keep the file open; weights_only refuses anything but tensors and plain values.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each raise their own.
        raise CheckpointCorrupt(f"{path.name} cannot be read: {type(error).__name__}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "model" not in state:
        raise CheckpointCorrupt(f"{path.name} is no state of the Ultralytics trainer")
    return state


def writer_of(state: dict[str, Any]) -> Callable[[Path], object]:
    """A function that writes the state to a path."""
    return lambda path: torch.save({"format": FORMAT, **state}, path)


def cpu_copy(value: Any) -> Any:
    """A deep copy with all tensors on the CPU, detached, and plain containers only."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: cpu_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cpu_copy(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
