"""The learning rate over a job: timm's schedulers, set from the epoch's number so that a resumed job needs no history.

Two plans are not timm's. One-cycle (L. N. Smith and N. Topin, 2018) is PyTorch's closed form over all updates. The
plateau is PyTorch's `ReduceLROnPlateau`, because timm's loses its counters on a resume. `milestones` and `step_size`
count as PyTorch's schedulers of those names do, after the warm-up.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, StepLRScheduler

from .config import Scheduler

# PyTorch's default: the last rate of a cycle is its first one divided by this.
FINAL_DIVISOR = 1e4


class RatePlan:
    """Sets the learning rate of an optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: Scheduler, learning_rate: float, epochs: int) -> None:
        self._optimizer = optimizer
        self._config = config
        self._base = learning_rate
        self._epochs = epochs
        self._timm = _timm_scheduler(optimizer, config)
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        if config.type == "reduce_on_plateau":
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer,
                mode=config.mode,
                factor=config.factor,
                patience=config.patience,
                threshold=config.threshold,
                cooldown=config.cooldown,
                min_lr=config.min_lr,
            )

    @property
    def rate(self) -> float:
        """The rate in use."""
        return float(self._optimizer.param_groups[0]["lr"])

    def begin_update(self, epoch: int, update: int, updates: int) -> None:
        """Sets the rate of an update.

        `epoch` counts from 0, `update` from 0 among the `updates` of the epoch.
        """
        config = self._config
        if self._timm is not None:
            if update == 0:
                self._timm.step(epoch)
            return
        if epoch < config.warmup_epochs:
            self._set(config.warmup_lr + (self._base - config.warmup_lr) * epoch / config.warmup_epochs)
        elif config.type == "one_cycle":
            past = (epoch - config.warmup_epochs) * updates + update
            self._set(self._one_cycle(past, (self._epochs - config.warmup_epochs) * updates))
        elif epoch == config.warmup_epochs and epoch > 0 and update == 0:
            self._set(self._base)

    def end_epoch(self, epoch: int, watched: float) -> None:
        """Tells a plateau plan how good the epoch (from 0) was."""
        if self._plateau is not None and epoch >= self._config.warmup_epochs and math.isfinite(watched):
            self._plateau.step(watched)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed job cannot know from the epoch's number."""
        if self._plateau is None:
            return {}
        names = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        return {name: float(getattr(self._plateau, name)) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        if self._plateau is not None and state:
            self._plateau.best = state["best"]
            for name in ("num_bad_epochs", "cooldown_counter", "last_epoch"):
                setattr(self._plateau, name, int(state[name]))

    def _set(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _one_cycle(self, step: int, steps: int) -> float:
        top, start = self._config.max_lr, self._base
        rise = self._config.pct_start * steps - 1
        if step <= rise and rise > 0:
            return self._anneal(start, top, step / rise)
        fall = steps - 1 - max(rise, 0.0)
        return self._anneal(top, start / FINAL_DIVISOR, min((step - max(rise, 0.0)) / fall, 1.0) if fall > 0 else 1.0)

    def _anneal(self, start: float, end: float, share: float) -> float:
        if self._config.anneal_strategy == "linear":
            return start + (end - start) * share
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _timm_scheduler(optimizer: torch.optim.Optimizer, config: Scheduler) -> Any:
    warmup: dict[str, Any] = {
        "warmup_t": config.warmup_epochs,
        "warmup_lr_init": config.warmup_lr,
        "warmup_prefix": True,
    }
    if config.type == "none":
        return StepLRScheduler(optimizer, decay_t=1, decay_rate=1.0, **warmup)
    if config.type == "step":
        return StepLRScheduler(optimizer, decay_t=config.step_size, decay_rate=config.gamma, **warmup)
    if config.type == "exponential":
        return StepLRScheduler(optimizer, decay_t=1, decay_rate=config.gamma, **warmup)
    if config.type == "multistep":
        # timm compares with the epoch's number from 1.
        milestones = sorted(milestone + 1 for milestone in config.milestones)
        return MultiStepLRScheduler(optimizer, decay_t=milestones, decay_rate=config.gamma, **warmup)
    if config.type == "cosine":
        return CosineLRScheduler(optimizer, t_initial=config.T_max, lr_min=config.eta_min, cycle_limit=1, **warmup)
    if config.type == "cosine_warm_restarts":
        return CosineLRScheduler(
            optimizer,
            t_initial=config.T_0,
            lr_min=config.eta_min,
            cycle_mul=config.T_mult,
            cycle_limit=sys.maxsize,
            **warmup,
        )
    return None
