"""A timm job's settings: every field of the server's table (src/training/config/timm.ts) with its default.

The server has checked types and limits; here is checked what only the trainer can know. A setting that cannot be
honoured is refused by its name, none is dropped in silence. Parameters of a feature that is switched off are accepted,
as forms send them along.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..channel import InvalidConfig
from ..common.metrics import Mode
from ..messages import JobSpec

TASK = "image_classification"

MetricName = Literal["accuracy", "loss", "precision", "recall", "f1", "top5_accuracy", "roc_auc"]
METRIC_NAMES: dict[str, MetricName] = {
    "accuracy": "accuracy",
    "val_accuracy": "accuracy",
    "loss": "loss",
    "val_loss": "loss",
    "overall_loss": "loss",
    "precision": "precision",
    "recall": "recall",
    "f1": "f1",
    "f1_score": "f1",
    "top5_accuracy": "top5_accuracy",
    "roc_auc": "roc_auc",
}
# Overlaps of boxes and masks: there are none in classification.
_OVERLAP_METRICS = {"map", "map50", "map75", "map_small", "map_medium", "map_large"}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Optimizer(_Section):
    """`optimizer.*`."""

    type: Literal["adam", "adamw", "sgd", "rmsprop", "adagrad"] = "adam"
    learning_rate: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    alpha: float = 0.99


class Scheduler(_Section):
    """`scheduler.*`."""

    type: Literal[
        "none", "step", "multistep", "exponential", "cosine", "cosine_warm_restarts", "reduce_on_plateau", "one_cycle"
    ] = "none"
    step_size: int = 30
    milestones: list[int] = [30, 60, 90]
    gamma: float = 0.1
    T_max: int = 100
    eta_min: float = 0.0
    T_0: int = 10
    T_mult: int = 2
    mode: Mode = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    max_lr: float = 0.1
    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    warmup_epochs: int = 0
    warmup_lr: float = 1e-6


class Augmentation(_Section):
    """`augmentation.*`."""

    enabled: bool = True
    random_flip: bool = True
    random_flip_prob: float = 0.5
    random_rotation: bool = False
    rotation_degrees: int = 15
    random_crop: bool = False
    crop_scale: tuple[float, float] = (0.8, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.333)
    color_jitter: bool = False
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.1
    random_erasing: bool = False
    erasing_prob: float = 0.5
    random_grayscale: bool = False
    grayscale_prob: float = 0.1
    gaussian_blur: bool = False
    blur_kernel_size: int = 5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    mixup: bool = False
    mixup_alpha: float = 0.2
    cutmix: bool = False
    cutmix_alpha: float = 1.0
    autoaugment: bool = False
    autoaugment_policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"


class Preprocessing(_Section):
    """`preprocessing.*`."""

    image_size: int | None = None
    resize_mode: Literal["resize", "resize_crop", "pad"] = "resize"
    normalize: bool = True
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    pad_value: int = 0
    to_rgb: bool = True


class Validation(_Section):
    """`validation.*`."""

    enabled: bool = True
    metrics: list[str] = ["accuracy"]
    val_interval: int = 1
    val_start_epoch: int = 1
    save_best: bool = True
    save_best_metric: str | None = None
    save_best_mode: Mode | None = None
    save_predictions: bool = False
    save_visualizations: bool = False
    num_visualizations: int = 10
    early_stopping: bool = False
    early_stopping_patience: int = 10
    early_stopping_min_delta: float = 0.0


class Advanced(_Section):
    """`advanced_config` of a timm job."""

    optimizer: Optimizer = Field(default_factory=Optimizer)
    scheduler: Scheduler = Field(default_factory=Scheduler)
    augmentation: Augmentation = Field(default_factory=Augmentation)
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    validation: Validation = Field(default_factory=Validation)
    pretrained: bool = True
    seed: int = 0
    mixed_precision: bool = False
    gradient_clip_value: float | None = None
    gradient_accumulation_steps: int = 1
    checkpoint_interval: int = 10
    keep_n_checkpoints: int = 3
    log_interval: int = 10


class Target(BaseModel):
    """The metric that decides which epoch is the best and when training stops early."""

    # As the job calls it.
    name: str
    metric: MetricName
    mode: Mode


class Settings(BaseModel):
    """All that a timm job asks for."""

    model_name: str
    dataset_format: str
    class_names: list[str] | None
    num_classes: int | None
    epochs: int
    batch_size: int
    learning_rate: float
    image_size: int
    # What the validation result names as its primary metric.
    primary: Target
    # What picks the best checkpoint and stops early: `save_best_metric`, else the primary metric.
    watched: Target
    optimizer: Optimizer
    scheduler: Scheduler
    augmentation: Augmentation
    preprocessing: Preprocessing
    validation: Validation
    pretrained: bool
    seed: int
    mixed_precision: bool
    gradient_clip_value: float | None
    gradient_accumulation_steps: int
    checkpoint_interval: int
    keep_n_checkpoints: int
    log_interval: int


def read_settings(spec: JobSpec) -> Settings:
    """The settings of a job; `InvalidConfig` names the first one that cannot be trained."""
    try:
        advanced = Advanced.model_validate(spec.advanced_config or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidConfig(_dotted(*first["loc"]), first["msg"]) from error
    if spec.task_type.replace("-", "_") not in (TASK, "classification"):
        raise InvalidConfig("task_type", f"timm trains {TASK}, not {spec.task_type}")
    if spec.epochs < 1 or spec.batch_size < 1:
        raise InvalidConfig("epochs" if spec.epochs < 1 else "batch_size", "must be at least 1")
    primary = _target(spec.primary_metric, spec.primary_metric_mode, "primary_metric")
    validation = advanced.validation
    watched = primary
    if validation.save_best_metric is not None or validation.save_best_mode is not None:
        watched = _target(
            validation.save_best_metric or spec.primary_metric,
            validation.save_best_mode,
            "advanced_config.validation.save_best_metric",
        )
    for name in validation.metrics:
        if name in _OVERLAP_METRICS:
            raise InvalidConfig(
                "advanced_config.validation.metrics", f"{name} measures overlaps of boxes, classification has none"
            )
    _check(advanced, spec)
    return Settings(
        model_name=spec.model_name,
        dataset_format=spec.dataset_format,
        class_names=spec.class_names or None,
        num_classes=spec.num_classes,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        learning_rate=advanced.optimizer.learning_rate or spec.learning_rate,
        image_size=advanced.preprocessing.image_size or spec.image_size or 224,
        primary=primary,
        watched=watched,
        **{name: getattr(advanced, name) for name in Advanced.model_fields},
    )


def _dotted(*path: Any) -> str:
    return ".".join(["advanced_config", *(str(part) for part in path if not isinstance(part, int))])


def _target(name: str, mode: Mode | None, field: str) -> Target:
    metric = METRIC_NAMES.get(name)
    if metric is None:
        raise InvalidConfig(field, f"{name!r} is not measured here; measured are {', '.join(METRIC_NAMES)}")
    return Target(name=name, metric=metric, mode=mode or ("min" if metric == "loss" else "max"))


def _check(advanced: Advanced, spec: JobSpec) -> None:
    """What ties several settings together."""
    optimizer, scheduler = advanced.optimizer, advanced.scheduler
    if optimizer.type == "sgd" and optimizer.nesterov and optimizer.momentum == 0:
        raise InvalidConfig("advanced_config.optimizer.nesterov", "needs a momentum above 0")
    rate = optimizer.learning_rate or spec.learning_rate
    if scheduler.type == "one_cycle" and scheduler.max_lr < rate:
        raise InvalidConfig(
            "advanced_config.scheduler.max_lr", f"is {scheduler.max_lr}, below the learning rate {rate} it begins at"
        )
    augmentation = advanced.augmentation
    size = advanced.preprocessing.image_size or spec.image_size or 224
    if augmentation.enabled and augmentation.gaussian_blur and augmentation.blur_kernel_size // 2 >= size:
        raise InvalidConfig("advanced_config.augmentation.blur_kernel_size", f"does not fit into {size} pixels")
    if advanced.validation.early_stopping and not advanced.validation.enabled:
        raise InvalidConfig("advanced_config.validation.early_stopping", "needs validation.enabled")
