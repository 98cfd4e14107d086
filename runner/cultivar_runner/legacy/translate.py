"""From the calls of existing trainers to the runner's own messages. No I/O but the `send` it is given; thread-safe.

The shapes and the habits of these clients: several calls make one epoch (MVP logger), accuracies in percent (MVP+), a
validation that counts its epochs from 0 (MVP+), byte-identical retries (SDK 2.0), `failed` behind a `completed` whose
answer was lost, logs after the end, bare NaN.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..trainer.messages import Epoch, FinishReason, Message, Started, Validation

Json = dict[str, Any]

# Names under which the three metrics of the contract come.
LOSS = ("loss", "train_loss", "train/loss")
ACCURACY = ("accuracy", "val_accuracy", "mAP50-95", "mAP@0.5:0.95", "train_accuracy")
LEARNING_RATE = ("learning_rate", "lr", "lr/pg0")
# Shares that some senders give in percent.
SHARES = re.compile(r"(^|[_/])(accuracy|precision|recall|f1(_score)?)(\(.*\))?$", re.IGNORECASE)
TASKS = {
    "classification": "image_classification",
    "detection": "object_detection",
    "segmentation": "instance_segmentation",
    "pose": "pose_estimation",
}
ERROR_TYPE = re.compile(r"^\[(\w+)\]")
NO_MEMORY = re.compile(r"out of memory|OutOfMemory|MemoryError", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """How the trainer says that the job ended."""

    reason: FinishReason
    message: str


@dataclass
class _Point:
    """What is known of one epoch so far."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    sent: dict[str, float | None] | None = None


def number(value: object) -> float | None:
    """A finite number, or None: also for NaN, its texts, and what is no number at all."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def task_type(name: object) -> str | None:
    """The contract's name of a task: the platform's older names and hyphens are understood."""
    if not isinstance(name, str) or not name:
        return None
    plain = name.replace("-", "_")
    return TASKS.get(plain, plain)


def outcome_of_failure(message: str) -> Outcome:
    """The reason of a failure from the SDK's `[Type] text`."""
    match = ERROR_TYPE.match(message)
    kind = match[1] if match else ""
    if NO_MEMORY.search(message):
        return Outcome("oom", message)
    return Outcome("invalid_config" if kind == "ConfigError" else "exit_nonzero", message)


class Translator:
    """`resumed_after`: epochs up to this one are there already, from the attempt before."""

    def __init__(self, send: Callable[[Message], None], resumed_after: int = 0) -> None:
        self._send = send
        self._resumed_after = resumed_after
        self._lock = threading.RLock()
        self._points: dict[int, _Point] = {}
        self._open: int | None = None
        self._started = False
        self._percent: set[str] = set()
        self._zero_based = False
        self._results: dict[int, Json] = {}
        self.outcome: Outcome | None = None
        self.last_epoch = resumed_after

    def started(self, total_epochs: object) -> None:
        """Training begins; said once."""
        with self._lock:
            if not self._started and isinstance(total_epochs, int) and total_epochs > 0:
                self._started = True
                self._send(Started(total_epochs=total_epochs))

    def epoch(self, epoch: object, metrics: Json) -> None:
        """All of one epoch in one call. Repeated, it changes nothing."""
        with self._lock:
            if not isinstance(epoch, int) or epoch < 1:
                return
            self._note(epoch, metrics)
            self.flush()

    def metric(self, epoch: object, name: object, value: object) -> None:
        """One metric of an epoch; the epoch is told when another one begins, or at the next thing that follows it."""
        with self._lock:
            if not isinstance(epoch, int) or epoch < 1 or not isinstance(name, str):
                return
            if self._open is not None and self._open != epoch:
                self.flush()
            self._note(epoch, {name: value})

    def validation(self, data: Json) -> int:
        """A validation result; returns its number, by which its images come afterwards."""
        with self._lock:
            self.flush()
            epoch = data.get("epoch")
            if not isinstance(epoch, int) or epoch < 0:
                epoch = self.last_epoch
            elif epoch == 0 or self._zero_based:
                self._zero_based = True
                epoch += 1
            metrics = data.get("metrics")
            result: Json = {
                "epoch": epoch,
                "task_type": task_type(data.get("task_type")),
                "primary_metric_name": data.get("primary_metric_name"),
                "primary_metric_value": number(data.get("primary_metric_value")),
                "overall_loss": number(data.get("overall_loss")),
                "metrics": self._shares("validation", _numbers(metrics if isinstance(metrics, dict) else {})),
                "per_class_metrics": _classes(data.get("per_class_metrics")),
                "confusion_matrix": data.get("confusion_matrix"),
                "class_names": data.get("class_names"),
                "checkpoint_path": data.get("checkpoint_path"),
                "images": _images(data.get("image_results")),
            }
            known = {key: value for key, value in result.items() if value is not None}
            self._results[len(self._results) + 1] = known
            self._send(Validation(data=known))
            return len(self._results)

    def validation_images(self, result_id: object, images: object) -> int:
        """The images of a result; returns how many."""
        with self._lock:
            result = self._results.get(result_id) if isinstance(result_id, int) else None
            found = _images(images)
            if result is not None and found:
                self._send(Validation(data={**result, "images": found}))
            return len(found)

    def ended(self, outcome: Outcome) -> None:
        """The first word counts."""
        with self._lock:
            self.flush()
            self.outcome = self.outcome or outcome

    def flush(self) -> None:
        """Tells what is known of the epoch at hand."""
        with self._lock:
            epoch, self._open = self._open, None
            point = None if epoch is None else self._points.get(epoch)
            if epoch is None or point is None or point.sent == point.metrics or epoch <= self._resumed_after:
                return
            point.sent = dict(point.metrics)
            metrics = self._shares("epoch", point.metrics)
            self._send(
                Epoch(
                    epoch=epoch,
                    loss=_first(metrics, LOSS),
                    accuracy=_first(metrics, ACCURACY),
                    learning_rate=_first(metrics, LEARNING_RATE),
                    # The names of the contract are fields of their own.
                    extra_metrics={
                        name: value
                        for name, value in point.metrics.items()
                        if name not in ("loss", "accuracy", "learning_rate")
                    },
                )
            )

    def _note(self, epoch: int, metrics: Json) -> None:
        point = self._points.setdefault(epoch, _Point())
        for name, value in _flat(metrics).items():
            # A null of one call does not erase what another one said.
            if value is not None or name not in point.metrics:
                point.metrics[name] = value
        self._open = epoch
        self.last_epoch = max(self.last_epoch, epoch)

    def _shares(self, source: str, metrics: dict[str, float | None]) -> dict[str, float | None]:
        """Percents as fractions. A value above 1 says which the sender uses, also for its values up to 1."""
        shares = {name: value for name, value in metrics.items() if SHARES.search(name) and value is not None}
        if any(value > 1 for value in shares.values()):
            self._percent.add(source)
        if source not in self._percent:
            return metrics
        return {**metrics, **{name: value / 100 for name, value in shares.items()}}


def _first(metrics: dict[str, float | None], names: tuple[str, ...]) -> float | None:
    # Zero is a value: the first name that has one, not the first that is true.
    return next((value for name in names if (value := metrics.get(name)) is not None), None)


def _numbers(raw: Json) -> dict[str, float | None]:
    """What is a number, or a null where there was one that JSON cannot say; texts and nested things are left out."""
    return {
        str(name): number(value)
        for name, value in raw.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }


def _flat(metrics: Json) -> dict[str, float | None]:
    """The metrics of a call and those inside its `extra_metrics`, which repeat some of the others."""
    extra = metrics.get("extra_metrics")
    own = {name: value for name, value in metrics.items() if name != "extra_metrics"}
    inner = _numbers(extra) if isinstance(extra, dict) else {}
    return {**inner, **{name: value for name, value in _numbers(own).items() if value is not None or name not in inner}}


def _classes(raw: object) -> Json | None:
    """Metrics by class; a bare number of a class is its average precision."""
    if not isinstance(raw, dict):
        return None
    return {
        str(name): values if isinstance(values, dict) else {"ap_50_95": number(values)} for name, values in raw.items()
    }


IMAGE_FIELDS = (
    "image_path",
    "image_name",
    "true_label",
    "true_label_id",
    "predicted_label",
    "predicted_label_id",
    "confidence",
    "is_correct",
    "top5_predictions",
)


def _images(raw: object) -> list[Json]:
    """Image rows as the server takes them: what it has no field for goes into `extra_data`."""
    if not isinstance(raw, list):
        return []
    rows: list[Json] = []
    for index, image in enumerate(raw):
        if not isinstance(image, dict):
            continue
        name = image.get("image_name") or str(image.get("image_path") or index).rsplit("/", 1)[-1]
        known = {key: image[key] for key in IMAGE_FIELDS if image.get(key) is not None}
        other = {
            key: value
            for key, value in image.items()
            if key not in IMAGE_FIELDS
            and key not in ("extra_data", "validation_result_id", "epoch")
            and value is not None
        }
        extra = {**other, **(image["extra_data"] if isinstance(image.get("extra_data"), dict) else {})}
        rows.append({**known, "image_name": str(name), **({"extra_data": extra} if extra else {})})
    return rows
