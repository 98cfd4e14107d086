"""From a job's spec to the arguments of Ultralytics. Pure.

Each setting of `advanced_config` is an argument of Ultralytics' own; the defaults are those that the server publishes
(src/training/config/ultralytics.ts), which differ from the library's in the optimizer and the learning-rate plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..channel import InvalidConfig
from ..messages import JobSpec

# The platform's task -> the library's.
TASKS = {
    "object_detection": "detect",
    "instance_segmentation": "segment",
    "pose_estimation": "pose",
    "image_classification": "classify",
}
# How the names of models end that are for a task; detection has no ending.
ENDINGS = {"segment": "-seg", "pose": "-pose", "classify": "-cls"}

# Setting -> argument and default. `learning_rate` has no default here: the job's own rate stands for it.
ARGUMENTS: dict[str, tuple[str, Any]] = {
    "optimizer.type": ("optimizer", "adam"),
    "optimizer.learning_rate": ("lr0", None),
    "optimizer.weight_decay": ("weight_decay", 0.0005),
    "optimizer.momentum": ("momentum", 0.937),
    "scheduler.cos_lr": ("cos_lr", True),
    "scheduler.lrf": ("lrf", 0.01),
    "scheduler.warmup_epochs": ("warmup_epochs", 3),
    "scheduler.warmup_momentum": ("warmup_momentum", 0.8),
    "scheduler.warmup_bias_lr": ("warmup_bias_lr", 0.1),
    "augmentation.mosaic": ("mosaic", 1.0),
    "augmentation.mixup": ("mixup", 0.0),
    "augmentation.copy_paste": ("copy_paste", 0.0),
    "augmentation.degrees": ("degrees", 0.0),
    "augmentation.translate": ("translate", 0.1),
    "augmentation.scale": ("scale", 0.5),
    "augmentation.shear": ("shear", 0.0),
    "augmentation.perspective": ("perspective", 0.0),
    "augmentation.flipud": ("flipud", 0.0),
    "augmentation.fliplr": ("fliplr", 0.5),
    "augmentation.hsv_h": ("hsv_h", 0.015),
    "augmentation.hsv_s": ("hsv_s", 0.7),
    "augmentation.hsv_v": ("hsv_v", 0.4),
    "preprocessing.image_size": ("imgsz", None),
    "optimization.amp": ("amp", True),
    "optimization.close_mosaic": ("close_mosaic", 10),
    "seed": ("seed", 0),
}
# Settings that are not arguments of the library: they are followed by this trainer.
OWN: dict[str, Any] = {"validation.val_interval": 1, "checkpoint_interval": 10, "pretrained": True}

_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}


@dataclass(frozen=True)
class Plan:
    """What a job asks for."""

    # Library's name of the task: detect, segment, pose, classify.
    task: str
    # Arguments of the library's trainer that follow from the spec; paths and devices are not among them.
    arguments: dict[str, Any]
    pretrained: bool
    # Epochs between two saved states, and between two validations.
    checkpoint_interval: int
    val_interval: int


def plan(spec: JobSpec) -> Plan:
    """Reads a spec. `InvalidConfig` names a task, model or setting that cannot be trained."""
    task = TASKS.get(spec.task_type)
    if task is None:
        raise InvalidConfig("task_type", f"Ultralytics does not train {spec.task_type}")
    if not spec.model_name.endswith(ENDINGS.get(task, "")) or (
        task == "detect" and spec.model_name.endswith(tuple(ENDINGS.values()))
    ):
        raise InvalidConfig("model_name", f"{spec.model_name} is no model for {spec.task_type}")
    given = flatten(spec.advanced_config or {})
    unknown = sorted(given.keys() - ARGUMENTS.keys() - OWN.keys())
    if unknown:
        raise InvalidConfig(f"advanced_config.{unknown[0]}", "this runner does not know the setting")
    arguments = {argument: given.get(name, default) for name, (argument, default) in ARGUMENTS.items()}
    optimizer = str(arguments["optimizer"]).lower()
    if optimizer not in _OPTIMIZERS:
        raise InvalidConfig("advanced_config.optimizer.type", f"must be one of {', '.join(_OPTIMIZERS)}")
    arguments["optimizer"] = _OPTIMIZERS[optimizer]
    if arguments["lr0"] is None:
        arguments["lr0"] = spec.learning_rate
    if arguments["imgsz"] is None:
        arguments["imgsz"] = spec.image_size or (224 if task == "classify" else 640)
    if task != "classify" and arguments["imgsz"] % 32:
        raise InvalidConfig("advanced_config.preprocessing.image_size", "must be a multiple of 32")
    if task == "classify" and arguments["scale"] >= 1:
        # The library cuts a part of at least 1 - scale out of the image.
        raise InvalidConfig("advanced_config.augmentation.scale", "must be below 1 for classification")
    arguments |= {
        "task": task,
        "epochs": spec.epochs,
        "batch": spec.batch_size,
        # The configuration has no early stopping: the library's own must not end a job before its last epoch.
        "patience": 0,
        "deterministic": True,
        "plots": False,
        "exist_ok": True,
    }
    own = {name: given.get(name, default) for name, default in OWN.items()}
    return Plan(
        task=task,
        arguments=arguments,
        pretrained=bool(own["pretrained"]),
        checkpoint_interval=max(1, int(own["checkpoint_interval"])),
        val_interval=max(1, int(own["validation.val_interval"])),
    )


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, one level as in the server's tables."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
