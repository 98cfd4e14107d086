import math
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from cultivar_runner.trainer.timm_trainer.config import Scheduler
from cultivar_runner.trainer.timm_trainer.schedule import RatePlan

EPOCHS = 24
BASE = 0.1


def optimizer_of() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)


def rates(config: dict[str, Any], updates: int = 1, watched: list[float] | None = None) -> list[float]:
    plan = RatePlan(optimizer_of(), Scheduler(**config), BASE, EPOCHS)
    found = []
    for epoch in range(EPOCHS):
        for update in range(updates):
            plan.begin_update(epoch, update, updates)
            found.append(plan.rate)
        plan.end_epoch(epoch, 0.0 if watched is None else watched[epoch])
    return found


def of_torch(make: Any, steps: int = EPOCHS, watched: list[float] | None = None) -> list[float]:
    optimizer = optimizer_of()
    scheduler = make(optimizer)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([] if watched is None else [watched[step]]))
    return found


CASES: list[tuple[dict[str, Any], Any]] = [
    ({"type": "none"}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    ({"type": "step", "step_size": 5, "gamma": 0.5}, lambda o: lr_scheduler.StepLR(o, 5, 0.5)),
    (
        {"type": "multistep", "milestones": [12, 3, 4], "gamma": 0.5},
        lambda o: lr_scheduler.MultiStepLR(o, [3, 4, 12], 0.5),
    ),
    ({"type": "exponential", "gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    (
        {"type": "cosine", "T_max": EPOCHS, "eta_min": 0.01},
        lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS, 0.01),
    ),
    (
        {"type": "cosine_warm_restarts", "T_0": 3, "T_mult": 2, "eta_min": 0.01},
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
    ),
    (
        {"type": "cosine_warm_restarts", "T_0": 4, "T_mult": 1},
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 1),
    ),
]


@pytest.mark.parametrize(("config", "make"), CASES, ids=lambda value: value["type"] if isinstance(value, dict) else "")
def test_a_plan_is_that_of_pytorch_under_the_same_name(config: dict[str, Any], make: Any) -> None:
    assert rates(config) == pytest.approx(of_torch(make))


@pytest.mark.parametrize(("config", "make"), CASES, ids=lambda value: value["type"] if isinstance(value, dict) else "")
def test_warm_up_rises_in_a_line_and_the_plan_begins_after_it(config: dict[str, Any], make: Any) -> None:
    found = rates({**config, "warmup_epochs": 4, "warmup_lr": 0.02})
    assert found[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert found[4:] == pytest.approx(of_torch(make)[: EPOCHS - 4])


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_one_cycle_runs_over_all_updates_from_the_learning_rate(strategy: Any) -> None:
    found = rates({"type": "one_cycle", "max_lr": 0.5, "pct_start": 0.25, "anneal_strategy": strategy}, updates=3)
    expected = of_torch(
        lambda o: lr_scheduler.OneCycleLR(
            o,
            0.5,
            total_steps=EPOCHS * 3 + 1,
            pct_start=0.25 * EPOCHS * 3 / (EPOCHS * 3 + 1),
            anneal_strategy=strategy,
            div_factor=0.5 / BASE,
            cycle_momentum=False,
        ),
        EPOCHS * 3,
    )
    # PyTorch's last step cannot be taken after the last update, so its cycle is one step longer here.
    assert found[0] == pytest.approx(BASE)
    assert max(found) == pytest.approx(0.5, rel=1e-6)
    assert found[:18] == pytest.approx(expected[:18], rel=1e-6)
    assert found[-1] == pytest.approx(BASE / 1e4)
    assert found[17:] == sorted(found[17:], reverse=True)


def test_one_cycle_after_a_warm_up_uses_the_epochs_that_are_left() -> None:
    found = rates({"type": "one_cycle", "max_lr": 0.5, "warmup_epochs": 4, "warmup_lr": 0.0}, updates=2)
    assert found[:8] == pytest.approx([0, 0, 0.025, 0.025, 0.05, 0.05, 0.075, 0.075])
    assert found[8] == pytest.approx(BASE) and found[-1] == pytest.approx(BASE / 1e4)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_is_that_of_pytorch(mode: str) -> None:
    watched = [math.sin(epoch / 3) for epoch in range(EPOCHS)]
    config: dict[str, Any] = {
        "factor": 0.5,
        "patience": 2,
        "threshold": 0.01,
        "cooldown": 1,
        "min_lr": 0.02,
        "mode": mode,
    }
    expected = of_torch(lambda o: lr_scheduler.ReduceLROnPlateau(o, **config), watched=watched)
    found = rates({"type": "reduce_on_plateau", **config}, watched=watched)
    assert found == pytest.approx(expected)
    assert 0.02 in [round(rate, 9) for rate in found]


def test_a_plateau_goes_on_from_its_state() -> None:
    config = Scheduler(type="reduce_on_plateau", patience=2, factor=0.5)
    straight = RatePlan(optimizer_of(), config, BASE, EPOCHS)
    first = RatePlan(optimizer_of(), config, BASE, EPOCHS)
    for epoch in range(2):
        for plan in (straight, first):
            plan.begin_update(epoch, 0, 1)
            plan.end_epoch(epoch, 1.0)
    resumed = RatePlan(optimizer_of(), config, BASE, EPOCHS)
    resumed.load_state_dict(first.state_dict())
    for epoch in range(2, 8):
        for plan in (straight, resumed):
            plan.begin_update(epoch, 0, 1)
            plan.end_epoch(epoch, 1.0)
        assert resumed.rate == straight.rate
    assert resumed.rate < BASE


@pytest.mark.parametrize("config", [case[0] for case in CASES], ids=lambda config: config["type"])
def test_any_epoch_can_be_the_first_one(config: dict[str, Any]) -> None:
    whole = rates({**config, "warmup_epochs": 2})
    for epoch in (1, 2, 7, EPOCHS - 1):
        plan = RatePlan(optimizer_of(), Scheduler(**config, warmup_epochs=2), BASE, EPOCHS)
        plan.begin_update(epoch, 0, 1)
        assert plan.rate == pytest.approx(whole[epoch])
