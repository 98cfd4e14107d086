"""timm models and optimizers from a job's settings."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from ..channel import InvalidConfig
from .config import Optimizer, Settings
from .data import InputForm


def build_model(settings: Settings, classes: int, form: InputForm, *, pretrained: bool) -> nn.Module:
    """The model of a job on the CPU; random weights follow the job's seed.

    `InvalidConfig` when timm has no such model, the image size does not fit it, or its published weights cannot be had.
    """
    name = settings.model_name
    if not timm.is_model(name):
        raise InvalidConfig("model_name", f"timm {timm.__version__} has no model {name!r}")
    arguments: dict[str, Any] = {"num_classes": classes, "in_chans": form.channels}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        arguments["img_size"] = form.size
    torch.manual_seed(settings.seed)
    if pretrained:
        model = _with_published_weights(name, arguments)
        _warn_about_statistics(model, settings)
    else:
        try:
            model = timm.create_model(name, pretrained=False, **arguments)
        except (AssertionError, ValueError) as error:
            raise _size_problem(form, error) from error
    _try_size(model, form)
    return model


def _with_published_weights(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **arguments)
    # Whatever the hub, the network or the disk raises: the reason is in the message, and the way out is the same.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        raise InvalidConfig(
            "advanced_config.pretrained",
            f"the published weights of {name} cannot be had on this runner ({reason}); "
            "put them into its model cache, or set pretrained to false to begin from random weights",
        ) from error
    return model


def _warn_about_statistics(model: nn.Module, settings: Settings) -> None:
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    mean, std = cfg.get("mean"), cfg.get("std")
    wanted = settings.preprocessing
    if mean and std and (tuple(mean) != wanted.mean or tuple(std) != wanted.std or not wanted.normalize):
        print(f"note: the published weights were trained with mean {tuple(mean)} and std {tuple(std)}", flush=True)


@torch.no_grad()
def _try_size(model: nn.Module, form: InputForm) -> None:
    """One image through the model: what does not fit fails here and by name, not in the first batch."""
    model.eval()
    try:
        model(torch.zeros(1, form.channels, form.size, form.size))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise _size_problem(form, error) from error
    finally:
        model.train()


def _size_problem(form: InputForm, error: Exception) -> InvalidConfig:
    reason = str(error).split("\n")[0][:200] or type(error).__name__
    return InvalidConfig(
        "advanced_config.preprocessing.image_size", f"{form.size} pixels do not fit this model: {reason}"
    )


def build_optimizer(model: nn.Module, config: Optimizer, learning_rate: float) -> torch.optim.Optimizer:
    """Timm's optimizer of that name; biases and norms are not decayed, as timm does it."""
    arguments: dict[str, Any] = {"lr": learning_rate, "weight_decay": config.weight_decay}
    if config.type in ("adam", "adamw"):
        arguments |= {"betas": config.betas, "eps": config.eps, "amsgrad": config.amsgrad}
    elif config.type == "sgd":
        arguments |= {"momentum": config.momentum}
    elif config.type == "rmsprop":
        arguments |= {"momentum": config.momentum, "alpha": config.alpha, "eps": config.eps}
    else:
        arguments |= {"eps": config.eps}
    # timm calls SGD without Nesterov's step "momentum".
    name = "momentum" if config.type == "sgd" and not config.nesterov else config.type
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(model, opt=name, **arguments)
    except ValueError as error:
        raise InvalidConfig("advanced_config.optimizer", str(error)) from error
    return optimizer
