"""What is measured on images with known classes. Pure; numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["max", "min"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def confusion_matrix(true_ids: Ints, predicted_ids: Ints, classes: int) -> Ints:
    """`counts[true class, predicted class]`."""
    counts = np.bincount(true_ids * classes + predicted_ids, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True)
class ClassMetrics:
    """Per class, in the order of the matrix. A class that was never predicted or never occurs has 0, as usual."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints


def class_metrics(confusion: Ints) -> ClassMetrics:
    """Precision, recall, F1 and the number of images of each class."""
    hits = np.diag(confusion).astype(np.float64)
    support = confusion.sum(axis=1)
    precision = _ratio(hits, confusion.sum(axis=0))
    recall = _ratio(hits, support)
    return ClassMetrics(precision, recall, _ratio(2 * precision * recall, precision + recall), support)


def _ratio(part: Floats, whole: NDArray[Any]) -> Floats:
    out: Floats = np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)
    return out


def overall_metrics(confusion: Ints) -> dict[str, float]:
    """Accuracy, and the means over the classes weighted by support. All 0 for an empty matrix."""
    total = int(confusion.sum())
    if total == 0:
        return {"accuracy": 0.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    classes = class_metrics(confusion)
    mean = {
        name: float((getattr(classes, name) * classes.support).sum() / total) for name in ("precision", "recall", "f1")
    }
    return {"accuracy": float(np.diag(confusion).sum() / total), **mean}


def roc_auc(probabilities: Floats, true_ids: Ints) -> float | None:
    """Area under the ROC curve, one class against the rest, mean over the classes that occur, weighted by support.

    By ranks (Mann-Whitney U), ties shared. None when fewer than two classes occur.
    """
    areas, weights = [], []
    for class_id in range(probabilities.shape[1]):
        positive = true_ids == class_id
        count = int(positive.sum())
        if count in (0, len(true_ids)):
            continue
        _, inverse, sizes = np.unique(probabilities[:, class_id], return_inverse=True, return_counts=True)
        last_rank = np.cumsum(sizes)
        ranks = (last_rank - (sizes - 1) / 2)[inverse]
        u = ranks[positive].sum() - count * (count + 1) / 2
        areas.append(u / (count * (len(true_ids) - count)))
        weights.append(count)
    return float(np.average(areas, weights=weights)) if areas else None


def top_k_accuracy(probabilities: Floats, true_ids: Ints, k: int) -> float | None:
    """Share of images whose class is among the `k` most probable; None below `k` classes."""
    if probabilities.shape[1] < k or len(true_ids) == 0:
        return None
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == true_ids[:, None]).any(axis=1).mean())


def softmax(logits: Floats) -> Floats:
    """Probabilities of each row."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def cross_entropy(logits: Floats, true_ids: Ints) -> float:
    """Mean over the images of -log of the probability that the logits give to the true class; NaN without images."""
    if len(true_ids) == 0:
        return float("nan")
    highest = logits.max(axis=1)
    log_sum = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return float((log_sum - logits[np.arange(len(true_ids)), true_ids]).mean())


def image_rows(
    probabilities: Floats, true_ids: Ints, paths: Sequence[str], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """One row an image under the contract's names, best five predictions first to last."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    rows = []
    for i, path in enumerate(paths):
        top = [
            {"label": class_names[label], "label_id": int(label), "confidence": float(probabilities[i, label])}
            for label in order[i]
        ]
        true_id, best = int(true_ids[i]), top[0]
        rows.append(
            {
                "image_path": path,
                "image_name": PurePosixPath(path).name,
                "true_label": class_names[true_id],
                "true_label_id": true_id,
                "predicted_label": best["label"],
                "predicted_label_id": best["label_id"],
                "confidence": best["confidence"],
                "is_correct": best["label_id"] == true_id,
                "top5_predictions": top,
            }
        )
    return rows


def is_improvement(value: float, best: float | None, mode: Mode, min_delta: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `min_delta`; anything but NaN is better than nothing."""
    if value != value:
        return False
    if best is None:
        return True
    return value > best + min_delta if mode == "max" else value < best - min_delta
