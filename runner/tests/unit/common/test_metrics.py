import numpy as np
import pytest

from cultivar_runner.trainer.common.metrics import (
    class_metrics,
    confusion_matrix,
    cross_entropy,
    image_rows,
    is_improvement,
    overall_metrics,
    roc_auc,
    softmax,
    top_k_accuracy,
)

TRUE = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 1])


def test_confusion_counts_rows_by_true_class() -> None:
    assert confusion_matrix(TRUE, PREDICTED, 3).tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]


def test_metrics_of_classes_by_hand() -> None:
    classes = class_metrics(confusion_matrix(TRUE, PREDICTED, 3))
    assert classes.precision.tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert classes.recall.tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert classes.f1.tolist() == pytest.approx([2 / 3, 0.4, 0])
    assert classes.support.tolist() == [3, 2, 1]


def test_overall_metrics_are_weighted_by_support() -> None:
    overall = overall_metrics(confusion_matrix(TRUE, PREDICTED, 3))
    assert overall["accuracy"] == pytest.approx(0.5)
    assert overall["precision"] == pytest.approx((2 / 3 * 3 + 1 / 3 * 2) / 6)
    # The recall weighted by support is the accuracy.
    assert overall["recall"] == pytest.approx(0.5)
    assert overall["f1"] == pytest.approx((2 / 3 * 3 + 0.4 * 2) / 6)


def test_no_images_measure_zero() -> None:
    assert set(overall_metrics(np.zeros((3, 3), np.int64)).values()) == {0.0}


def test_cross_entropy_is_that_of_the_true_class_and_bears_large_logits() -> None:
    logits = np.array([[0.0, 0.0], [1000.0, 0.0]])
    assert cross_entropy(logits, np.array([0, 0])) == pytest.approx(np.log(2) / 2)
    assert cross_entropy(logits, np.array([1, 1])) == pytest.approx((np.log(2) + 1000) / 2)
    assert np.isnan(cross_entropy(logits[:0], np.array([], np.int64)))


def test_roc_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(1)
    probabilities = softmax(rng.normal(size=(40, 3))).round(1)  # With ties.
    true_ids = rng.integers(0, 3, 40)
    areas, weights = [], []
    for c in range(3):
        positive, negative = probabilities[true_ids == c, c], probabilities[true_ids != c, c]
        areas.append((positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2)
        weights.append(len(positive))
    assert roc_auc(probabilities, true_ids) == pytest.approx(np.average(areas, weights=weights))
    assert roc_auc(probabilities, np.zeros(40, np.int64)) is None


def test_top_k_needs_k_classes() -> None:
    probabilities = softmax(np.eye(6) + np.arange(6) / 100)
    assert top_k_accuracy(probabilities, np.arange(6), 1) == 1.0
    # Of equal scores the five of higher number win; class 0 is only first where it is marked.
    assert top_k_accuracy(probabilities, np.zeros(6, np.int64), 5) == pytest.approx(1 / 6)
    assert top_k_accuracy(probabilities[:, :4], np.zeros(6, np.int64), 5) is None


def test_rows_of_images_name_the_five_best() -> None:
    names = [f"c{i}" for i in range(7)]
    probabilities = softmax(np.arange(7.0)[None, :])
    (row,) = image_rows(probabilities, np.array([6]), ["a/b.png"], names)
    assert row["image_name"] == "b.png" and row["image_path"] == "a/b.png"
    assert row["is_correct"] and row["predicted_label"] == row["true_label"] == "c6"
    assert [top["label_id"] for top in row["top5_predictions"]] == [6, 5, 4, 3, 2]
    assert row["confidence"] == row["top5_predictions"][0]["confidence"] == pytest.approx(probabilities[0, 6])
    (two,) = image_rows(softmax(np.array([[0.0, 1.0]])), np.array([0]), ["a.png"], names[:2])
    assert len(two["top5_predictions"]) == 2 and not two["is_correct"]


@pytest.mark.parametrize(
    ("value", "best", "mode", "delta", "better"),
    [
        (0.5, None, "max", 0.0, True),
        (float("nan"), None, "max", 0.0, False),
        (0.5, 0.5, "max", 0.0, False),
        (0.6, 0.5, "max", 0.2, False),
        (0.8, 0.5, "max", 0.2, True),
        (0.4, 0.5, "min", 0.0, True),
        (0.6, 0.5, "min", 0.0, False),
    ],
)
def test_improvement(value: float, best: float | None, mode: str, delta: float, better: bool) -> None:
    assert is_improvement(value, best, "min" if mode == "min" else "max", delta) is better
