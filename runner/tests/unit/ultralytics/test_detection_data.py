"""Reading datasets of boxes, outlines and keypoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cultivar_runner.trainer.channel import DatasetUnavailable
from cultivar_runner.trainer.common.detection import (
    COCO_FLIP,
    DetectionData,
    LabelledImage,
    ObjectLabel,
    Task,
    assign_splits,
    label_path_of,
    read_detection,
)


def image(root: Path, path: str, size: tuple[int, int] = (100, 50), orientation: int | None = None) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture.save(target, exif=exif)


def document(root: Path, path: str, value: dict[str, Any]) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(value), encoding="utf-8")


def labels_of(data: DetectionData, path: str) -> tuple[ObjectLabel, ...]:
    return next(image.labels for image in data.images if image.path == path)


CLASSES = [{"id": 7, "name": "cat"}, {"id": 0, "name": "__background__"}, {"id": 3, "name": "dog"}]


def nested(root: Path, labels: list[dict[str, Any]], **more: Any) -> None:
    image(root, "images/a.jpg")
    image(root, "images/b.jpg")
    document(
        root,
        "annotations.json",
        {
            "format_version": "1.0",
            "classes": CLASSES,
            "images": [
                {
                    "id": 1,
                    "file_name": "images/a.jpg",
                    "width": 100,
                    "height": 50,
                    "split": "train",
                    "annotations": labels,
                },
                {"id": 2, "file_name": "b.jpg", "width": 100, "height": 50, "split": "val", "annotations": []},
                {"id": 3, "file_name": "lost.jpg", "width": 1, "height": 1, "annotations": labels},
            ],
            **more,
        },
    )


def test_dice_nested_counts_classes_without_the_background_and_normalises_boxes(tmp_path: Path) -> None:
    nested(
        tmp_path, [{"class_id": 7, "class_name": "cat", "bbox": [10, 5, 20, 10]}, {"class_id": 3, "bbox": [0, 0, 1, 1]}]
    )
    data = read_detection(tmp_path, "dice", "object_detection")
    assert data.class_names == ("dog", "cat")
    first, second = labels_of(data, "images/a.jpg")
    assert (first.class_id, second.class_id) == (1, 0)
    assert first.box == pytest.approx((0.2, 0.2, 0.2, 0.2))
    assert [(i.path, i.split) for i in data.images] == [("images/a.jpg", "train"), ("images/b.jpg", "val")]
    assert data.warnings == ("1 images that are listed were not uploaded",)


def test_a_label_of_the_background_or_a_crowd_or_without_area_is_no_object(tmp_path: Path) -> None:
    labels = [
        {"class_id": 0, "bbox": [1, 1, 5, 5]},
        {"class_id": 3, "bbox": [1, 1, 5, 5], "iscrowd": 1},
        {"class_id": 3, "bbox": [100, 1, 5, 5]},
        {"class_id": 3, "bbox": [1, 1, 0, 5]},
        {"class_id": 3, "bbox": [90, 40, 40, 40]},
    ]
    nested(tmp_path, labels)
    data = read_detection(tmp_path, "dice", "object_detection")
    (only,) = labels_of(data, "images/a.jpg")
    assert only.box == pytest.approx((0.95, 0.9, 0.1, 0.2))  # Cut at the edge of the picture.
    assert set(data.warnings) >= {"1 labels of crowds are left out", "2 labels have no area inside their image"}


def test_dice_flat_list_without_images_names_its_pictures(tmp_path: Path) -> None:
    image(tmp_path, "images/image_1.png", (40, 20))
    document(
        tmp_path,
        "annotations.json",
        {
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [
                {"id": 1, "image_id": "image_1", "category_id": 1, "bbox": [4, 2, 8, 4]},
                {"id": 2, "image_id": "unknown", "category_id": 1, "bbox": [4, 2, 8, 4]},
            ],
        },
    )
    data = read_detection(tmp_path, "dice", "object_detection")
    (label,) = labels_of(data, "images/image_1.png")
    assert label.box == pytest.approx((0.2, 0.2, 0.2, 0.2))
    assert data.warnings == ("1 labels belong to no uploaded image",)


def test_dice_per_task_files_with_a_storage_root_and_unlisted_negatives(tmp_path: Path) -> None:
    image(tmp_path, "images/a.jpg")
    image(tmp_path, "images/negative.jpg")
    outline = [[10, 10, 30, 10, 30, 20], [50, 10, 60, 10, 60, 30]]
    document(
        tmp_path,
        "annotations_segmentation.json",
        {
            "storage_info": {"image_root": "datasets/7/images/"},
            "categories": CLASSES,
            "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": outline}],
        },
    )
    data = read_detection(tmp_path, "dice", "instance_segmentation")
    (label,) = labels_of(data, "images/a.jpg")
    assert len(label.outlines) == 2
    assert label.box == pytest.approx((0.35, 0.4, 0.5, 0.4))  # Around both parts.
    assert labels_of(data, "images/negative.jpg") == ()


def test_a_picture_whose_size_is_not_listed_is_measured_as_it_is_shown(tmp_path: Path) -> None:
    image(tmp_path, "images/turned.jpg", (100, 50), orientation=6)
    document(
        tmp_path,
        "annotations.json",
        {
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [{"image_id": "turned", "category_id": 1, "bbox": [0, 0, 50, 100]}],
        },
    )
    (label,) = labels_of(read_detection(tmp_path, "dice", "object_detection"), "images/turned.jpg")
    assert label.box == pytest.approx((0.5, 0.5, 1, 1))


def test_configured_splits_are_found_though_json_keys_are_texts(tmp_path: Path) -> None:
    config = {"method": "manual", "splits": {"1": "val", "2": "train"}}
    nested(tmp_path, [{"class_id": 3, "bbox": [1, 1, 5, 5]}], split_config=config)
    data = read_detection(tmp_path, "dice", "object_detection")
    assert [image.split for image in data.images] == ["val", "train"]


def test_pose_keeps_keypoints_and_knows_how_people_are_mirrored(tmp_path: Path) -> None:
    points = [value for i in range(17) for value in (10 + i, 20, 2 if i else 0)]
    nested(tmp_path, [{"class_id": 3, "bbox": [5, 5, 40, 40], "keypoints": points, "num_keypoints": 16}])
    data = read_detection(tmp_path, "dice", "pose_estimation")
    assert data.keypoint_shape == (17, 3)
    assert data.keypoint_flip == COCO_FLIP
    (label,) = labels_of(data, "images/a.jpg")
    assert label.keypoints[0] == (0, 0, 0)
    assert label.keypoints[1] == pytest.approx((0.11, 0.4, 2))


def test_coco_takes_the_split_of_its_files_and_skips_captions(tmp_path: Path) -> None:
    image(tmp_path, "images/train/a.jpg")
    image(tmp_path, "images/val/b.jpg")
    for split, name in (("train", "a"), ("val", "b")):
        document(
            tmp_path,
            f"annotations/instances_{split}2017.json",
            {
                "categories": CLASSES,
                "images": [{"id": 1, "file_name": f"{name}.jpg", "width": 100, "height": 50}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 10]}],
            },
        )
    document(tmp_path, "annotations/captions_train2017.json", {"images": [], "annotations": []})
    data = read_detection(tmp_path, "coco", "object_detection")
    assert [(i.path, i.split, len(i.labels)) for i in data.images] == [
        ("images/train/a.jpg", "train", 1),
        ("images/val/b.jpg", "val", 1),
    ]
    assert data.class_names == ("dog", "cat")


def test_coco_pose_prefers_the_keypoint_file_and_mirrors_by_name(tmp_path: Path) -> None:
    image(tmp_path, "images/a.jpg")
    people = {
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}],
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "keypoints": [1, 1, 2, 2, 2, 2, 3, 3, 1]}
        ],
    }
    document(tmp_path, "annotations/person_keypoints_train.json", people)
    document(tmp_path, "annotations/instances_train.json", {**people, "annotations": []})
    data = read_detection(tmp_path, "coco", "pose_estimation")
    assert data.keypoint_shape == (3, 3)
    assert data.keypoint_flip == (0, 2, 1)


@pytest.mark.parametrize("compressed", [False, True])
def test_run_length_masks_become_outlines(tmp_path: Path, compressed: bool) -> None:
    mask = np.zeros((50, 100), np.uint8)
    mask[10:30, 20:60] = 1
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [flat[-1] ^ 1]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    assert sum(counts) == 5000

    def text(lengths: list[int]) -> str:
        # The published encoding, written from its definition: differences from the 4th on, 5 bits a character.
        out = ""
        for i, length in enumerate(lengths):
            value = length - lengths[i - 2] if i > 2 else length
            more = True
            while more:
                bits = value & 0x1F
                value >>= 5
                more = value != (-1 if bits & 0x10 else 0)
                out += chr((bits | (0x20 if more else 0)) + 48)
        return out

    outline = {"size": [50, 100], "counts": text(counts) if compressed else counts}
    nested(tmp_path, [{"class_id": 3, "bbox": [20, 10, 40, 20], "segmentation": outline}])
    (label,) = labels_of(read_detection(tmp_path, "dice", "instance_segmentation"), "images/a.jpg")
    (polygon,) = label.outlines
    xs, ys = zip(*polygon, strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == pytest.approx((0.2, 0.59, 0.2, 0.58))


def yolo(root: Path, lines: dict[str, str], config: str = "names: [a, b]\nnc: 2\n") -> None:
    (root / "data.yaml").write_text(config)
    for path, text in lines.items():
        image(root, path)
        target = root / label_path_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def test_yolo_reads_boxes_outlines_and_empty_files(tmp_path: Path) -> None:
    lines = {
        "images/train/a.jpg": "1 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.3 0.1 0.3 0.5\n",
        "images/val/b.jpg": "",
    }
    yolo(tmp_path, lines, "path: .\ntrain: images/train\nval: images/val\nnames: {1: b, 0: a}\n")
    data = read_detection(tmp_path, "yolo", "object_detection")
    assert data.class_names == ("a", "b")
    box, outline = labels_of(data, "images/train/a.jpg")
    assert box.box == (0.5, 0.5, 0.2, 0.4)
    assert outline.box == pytest.approx((0.2, 0.3, 0.2, 0.4))
    assert [image.split for image in data.images] == ["train", "val"]


@pytest.mark.parametrize(("task", "line"), [("object_detection", "0 0.5 0.5 0.1"), ("object_detection", "x 1 1 1 1")])
def test_yolo_names_the_line_that_is_no_label(tmp_path: Path, task: Task, line: str) -> None:
    yolo(tmp_path, {"images/a.jpg": f"0 0.5 0.5 0.1 0.1\n{line}\n"})
    with pytest.raises(DatasetUnavailable, match=r"labels/a\.txt line 2"):
        read_detection(tmp_path, "yolo", task)


def test_yolo_pose_reads_visibility(tmp_path: Path) -> None:
    yolo(
        tmp_path,
        {"images/a.jpg": "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0 0 0\n"},
        "names: [p]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n",
    )
    data = read_detection(tmp_path, "yolo", "pose_estimation")
    (label,) = labels_of(data, "images/a.jpg")
    assert label.keypoints == ((0.4, 0.4, 2), (0, 0, 0))
    assert data.keypoint_flip == (1, 0)


def test_an_image_folder_has_no_boxes(tmp_path: Path) -> None:
    image(tmp_path, "cat/a.jpg")
    with pytest.raises(DatasetUnavailable, match="imagefolder"):
        read_detection(tmp_path, "imagefolder", "object_detection")


def some_images(classes: list[list[int]], split: Any = None) -> list[LabelledImage]:
    label = {c: ObjectLabel(c, (0.5, 0.5, 0.1, 0.1)) for row in classes for c in row}
    return [LabelledImage(f"images/{i}.jpg", split, tuple(label[c] for c in row)) for i, row in enumerate(classes)]


def test_an_automatic_split_keeps_every_class_on_both_sides() -> None:
    images = some_images([[0]] * 16 + [[1]] * 2 + [[2]] + [[]])
    training, validation = assign_splits(images)
    assert len(validation) == 4
    assert {label.class_id for image in training for label in image.labels} == {0, 1, 2}
    assert {label.class_id for image in validation for label in image.labels} == {0, 1}
    assert (training, validation) == assign_splits(images)


def test_a_given_validation_part_is_kept_and_the_test_part_is_not_used() -> None:
    images = some_images([[0]], "val") + some_images([[0]], "test") + some_images([[0], [0]])
    training, validation = assign_splits(images)
    assert (len(training), len(validation)) == (2, 1)


@pytest.mark.parametrize("split", ["val", "test", None])
def test_a_dataset_without_images_for_both_parts_cannot_be_trained(split: Any) -> None:
    with pytest.raises(DatasetUnavailable):
        assign_splits(some_images([[0]], split))
