"""Reads datasets of whole-image classes (dice, imagefolder) and divides them. Pure apart from reading files.

The same rules as the server's parsers (src/training/datasets/formats): imagefolder's class ids follow the sorted folder
names; dice's are positions in its list of classes ordered by id, without the hidden background class; names of images
count from the top or from `images/`; what was not uploaded is left out.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..channel import DatasetUnavailable, InvalidConfig
from .detection import BACKGROUND, Split, configured_splits, is_image, list_files, split_of_name, split_of_path

SPLIT_SEED = 42
VALIDATION_SHARE = 0.2

TASK = "image_classification"
_TASKS = {"classification": TASK, "image_classification": TASK}
# Tasks that have a file of their own; another one's file is not about whole images.
_DICE_FILES = ("annotations_classification.json", "annotations.json", "annotation.json")
_LITTER = re.compile(r"(^|/)(__MACOSX/|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
_FOREIGN = re.compile(
    r"^(?:annotations?(?:_[a-z]+)?\.json|annotations/[^/]+\.json|data\.ya?ml|labels/.+\.txt)$", re.IGNORECASE
)


@dataclass(frozen=True)
class Sample:
    """An image with a class."""

    # Path inside the dataset, with forward slashes.
    path: str
    # Position in the class names.
    label: int
    # None: the dataset does not say.
    split: Split | None


@dataclass(frozen=True)
class ClassificationData:
    """A whole dataset; samples in the order of their paths."""

    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    # Things a user should see in the log.
    warnings: tuple[str, ...] = ()


def read_classification(root: Path, dataset_format: str) -> ClassificationData:
    """Reads the dataset under `root`.

    `InvalidConfig` for a format or task without classes of whole images; `DatasetUnavailable` when files contradict the
    format or nothing of it is there.
    """
    if dataset_format not in ("dice", "imagefolder"):
        raise InvalidConfig(
            "dataset_format",
            f"a {dataset_format} dataset labels objects, not whole images; classification needs imagefolder or dice",
        )
    paths = [path for path in list_files(root) if not _LITTER.search(path)]
    if not paths:
        raise DatasetUnavailable("the dataset has no files")
    read = _read_dice if dataset_format == "dice" else _read_imagefolder
    folder = _common_folder(paths)
    try:
        data = read(root, paths)
    except DatasetUnavailable:
        # Archives often have one folder around everything: it is taken off when that makes the format fit.
        if folder is None:
            raise
        data = _below(folder, read(root / folder, [path[len(folder) + 1 :] for path in paths]))
    if len(data.class_names) < 2:
        raise InvalidConfig("num_classes", "the dataset has fewer than 2 classes")
    if not data.samples:
        raise DatasetUnavailable("the dataset has no image with a class")
    return data


def _common_folder(paths: Sequence[str]) -> str | None:
    folders = {path.split("/", 1)[0] if "/" in path else "" for path in paths}
    return folders.pop() if len(folders) == 1 and "" not in folders else None


def _below(folder: str, data: ClassificationData) -> ClassificationData:
    samples = tuple(Sample(f"{folder}/{sample.path}", sample.label, sample.split) for sample in data.samples)
    return ClassificationData(data.class_names, samples, data.warnings)


def split_samples(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples.

    What the dataset says holds; samples of `test` are left out. Without any validation sample, 20 % of each class are
    taken, at least one of a class with two or more (seed 42, whatever the job's own seed is: runs stay comparable).
    """
    validation = [sample for sample in samples if sample.split == "val"]
    training = [sample for sample in samples if sample.split in (None, "train")]
    if not validation:
        by_class: dict[int, list[Sample]] = {}
        for sample in sorted(training, key=lambda sample: sample.path):
            by_class.setdefault(sample.label, []).append(sample)
        chosen: set[str] = set()
        for label, members in sorted(by_class.items()):
            count = max(1, round(len(members) * VALIDATION_SHARE)) if len(members) > 1 else 0
            random.Random(f"{SPLIT_SEED}/{label}").shuffle(members)
            chosen.update(sample.path for sample in members[:count])
        validation = [sample for sample in training if sample.path in chosen]
        training = [sample for sample in training if sample.path not in chosen]
    if not training:
        raise DatasetUnavailable("every image belongs to the validation or the test part: none is left to train on")
    return training, validation


def check_classes(found: Sequence[str], class_names: Sequence[str] | None, num_classes: int | None) -> None:
    """`InvalidConfig` when the job's classes are not those of the dataset; None leaves them open."""

    def listed(names: Sequence[str]) -> str:
        return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")

    if class_names and list(class_names) != list(found):
        raise InvalidConfig("class_names", f"the job has {listed(class_names)}; the dataset has {listed(found)}")
    if num_classes is not None and num_classes != len(found):
        raise InvalidConfig(
            "num_classes", f"the job has {num_classes}; the dataset has {len(found)}: {listed(list(found))}"
        )


# --- imagefolder


def _read_imagefolder(root: Path, paths: list[str]) -> ClassificationData:
    del root
    if foreign := next((path for path in paths if _FOREIGN.match(path)), None):
        raise DatasetUnavailable(f"imagefolder: {foreign} belongs to another format")
    images = [path for path in paths if is_image(path)]
    divided = bool(images) and all("/" in path and split_of_name(path.split("/", 1)[0]) for path in images)
    found: list[tuple[str, str, Split | None]] = []
    unlabelled = 0
    for path in images:
        folders = path.split("/")[:-1]
        depth = 1 if divided else 0
        if len(folders) <= depth:
            unlabelled += 1
        else:
            found.append((path, folders[depth], split_of_name(folders[0]) if divided else None))
    names = sorted({name for _, name, _ in found})
    if len(names) < 2:
        raise DatasetUnavailable("imagefolder needs two or more class folders with images, as train/<class>/…")
    position = {name: i for i, name in enumerate(names)}
    samples = tuple(Sample(path, position[name], split) for path, name, split in sorted(found))
    warnings = (f"{unlabelled} images are in no class folder",) if unlabelled else ()
    return ClassificationData(tuple(names), samples, warnings)


# --- dice


def _read_dice(root: Path, paths: list[str]) -> ClassificationData:
    available = set(paths)
    name = next((name for name in _DICE_FILES if name in available), None)
    if name is None:
        other = next((path for path in paths if re.fullmatch(r"annotations_[a-z]+\.json", path)), None)
        if other is not None:
            raise InvalidConfig("task_type", f"the dataset has only {other}, which is not about classes of images")
        raise DatasetUnavailable("dice needs annotations.json, or annotations_classification.json, at the top")
    try:
        document = json.loads((root / name).read_text(encoding="utf-8-sig"))
        if not isinstance(document, dict):
            raise ValueError("an object is expected")
        return _DiceDocument(document, paths).data(named_for_task=name == _DICE_FILES[0])
    except OSError as error:
        raise DatasetUnavailable(f"{name} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetUnavailable(f"{name}: {type(error).__name__}: {error}") from error


class _DiceDocument:
    """One annotation file in any of the three layouts; their marks mix in practice, each is looked for by itself."""

    def __init__(self, document: Mapping[str, Any], paths: Iterable[str]) -> None:
        self._document = document
        self._images = [path for path in paths if is_image(path)]
        self._paths = set(self._images)
        listed = document.get("classes", document.get("categories"))
        if not isinstance(listed, list) or not listed:
            raise ValueError("it lists no classes")
        classes = sorted((int(entry["id"]), str(entry["name"])) for entry in listed)
        if len({class_id for class_id, _ in classes}) < len(classes):
            raise ValueError("a class id is used twice")
        self._names = dict(classes)
        self._used = [name for _, name in classes if name != BACKGROUND]
        if len(set(self._used)) < len(self._used):
            raise ValueError("a class name is used twice")
        self._position = {name: i for i, name in enumerate(self._used)}
        info = document.get("storage_info")
        root = info.get("image_root") if isinstance(info, dict) else None
        parts = [part for part in str(root).split("/") if part][-16:] if root else []
        self._roots = ["", "images/", *("/".join(parts[i:]) + "/" for i in range(len(parts)))]
        self._splits = configured_splits(document)
        self._placed: dict[str, tuple[Split | None, int | None]] = {}
        self._by_name: dict[str, str | None] | None = None
        self._counts: Counter[str] = Counter()

    def data(self, *, named_for_task: bool) -> ClassificationData:
        """The labelled images."""
        task = self._document.get("task_type")
        if task is not None and _TASKS.get(str(task).lower().replace("-", "_")) is None:
            raise InvalidConfig("task_type", f"the dataset is for {task}")
        flat = self._document.get("annotations")
        images = self._document.get("images") or []
        if task is None and not named_for_task and _has_objects([*images, *(flat or [])]):
            raise InvalidConfig("task_type", "the dataset labels objects, not whole images")
        by_id: dict[str, str | None] = {}
        for image in images:
            self._image(image, by_id, nested=flat is None)
        for label in flat or []:
            identity = str(label["image_id"])
            if identity not in by_id:
                # A flat list often comes without images: the label names the picture.
                path = None if images else self._find(identity) or self._named(identity)
                if path is not None:
                    self._placed.setdefault(path, (self._splits.get(identity) or split_of_path(path), None))
                by_id[identity] = path
            self._label(by_id[identity], label)
        unlabelled = sum(1 for _, label in self._placed.values() if label is None)
        unlabelled += sum(1 for path in self._images if path not in self._placed)
        if unlabelled:
            self._counts["images have no class and are left out"] = unlabelled
        samples = tuple(
            Sample(path, label, split) for path, (split, label) in sorted(self._placed.items()) if label is not None
        )
        if not samples:
            raise DatasetUnavailable("dice: no image with a class was uploaded")
        return ClassificationData(
            tuple(self._used), samples, tuple(f"{count} {what}" for what, count in self._counts.items())
        )

    def _image(self, image: Mapping[str, Any], by_id: dict[str, str | None], *, nested: bool) -> None:
        path = self._find(str(image["file_name"]))
        identity = str(image["id"]) if image.get("id") is not None else None
        if identity is not None:
            by_id[identity] = path
        if path is None:
            self._counts["images that are listed were not uploaded"] += 1
        else:
            given = image.get("split")
            split = self._splits.get(identity or "") or (split_of_name(str(given)) if given else None)
            self._placed.setdefault(path, (split or split_of_path(path), None))
        if nested:
            one = image.get("annotation")
            for label in [*([one] if one else []), *(image.get("annotations") or [])]:
                self._label(path, label)

    def _label(self, path: str | None, label: Mapping[str, Any]) -> None:
        name = self._class_name(label)
        if path is None or name == BACKGROUND:
            return
        split, earlier = self._placed[path]
        position = self._position[name]
        if earlier is None:
            self._placed[path] = (split, position)
        elif earlier != position:
            self._counts["labels give an image a second class and are not used"] += 1

    def _class_name(self, label: Mapping[str, Any]) -> str:
        given = label.get("class_id", label.get("category_id"))
        if given is not None:
            if int(given) not in self._names:
                raise ValueError(f"a label has the class {given}, which is not in the list of classes")
            return self._names[int(given)]
        name = str(label.get("class_name", label.get("category_name")))
        if name not in self._position:
            raise ValueError(f"a label has the class {name!r}, which is not in the list of classes")
        return name

    def _find(self, name: str) -> str | None:
        # The server stores paths in the composed spelling; some systems write names in the other one.
        name = unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))
        for candidate in (*(root + name for root in self._roots), name.removeprefix("images/")):
            if candidate in self._paths:
                return candidate
        return None

    def _named(self, name: str) -> str | None:
        """By the bare file name, with or without its ending, where only one file has it."""
        if self._by_name is None:
            self._by_name = {}
            for path in self._images:
                for key in {PurePosixPath(path).name, PurePosixPath(path).stem}:
                    self._by_name[key] = None if key in self._by_name else path
        return self._by_name.get(name)


def _has_objects(entries: Iterable[Any]) -> bool:
    """Whether a label has a box, an outline, keypoints or a mask."""
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        one = entry.get("annotation")
        for label in (entry, one if isinstance(one, dict) else {}, *(entry.get("annotations") or [])):
            if isinstance(label, dict) and any(
                label.get(key) for key in ("bbox", "segmentation", "keypoints", "mask_file")
            ):
                return True
    return False
