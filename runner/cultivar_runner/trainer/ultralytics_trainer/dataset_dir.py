"""Writes a dataset as the folders that Ultralytics reads: links to the images, label files, `data.yaml`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..channel import DatasetUnavailable
from ..common.classification import Sample, check_classes, read_classification, split_samples
from ..common.detection import LabelledImage, ObjectLabel, Task, assign_splits, read_detection
from ..messages import JobSpec

# What the library opens by itself; any other picture is rewritten as PNG.
_READABLE = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_JPEG_END = b"\xff\xd9"


def write_dataset(spec: JobSpec, task: str, source: Path, target: Path) -> Path:
    """Makes the folders below `target` from the dataset in `source`; returns the path of `data.yaml`.

    `files.json` beside it tells which path of the dataset each image has. Nothing in `source` is changed, also not
    later by the library, which repairs damaged JPEG files in place: those are copied.
    """
    if target.exists():
        shutil.rmtree(target)  # What an attempt that was cut off left behind.
    target.mkdir(parents=True)
    config = (
        _write_classification(spec, source, target)
        if task == "classify"
        else _write_objects(spec, task, source, target)
    )
    path = target / "data.yaml"
    # JSON is YAML: names of classes need no quoting rules of their own.
    path.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def dataset_paths(folder: Path) -> dict[str, str]:
    """Name of each written image -> its path inside the dataset."""
    paths: dict[str, str] = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    return paths


def _write_objects(spec: JobSpec, task: str, source: Path, target: Path) -> dict[str, Any]:
    wanted: dict[str, Task] = {
        "detect": "object_detection",
        "segment": "instance_segmentation",
        "pose": "pose_estimation",
    }
    data = read_detection(source, spec.dataset_format, wanted[task])
    for warning in data.warnings:
        print(f"dataset: {warning}", flush=True)
    names = _class_names(spec, data.class_names)
    training, validation = assign_splits(data.images)
    if not any(image.labels for image in training):
        raise DatasetUnavailable("no image of the training part has a label")
    paths: dict[str, str] = {}
    for split, images in (("train", training), ("val", validation)):
        (target / "images" / split).mkdir(parents=True)
        (target / "labels" / split).mkdir(parents=True)
        for image in images:
            name = _link(source, image.path, target / "images" / split, len(paths))
            paths[name] = image.path
            lines = _lines(image, task, data.keypoint_shape)
            (target / "labels" / split / f"{Path(name).stem}.txt").write_text("".join(f"{line}\n" for line in lines))
    (target / "files.json").write_text(json.dumps(paths, ensure_ascii=False), encoding="utf-8")
    print(f"dataset: {len(training)} training images, {len(validation)} validation images", flush=True)
    config: dict[str, Any] = {
        "path": str(target),
        "train": "images/train",
        "val": "images/val",
        "nc": len(names),
        "names": dict(enumerate(names)),
    }
    if data.keypoint_shape is not None:
        config["kpt_shape"] = list(data.keypoint_shape)
        if data.keypoint_flip is not None:
            config["flip_idx"] = list(data.keypoint_flip)
    return config


def _class_names(spec: JobSpec, found: Sequence[str]) -> list[str]:
    """The classes that the labels were read with, and numbered ones up to the number that the job wants.

    A dice dataset with a file per task may give each its own classes, so those of the file in use count, not the job's.
    """
    if spec.class_names is not None and list(spec.class_names) != list(found):
        print(f"dataset: the classes of these labels are {', '.join(found)}", flush=True)
    wanted = max(spec.num_classes or 0, len(found))
    return [*found, *(f"class_{i}" for i in range(len(found), wanted))]


def _lines(image: LabelledImage, task: str, keypoint_shape: tuple[int, int] | None) -> list[str]:
    return [_line(label, task, keypoint_shape) for label in image.labels]


def _line(label: ObjectLabel, task: str, keypoint_shape: tuple[int, int] | None) -> str:
    numbers: list[float] = []
    if task == "segment":
        numbers = [value for point in _one_outline(label) for value in point]
    elif keypoint_shape is not None:
        points = label.keypoints or ((0.0, 0.0, 0.0),) * keypoint_shape[0]
        numbers = [*label.box, *(value for point in points for value in point[: keypoint_shape[1]])]
    else:
        numbers = list(label.box)
    return " ".join([str(label.class_id), *(f"{value:.8g}" for value in numbers)])


def _one_outline(label: ObjectLabel) -> Sequence[tuple[float, float]]:
    """One closed line around all parts (the library's files know no second part); the box where there is no outline."""
    if not label.outlines:
        x, y, w, h = label.box
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    if len(label.outlines) == 1:
        return label.outlines[0]
    import numpy as np
    from ultralytics.data.converter import merge_multi_segment

    parts = merge_multi_segment([[value for point in outline for value in point] for outline in label.outlines])
    joined = np.concatenate(parts, axis=0)
    return [(float(x), float(y)) for x, y in joined]


def _write_classification(spec: JobSpec, source: Path, target: Path) -> dict[str, Any]:
    data = read_classification(source, spec.dataset_format)
    check_classes(data.class_names, spec.class_names, spec.num_classes)
    for warning in data.warnings:
        print(f"dataset: {warning}", flush=True)
    training, validation = split_samples(data.samples)
    if not validation:
        raise DatasetUnavailable("one image of each class is not enough: some are needed to validate with")
    # Folders are numbered so that their order is that of the classes, whatever the names contain.
    folders = [f"{label:05}" for label in range(len(data.class_names))]
    paths: dict[str, str] = {}
    parts: tuple[tuple[str, list[Sample]], ...] = (("train", training), ("val", validation))
    for split, samples in parts:
        for folder in folders:
            (target / split / folder).mkdir(parents=True)
        for sample in samples:
            name = _link(source, sample.path, target / split / folders[sample.label], len(paths))
            paths[name] = sample.path
    (target / "files.json").write_text(json.dumps(paths, ensure_ascii=False), encoding="utf-8")
    print(f"dataset: {len(training)} training images, {len(validation)} validation images", flush=True)
    return {
        "path": str(target),
        "train": "train",
        "val": "val",
        "nc": len(folders),
        "names": dict(enumerate(data.class_names)),
        "folders": folders,
    }


def _link(source: Path, path: str, folder: Path, number: int) -> str:
    """Puts an image into a folder under a name that is unique in the dataset; returns the name."""
    original = source / path
    ending = PurePosixPath(path).suffix.lower()
    if ending not in _READABLE:
        from PIL import Image

        name = f"{number:07}.png"
        try:
            with Image.open(original) as image:
                image.convert("RGB").save(folder / name)
        except OSError:
            return f"{number:07}{ending}"  # Unreadable: left out, as the library does with damaged images.
        return name
    name = f"{number:07}{ending}"
    if ending in (".jpg", ".jpeg") and not _ends_well(original):
        shutil.copyfile(original, folder / name)
    else:
        os.symlink(original.resolve(), folder / name)
    return name


def _ends_well(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < 2:
            return False
        file.seek(-2, os.SEEK_END)
        return file.read(2) == _JPEG_END
