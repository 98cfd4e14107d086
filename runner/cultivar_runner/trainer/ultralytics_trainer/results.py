"""What was measured, under the contract's names: metrics of an epoch, a validation result, a row for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from ..common.metrics import class_metrics, image_rows, overall_metrics, top_k_accuracy

# Boxes of a row: enough to look at, few enough for 500 rows in one message.
MAX_BOXES = 20
# Boxes below are noise to whoever looks at a row; metrics are computed from all of them.
ROW_CONFIDENCE = 0.25

# Letter of the library's metric names that is about the task itself: boxes, masks, poses.
OWN_LETTER = {"detect": "B", "segment": "M", "pose": "P"}
_PLAIN = {
    "map50": "metrics/mAP50({})",
    "map@0.5": "metrics/mAP50({})",
    "map50-95": "metrics/mAP50-95({})",
    "map@0.5:0.95": "metrics/mAP50-95({})",
    "map": "metrics/mAP50-95({})",
    "precision": "metrics/precision({})",
    "recall": "metrics/recall({})",
    "oks": "metrics/mAP50-95({})",
}
_CLASSIFICATION = {
    "accuracy": "metrics/accuracy_top1",
    "top1": "metrics/accuracy_top1",
    "top1_accuracy": "metrics/accuracy_top1",
    "top5": "metrics/accuracy_top5",
    "top5_accuracy": "metrics/accuracy_top5",
}


def metric_value(task: str, name: str, metrics: Mapping[str, float]) -> float | None:
    """The value of a metric under the name that a job uses for it; None when it was not measured.

    `metrics` are the library's own names with `fitness` and `val/…` losses. A plain name such as mAP50 means the task's
    own: masks of a segmentation, poses of a pose model. `loss` is the sum of the validation losses.
    """
    if name in metrics:
        return float(metrics[name])
    key = name.lower()
    if key in ("loss", "val_loss"):
        losses = [value for metric, value in metrics.items() if metric.startswith("val/")]
        return float(sum(losses)) if losses else None
    if task == "classify":
        known = metrics.get(_CLASSIFICATION.get(key, ""))
    else:
        known = metrics.get(_PLAIN.get("map50-95" if key == "accuracy" else key, "").format(OWN_LETTER[task]))
    return None if known is None else float(known)


class DetectionRows:
    """Collects a row for each validated image. Rows are in pixels of the original image unless a key says otherwise."""

    def __init__(self, task: str, paths: Mapping[str, str], names: Mapping[int, str]) -> None:
        self._task = task
        self._paths = paths
        self._names = names
        self.rows: list[dict[str, Any]] = []

    def add(self, validator: Any, predictions: Sequence[Mapping[str, torch.Tensor]], batch: Mapping[str, Any]) -> None:
        """Rows of one batch, from what the library's validator is about to measure."""
        for i, prediction in enumerate(predictions):
            self.rows.append(self._row(validator._prepare_batch(i, batch), prediction))

    def _row(self, truth: Mapping[str, Any], prediction: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        from ultralytics.utils import ops
        from ultralytics.utils.metrics import box_iou

        height, width = truth["ori_shape"]
        shape, ratio_pad = truth["imgsz"], truth["ratio_pad"]
        sure = prediction["conf"] >= ROW_CONFIDENCE
        order = prediction["conf"][sure].argsort(descending=True)
        chosen = {key: value[sure][order] for key, value in prediction.items()}
        true_ids = truth["cls"].int().tolist()
        predicted_ids = chosen["cls"].int().tolist()
        true_boxes = ops.scale_boxes(shape, truth["bboxes"].clone().float(), truth["ori_shape"], ratio_pad=ratio_pad)
        boxes = ops.scale_boxes(shape, chosen["bboxes"].clone().float(), truth["ori_shape"], ratio_pad=ratio_pad)
        overlaps = box_iou(true_boxes, boxes)
        path = self._paths.get(PurePosixPath(truth["im_file"]).name)
        confidences = chosen["conf"].tolist()
        extra: dict[str, Any] = {
            "width": int(width),
            "height": int(height),
            "true_boxes": [
                {"class_id": class_id, "bbox": _shares(box, width, height), "format": "yolo"}
                for class_id, box in zip(true_ids[:MAX_BOXES], true_boxes[:MAX_BOXES].tolist(), strict=True)
            ],
            "predicted_boxes": [
                {"class_id": class_id, "bbox": _pixels(box), "confidence": round(confidence, 4)}
                for class_id, box, confidence in zip(
                    predicted_ids[:MAX_BOXES], boxes[:MAX_BOXES].tolist(), confidences[:MAX_BOXES], strict=True
                )
            ],
            "iou": _mean_best(overlaps),
        }
        if self._task == "segment":
            extra["mask_iou"] = _mask_overlap(truth["masks"], chosen["masks"])
        if self._task == "pose":
            extra |= self._poses(truth, chosen)
        true_id = true_ids[0] if true_ids else None
        predicted_id = predicted_ids[0] if predicted_ids else None
        return {
            "image_path": path,
            "image_name": PurePosixPath(path or truth["im_file"]).name,
            "true_label": None if true_id is None else self._names[true_id],
            "true_label_id": true_id,
            "predicted_label": None if predicted_id is None else self._names[predicted_id],
            "predicted_label_id": predicted_id,
            "confidence": confidences[0] if confidences else None,
            # A negative is right when nothing is found on it.
            "is_correct": bool(set(true_ids) & set(predicted_ids)) if true_ids else not predicted_ids,
            "top5_predictions": None,
            "extra_data": extra,
        }

    def _poses(self, truth: Mapping[str, Any], chosen: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        from ultralytics.utils import ops
        from ultralytics.utils.metrics import kpt_iou

        def scaled(points: torch.Tensor) -> list[list[list[float]]]:
            moved = ops.scale_coords(
                truth["imgsz"], points.clone().float(), truth["ori_shape"], ratio_pad=truth["ratio_pad"]
            )
            return [[[round(value, 2) for value in point] for point in one] for one in moved[:MAX_BOXES].tolist()]

        true_points, points = truth["keypoints"], chosen["keypoints"]
        score = None
        if len(true_points) and len(points):
            # 0.53: the share of its box that a body fills, as the library and COCO's tools assume.
            area = ops.xyxy2xywh(truth["bboxes"])[:, 2:].prod(1) * 0.53
            count = true_points.shape[1]
            sigmas = _sigmas(count)
            score = _mean_best(kpt_iou(true_points.float(), points.float(), sigma=sigmas, area=area.float()))
        # Fewer objects than boxes: a person has 17 points.
        return {
            "true_keypoints": scaled(true_points)[: MAX_BOXES // 4],
            "predicted_keypoints": scaled(points)[: MAX_BOXES // 4],
            "oks": score,
        }


class ClassificationRows:
    """Collects the probabilities of all validated images."""

    def __init__(self) -> None:
        self._probabilities: list[np.ndarray[Any, Any]] = []
        self._true_ids: list[np.ndarray[Any, Any]] = []
        self._files: list[str] = []

    def add(self, probabilities: torch.Tensor, true_ids: torch.Tensor, files: Sequence[str]) -> None:
        """One batch: probabilities `[n, classes]`, true classes `[n]`, names of the written images."""
        self._probabilities.append(probabilities.float().cpu().numpy().astype(np.float64))
        self._true_ids.append(true_ids.cpu().numpy().astype(np.int64))
        self._files += files

    def result(self, paths: Mapping[str, str], names: Sequence[str]) -> dict[str, Any]:
        """`metrics`, `per_class_metrics`, `confusion_matrix`, `class_names` and `images` of the contract."""
        probabilities, true_ids = np.concatenate(self._probabilities), np.concatenate(self._true_ids)
        # In the order of the dataset, whatever order the images were read in.
        order = sorted(range(len(self._files)), key=lambda i: self._files[i])
        probabilities, true_ids = probabilities[order], true_ids[order]
        files = [paths.get(self._files[i], self._files[i]) for i in order]
        predicted = probabilities.argmax(axis=1)
        count = len(names)
        confusion = np.zeros((count, count), np.int64)
        np.add.at(confusion, (true_ids, predicted), 1)
        classes = class_metrics(confusion)
        return {
            "metrics": {**overall_metrics(confusion), "top5_accuracy": top_k_accuracy(probabilities, true_ids, 5)},
            "per_class_metrics": {
                name: {
                    "precision": float(classes.precision[i]),
                    "recall": float(classes.recall[i]),
                    "f1": float(classes.f1[i]),
                    "support": int(classes.support[i]),
                }
                for i, name in enumerate(names)
            },
            "confusion_matrix": confusion.tolist(),
            "class_names": list(names),
            "images": image_rows(probabilities, true_ids, files, names),
        }


def detection_result(task: str, validator: Any, metrics: Mapping[str, float]) -> dict[str, Any]:
    """`metrics` and `per_class_metrics` of the contract from the library's validator and its metrics."""
    letter = OWN_LETTER[task]
    measured: dict[str, float | None] = {
        "mAP50": metrics.get(f"metrics/mAP50({letter})"),
        "mAP50-95": metrics.get(f"metrics/mAP50-95({letter})"),
        "precision": metrics.get(f"metrics/precision({letter})"),
        "recall": metrics.get(f"metrics/recall({letter})"),
        **{name: value for name, value in metrics.items() if name.startswith("metrics/") or name == "fitness"},
    }
    own = {"B": "box", "M": "seg", "P": "pose"}[letter]
    scores = getattr(validator.metrics, own)
    support = validator.metrics.nt_per_class
    by_class = {int(class_id): i for i, class_id in enumerate(scores.ap_class_index)}
    per_class: dict[str, dict[str, float | None]] = {}
    for class_id, name in validator.names.items():
        row: dict[str, float | None] = {"support": int(support[class_id]) if class_id < len(support) else 0}
        i = by_class.get(class_id)
        keys = ("precision", "recall", "ap_50", "ap_50_95")
        values = scores.class_result(i) if i is not None else (None, None, None, None)
        row |= {key: None if value is None else float(value) for key, value in zip(keys, values, strict=True)}
        row["f1"] = float(scores.f1[i]) if i is not None else None
        per_class[name] = row
    return {"metrics": measured, "per_class_metrics": per_class, "confusion_matrix": None}


def _shares(box: Sequence[float], width: float, height: float) -> list[float]:
    left, top, right, bottom = box
    values = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
    return [round(value, 5) for value in values]


def _pixels(box: Sequence[float]) -> list[float]:
    """Left, top, width, height."""
    left, top, right, bottom = box
    return [round(value, 2) for value in (left, top, right - left, bottom - top)]


def _mean_best(overlaps: torch.Tensor) -> float | None:
    """Mean over the true objects of their best overlap with anything found; None on an image without objects."""
    if overlaps.shape[0] == 0:
        return None
    if overlaps.shape[1] == 0:
        return 0.0
    return round(float(overlaps.max(dim=1).values.mean()), 4)


def _mask_overlap(true_masks: torch.Tensor, masks: torch.Tensor) -> float | None:
    from ultralytics.utils.metrics import mask_iou

    if len(true_masks) == 0 or len(masks) == 0:
        return None if len(true_masks) == 0 else 0.0
    if true_masks.shape[1:] != masks.shape[1:]:
        return None
    return _mean_best(mask_iou(true_masks.flatten(1).float(), masks.flatten(1).float()))


def _sigmas(count: int) -> np.ndarray[Any, Any]:
    from ultralytics.utils.metrics import OKS_SIGMA

    return np.asarray(OKS_SIGMA) if count == len(OKS_SIGMA) else np.ones(count) / count
