"""What a validation says: the contract's result, the metrics of the epoch, files with predictions and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ..common.files import write_durably
from ..common.metrics import (
    Floats,
    Ints,
    class_metrics,
    confusion_matrix,
    cross_entropy,
    image_rows,
    overall_metrics,
    roc_auc,
    softmax,
    top_k_accuracy,
)
from .config import TASK, MetricName, Settings
from .data import decode


@dataclass(frozen=True)
class Measured:
    """One validation."""

    loss: float
    confusion: Ints
    # accuracy, precision, recall, f1; top5_accuracy where there are five classes; roc_auc where it is asked for.
    metrics: dict[str, float | None]
    probabilities: Floats
    true_ids: Ints
    paths: list[str]

    def value(self, metric: MetricName) -> float:
        """One metric; NaN when it cannot be measured."""
        found = self.loss if metric == "loss" else self.metrics.get(metric)
        return float("nan") if found is None else found


def measure(logits: Floats, true_ids: Ints, paths: Sequence[str], classes: int, wanted: Sequence[str]) -> Measured:
    """Metrics of class scores, one row an image. `wanted` adds what costs more: `roc_auc`."""
    probabilities = softmax(logits) if len(logits) else np.zeros((0, classes))
    confusion = confusion_matrix(true_ids, probabilities.argmax(axis=1), classes)
    metrics: dict[str, float | None] = {**overall_metrics(confusion)}
    metrics["top5_accuracy"] = top_k_accuracy(probabilities, true_ids, 5)
    if "roc_auc" in wanted:
        metrics["roc_auc"] = roc_auc(probabilities, true_ids)
    return Measured(cross_entropy(logits, true_ids), confusion, metrics, probabilities, true_ids, list(paths))


def validation_data(epoch: int, measured: Measured, class_names: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The validation result of an epoch (from 1) under the contract's names, with a row for each image."""
    classes = class_metrics(measured.confusion)
    return {
        "epoch": epoch,
        "task_type": TASK,
        "primary_metric_name": settings.primary.name,
        "primary_metric_value": measured.value(settings.primary.metric),
        "overall_loss": measured.loss,
        "metrics": measured.metrics,
        "per_class_metrics": {
            name: {
                "precision": float(classes.precision[i]),
                "recall": float(classes.recall[i]),
                "f1": float(classes.f1[i]),
                "support": int(classes.support[i]),
            }
            for i, name in enumerate(class_names)
        },
        "confusion_matrix": measured.confusion.tolist(),
        "class_names": list(class_names),
        "images": image_rows(measured.probabilities, measured.true_ids, measured.paths, class_names),
    }


def extra_metrics(measured: Measured) -> dict[str, float | None]:
    """What an epoch adds of its validation."""
    known = {name: value for name, value in measured.metrics.items() if name != "accuracy" and value is not None}
    return {"val_loss": measured.loss, "val_accuracy": measured.metrics["accuracy"], **known}


def write_predictions(path: Path, measured: Measured, class_names: Sequence[str]) -> Path:
    """One JSON line an image with the probability of every class."""
    lines = [
        json.dumps(
            {
                "image_path": image,
                "true_label": class_names[int(true_id)],
                "probabilities": {name: round(float(value), 6) for name, value in zip(class_names, row, strict=True)},
            },
            ensure_ascii=False,
        )
        for image, true_id, row in zip(measured.paths, measured.true_ids, measured.probabilities, strict=True)
    ]
    return write_durably(path, ("\n".join(lines) + "\n").encode())


_TILE = 160
_CAPTION = 30


def write_pictures(path: Path, root: Path, measured: Measured, class_names: Sequence[str], count: int) -> Path | None:
    """One PNG sheet of up to `count` validation images with true and predicted class, the surest mistakes first."""
    predicted = measured.probabilities.argmax(axis=1)
    confidence = measured.probabilities.max(axis=1) if len(predicted) else np.zeros(0)
    order = np.lexsort((-confidence, predicted == measured.true_ids))[:count]
    if len(order) == 0:
        return None
    columns = min(len(order), 5)
    rows = -(-len(order) // columns)
    sheet = Image.new("RGB", (columns * _TILE, rows * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, i in enumerate(order):
        left, top = place % columns * _TILE, place // columns * (_TILE + _CAPTION)
        try:
            sheet.paste(ImageOps.contain(decode(root / measured.paths[i], 3), (_TILE, _TILE)), (left, top))
        except (OSError, ValueError):
            continue
        right = predicted[i] == measured.true_ids[i]
        names = (class_names[int(measured.true_ids[i])], class_names[int(predicted[i])])
        text = f"{names[0][:24]}\n{'ok' if right else names[1][:20]} {confidence[i]:.2f}"
        draw.multiline_text((left + 2, top + _TILE + 1), text, fill="green" if right else "red", spacing=1)
    return write_durably(path, lambda temporary: sheet.save(temporary, format="PNG"))
