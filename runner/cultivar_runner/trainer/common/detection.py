"""Reads datasets of boxes, outlines and keypoints (dice, COCO, YOLO) into one form. Pure apart from reading files.

The same rules as the server's parsers (src/training/datasets/formats): class ids are positions in the list of classes
ordered by id, without the hidden background class; names of images count from the top or from `images/`; a listed
picture that was not uploaded is left out; an image without labels is a negative.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..channel import DatasetUnavailable

Split = Literal["train", "val", "test"]
Task = Literal["object_detection", "instance_segmentation", "pose_estimation"]
Point = tuple[float, float]

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
BACKGROUND = "__background__"
# The published key points of COCO's people, mirrored: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
COCO_FLIP = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)

_SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class ObjectLabel:
    """One object. All coordinates are shares of the image's width and height, 0..1."""

    class_id: int
    # Centre x, centre y, width, height.
    box: tuple[float, float, float, float]
    # Outer outlines, each at least three points; several where an object is cut in parts. Empty: only boxed.
    outlines: tuple[tuple[Point, ...], ...] = ()
    # x, y, visibility (0 not labelled, 1 hidden, 2 visible).
    keypoints: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class LabelledImage:
    """One image and the objects on it; no objects means a negative."""

    # Path inside the dataset, with forward slashes.
    path: str
    split: Split | None
    labels: tuple[ObjectLabel, ...] = ()


@dataclass(frozen=True)
class DetectionData:
    """A whole dataset."""

    class_names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    # Keypoints per object and numbers per keypoint (2: no visibility); pose datasets only.
    keypoint_shape: tuple[int, int] | None = None
    # Which keypoint each becomes in a mirrored image; None when unknown.
    keypoint_flip: tuple[int, ...] | None = None
    # Things a user should see in the log.
    warnings: tuple[str, ...] = ()


def read_detection(root: Path, dataset_format: str, task: Task) -> DetectionData:
    """Reads the dataset under `root`.

    Every image comes back with the split that the dataset gives it, or None. `DatasetUnavailable` says what is missing.
    """
    paths = list_files(root)
    if dataset_format == "yolo":
        return _read_yolo(root, paths, task)
    if dataset_format == "coco":
        return _read_coco(root, paths, task)
    if dataset_format == "dice":
        return _read_dice(root, paths, task)
    raise DatasetUnavailable(f"a dataset of format {dataset_format!r} has no boxes to train {task} with")


def list_files(root: Path) -> list[str]:
    """All files below `root` as sorted paths with forward slashes; links to files count, hidden files do not."""
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = PurePosixPath(Path(folder).relative_to(root).as_posix())
        found += [str(prefix / name) for name in sorted(names) if not name.startswith(".")]
    return found


def is_image(path: str) -> bool:
    """Whether a name counts as a picture."""
    return path.lower().endswith(IMAGE_ENDINGS)


def split_of_name(name: str) -> Split | None:
    """The split that a folder's name or a `split` value means."""
    return _SPLITS.get(name.lower())


def split_of_path(path: str) -> Split | None:
    """The split named by one of the folders of a path, the outermost first."""
    for folder in PurePosixPath(path).parts[:-1]:
        if split := split_of_name(folder):
            return split
    return None


# --- splits


def assign_splits(
    images: Sequence[LabelledImage], *, ratio: float = 0.8, seed: int = 42
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Training and validation images.

    What the dataset says holds; images of `test` are left out. Without any validation image, 20 % of the others are
    taken so that each class stays in training and, with two images or more, is in validation (seed 42). With some,
    images of no split are trained on.
    """
    validation = [image for image in images if image.split == "val"]
    training = [image for image in images if image.split in (None, "train")]
    if not validation and len(training) > 1:
        chosen = _validation_indexes([{label.class_id for label in image.labels} for image in training], ratio, seed)
        validation = [image for i, image in enumerate(training) if i in chosen]
        training = [image for i, image in enumerate(training) if i not in chosen]
    if not training:
        raise DatasetUnavailable("every image belongs to the validation or the test part: none is left to train on")
    if not validation:
        raise DatasetUnavailable("one image is not enough: one is needed to train on and one to validate with")
    return (
        [replace(image, split="train") for image in training],
        [replace(image, split="val") for image in validation],
    )


def _validation_indexes(classes: Sequence[set[int]], ratio: float, seed: int) -> set[int]:
    order = list(range(len(classes)))
    random.Random(seed).shuffle(order)
    wanted = min(max(round(len(classes) * (1 - ratio)), 1), len(classes) - 1)
    left = Counter(class_id for present in classes for class_id in present)
    chosen: set[int] = set()

    def take(i: int) -> bool:
        if any(left[class_id] < 2 for class_id in classes[i]):
            return False
        chosen.add(i)
        left.subtract(classes[i])
        return True

    by_class: dict[int, list[int]] = {}
    for i in order:
        for class_id in classes[i]:
            by_class.setdefault(class_id, []).append(i)
    # The rarest class first: it has the fewest images to choose from.
    for _, members in sorted(by_class.items(), key=lambda item: (len(item[1]), item[0])):
        if len(members) >= 2 and not any(i in chosen for i in members):
            any(take(i) for i in members)
    for i in order:
        if len(chosen) >= wanted:
            break
        if i not in chosen:
            take(i)
    if not chosen:  # Each image is the last of some class: a training set without a class is worse than one more image.
        chosen.add(order[0])
    return chosen


# --- JSON documents: dice and COCO


class _Resolver:
    """Finds the file that a name in a document means."""

    def __init__(
        self, paths: Iterable[str], *, folder: str = "", image_root: str | None = None, split: str | None = None
    ):
        self._paths = set(paths)
        roots = ["", "images/"]
        if folder:
            roots.append(f"{folder}/")
        if split:
            roots += [f"images/{split}/", f"{split}/images/", f"{split}/"]
        if image_root:
            parts = [part for part in image_root.split("/") if part][-16:]
            roots += ["/".join(parts[i:]) + "/" for i in range(len(parts))]
        self._roots = roots
        self._by_name: dict[str, str | None] = {}
        for path in self._paths:
            if is_image(path):
                for key in (PurePosixPath(path).name, PurePosixPath(path).stem):
                    self._by_name[key] = None if key in self._by_name else path

    def image(self, name: str) -> str | None:
        """The uploaded path of a listed name."""
        name = name.replace("\\", "/").removeprefix("./")
        bare = name.removeprefix("images/")
        for candidate in (*(root + name for root in self._roots), bare):
            if candidate in self._paths:
                return candidate
        return None

    def by_name(self, name: str) -> str | None:
        """Also by the bare file name, where only one file has it."""
        return self.image(name) or self._by_name.get(PurePosixPath(name).name)


@dataclass
class _Listed:
    path: str
    split: Split | None
    size: tuple[float, float] | None
    labels: list[ObjectLabel] = field(default_factory=list)


class _Document:
    """Images and labels of one JSON document."""

    def __init__(
        self, root: Path, document: Mapping[str, Any], task: Task, resolver: _Resolver, *, by_name: bool
    ) -> None:
        self._root = root
        self._task = task
        self._find = resolver.by_name if by_name else resolver.image
        self._find_any = resolver.by_name
        self.classes = self._read_classes(document)
        used = [class_id for class_id, name in self.classes if name != BACKGROUND]
        self._position = {class_id: i for i, class_id in enumerate(used)}
        self._background = {class_id for class_id, name in self.classes if name == BACKGROUND}
        self.class_names = [name for _, name in self.classes if name != BACKGROUND]
        self._by_label_name = {name: i for i, name in enumerate(self.class_names)}
        self.images: dict[str, _Listed] = {}
        self.counts: Counter[str] = Counter()
        self.keypoint_names = self._keypoint_names(document)
        self._read_images(document)

    def _read_classes(self, document: Mapping[str, Any]) -> list[tuple[int, str]]:
        listed = document.get("classes", document.get("categories"))
        if not isinstance(listed, list) or not listed:
            raise DatasetUnavailable("the annotations list no classes")
        return sorted((int(entry["id"]), str(entry["name"])) for entry in listed)

    @staticmethod
    def _keypoint_names(document: Mapping[str, Any]) -> list[str] | None:
        for entry in document.get("classes", document.get("categories")) or []:
            names = entry.get("keypoints")
            if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                return [str(name) for name in names]
        return None

    def _read_images(self, document: Mapping[str, Any]) -> None:
        flat = document.get("annotations")
        by_id: dict[str, _Listed | None] = {}
        images = document.get("images") or []
        splits = configured_splits(document)
        for image in images:
            name = str(image["file_name"])
            path = self._find(name)
            identity = str(image["id"]) if image.get("id") is not None else None
            if path is None:
                self.counts["images that are listed were not uploaded"] += 1
                if identity is not None:
                    by_id[identity] = None
                continue
            given = image.get("split")
            split = splits.get(identity or "") or (split_of_name(str(given)) if given else None) or split_of_path(path)
            size = (
                (float(image["width"]), float(image["height"])) if image.get("width") and image.get("height") else None
            )
            listed = self.images.setdefault(path, _Listed(path, split, size))
            if identity is not None:
                by_id[identity] = listed
            if flat is None:
                nested = image.get("annotations") or ([image["annotation"]] if image.get("annotation") else [])
                for label in nested:
                    self._label(listed, label)
        for label in flat or []:
            identity = str(label["image_id"])
            if identity not in by_id:
                # A flat list often comes without images: the label names the picture.
                path = None if images else self._find_any(identity)
                unlisted: _Listed | None = None
                if path is not None:
                    split = splits.get(identity) or split_of_path(path)
                    unlisted = self.images.setdefault(path, _Listed(path, split, None))
                by_id[identity] = unlisted
            target = by_id[identity]
            if target is None:
                self.counts["labels belong to no uploaded image"] += 1
            else:
                self._label(target, label)

    def _label(self, image: _Listed, label: Mapping[str, Any]) -> None:
        class_id = self._class_of(label)
        if class_id is None:
            return
        if label.get("iscrowd") in (1, True):
            # A crowd's box covers many objects: as a label it would teach one large object.
            self.counts["labels of crowds are left out"] += 1
            return
        size = image.size
        if size is None:
            size = image.size = image_size(self._root / image.path)
        width, height = size
        outlines = _outlines(label.get("segmentation"), width, height)
        keypoints = _keypoints(label.get("keypoints"), width, height)
        box = _box(label.get("bbox"), width, height) or _box_around(outlines, keypoints)
        if box is None:
            self.counts["labels have no area inside their image"] += 1
            return
        if self._task == "instance_segmentation" and not outlines:
            self.counts["objects have no outline: their boxes stand for it"] += 1
        image.labels.append(ObjectLabel(class_id, box, outlines, keypoints))

    def _class_of(self, label: Mapping[str, Any]) -> int | None:
        given = label.get("class_id", label.get("category_id"))
        if given is None:
            name = label.get("class_name", label.get("category_name"))
            return self._by_label_name.get(str(name))
        if int(given) in self._background:
            return None
        if int(given) not in self._position:
            raise DatasetUnavailable(f"a label has the class {given}, which is not in the list of classes")
        return self._position[int(given)]


def configured_splits(document: Mapping[str, Any]) -> dict[str, Split]:
    """`split_config.splits`: image id -> split. Ids are compared as text, for JSON keys are."""
    config = document.get("split_config")
    chosen = config.get("splits") if isinstance(config, dict) and config.get("method") != "auto" else None
    if not isinstance(chosen, dict):
        return {}
    pairs = ((str(identity), split_of_name(str(name))) for identity, name in chosen.items())
    return {identity: split for identity, split in pairs if split is not None}


def _read_json(root: Path, name: str) -> dict[str, Any]:
    try:
        document = json.loads((root / name).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetUnavailable(f"{name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise DatasetUnavailable(f"{name} holds no object")
    return document


_DICE_FILES: dict[Task, tuple[str, ...]] = {
    "object_detection": ("annotations_detection.json", "annotations_segmentation.json", "annotations_pose.json"),
    "instance_segmentation": ("annotations_segmentation.json",),
    "pose_estimation": ("annotations_pose.json",),
}


def _read_dice(root: Path, paths: list[str], task: Task) -> DetectionData:
    available = set(paths)
    wanted = (*_DICE_FILES[task], "annotations.json", "annotation.json")
    name = next((name for name in wanted if name in available), None)
    if name is None:
        raise DatasetUnavailable(f"dice: none of {', '.join(wanted)} is in the dataset")
    document = _read_json(root, name)
    info = document.get("storage_info")
    image_root = info.get("image_root") if isinstance(info, dict) else None
    resolver = _Resolver(paths, image_root=image_root if isinstance(image_root, str) else None)
    try:
        read = _Document(root, document, task, resolver, by_name=False)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetUnavailable(f"{name}: {type(error).__name__}: {error}") from error
    # In a file per task a picture without labels is a negative even when it is not listed.
    if image_root is not None or name not in ("annotations.json", "annotation.json"):
        for path in paths:
            if is_image(path) and path not in read.images and path.startswith("images/"):
                read.images[path] = _Listed(path, split_of_path(path), None)
    return _data_of([read], task)


_COCO_FILE = re.compile(
    r"^annotations/[^/]+\.json$|(?:^|/)_annotations\.coco\.json$|^(?:annotations|instances[^/]*|person_keypoints[^/]*)\.json$"
)
_COCO_KINDS = (r"^instances", r"^person_keypoints", r"^(?!captions|panoptic|stuff)")


def _read_coco(root: Path, paths: list[str], task: Task) -> DetectionData:
    found = [path for path in paths if _COCO_FILE.search(path)]
    kinds = (_COCO_KINDS[1], _COCO_KINDS[0], _COCO_KINDS[2]) if task == "pose_estimation" else _COCO_KINDS
    used: list[str] = []
    for kind in kinds:
        used = [path for path in found if re.search(kind, PurePosixPath(path).name, re.IGNORECASE)]
        if used:
            break
    if not used:
        raise DatasetUnavailable("coco: no annotations/*.json or <split>/_annotations.coco.json is in the dataset")
    documents = []
    for name in used:
        split = _split_of_file(name)
        folder = str(PurePosixPath(name).parent)
        resolver = _Resolver(paths, folder="" if folder == "." else folder, split=split)
        try:
            read = _Document(root, _read_json(root, name), task, resolver, by_name=True)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetUnavailable(f"{name}: {type(error).__name__}: {error}") from error
        for image in read.images.values():
            image.split = image.split or split
        documents.append(read)
    return _data_of(documents, task)


def _split_of_file(path: str) -> Split | None:
    """A word of the file's name (`instances_val2017.json`), else its folder."""
    for word in re.split(r"[^a-zA-Z]+", PurePosixPath(path).name):
        if split := split_of_name(word):
            return split
    return split_of_path(path)


def _data_of(documents: Sequence[_Document], task: Task) -> DetectionData:
    classes: dict[int, str] = {}
    for document in documents:
        for class_id, name in document.classes:
            if classes.setdefault(class_id, name) != name:
                raise DatasetUnavailable(
                    f"class {class_id} is {name!r} in one file and {classes[class_id]!r} in another"
                )
    names = [name for _, name in sorted(classes.items()) if name != BACKGROUND]
    position = {name: i for i, name in enumerate(names)}
    images: dict[str, LabelledImage] = {}
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(document.counts)
        for path, image in document.images.items():
            labels = tuple(
                replace(label, class_id=position[document.class_names[label.class_id]]) for label in image.labels
            )
            earlier = images.get(path)
            if earlier is not None:
                labels = earlier.labels + labels
            images[path] = LabelledImage(path, image.split or (earlier.split if earlier else None), labels)
    shape = _keypoint_shape(images.values()) if task == "pose_estimation" else None
    point_names = next((document.keypoint_names for document in documents if document.keypoint_names), None)
    return DetectionData(
        class_names=tuple(names),
        images=tuple(images[path] for path in sorted(images)),
        keypoint_shape=shape,
        keypoint_flip=_flip_of(point_names, shape) if shape else None,
        warnings=tuple(f"{count} {what}" for what, count in counts.items()),
    )


def _keypoint_shape(images: Iterable[LabelledImage]) -> tuple[int, int]:
    lengths = Counter(len(label.keypoints) for image in images for label in image.labels if label.keypoints)
    if len(lengths) != 1:
        what = "no label has keypoints" if not lengths else f"labels have {sorted(lengths)} keypoints"
        raise DatasetUnavailable(f"pose_estimation needs the same keypoints on each object: {what}")
    return (next(iter(lengths)), 3)


def _flip_of(names: Sequence[str] | None, shape: tuple[int, int]) -> tuple[int, ...] | None:
    """From names with left and right; the order of COCO's people where 17 points have no names."""
    if names is None or len(names) != shape[0]:
        return COCO_FLIP if shape[0] == len(COCO_FLIP) else None
    position = {name: i for i, name in enumerate(names)}

    def mirrored(name: str) -> str:
        swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
        return re.sub("|".join(swap), lambda match: swap[match.group()], name)

    flip = tuple(position.get(mirrored(name), -1) for name in names)
    return None if -1 in flip else flip


def image_size(path: Path) -> tuple[float, float]:
    """Width and height in pixels as a viewer shows them: an EXIF orientation that lies on its side swaps the two."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except OSError as error:
        raise DatasetUnavailable(f"{path.name} is no readable image: {error}") from error
    return (float(height), float(width)) if turned else (float(width), float(height))


def _box(given: Any, width: float, height: float) -> tuple[float, float, float, float] | None:
    """`[x, y, w, h]` in pixels as shares, cut at the image's edges; None without an area."""
    if not isinstance(given, list) or len(given) != 4:
        return None
    x, y, w, h = (float(value) for value in given)
    return _shares(x / width, y / height, (x + w) / width, (y + h) / height)


def _box_around(
    outlines: Sequence[Sequence[Point]], keypoints: Sequence[tuple[float, float, float]]
) -> tuple[float, float, float, float] | None:
    points = [point for outline in outlines for point in outline] or [(x, y) for x, y, seen in keypoints if seen > 0]
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    return _shares(min(xs), min(ys), max(xs), max(ys))


def _shares(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float] | None:
    left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in (left, top, right, bottom))
    if right <= left or bottom <= top:
        return None
    return ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _outlines(given: Any, width: float, height: float) -> tuple[tuple[Point, ...], ...]:
    if isinstance(given, dict):
        given = _polygons_of_runs(given)
    if not isinstance(given, list):
        return ()
    found = []
    for polygon in given:
        values = [float(value) for value in polygon]
        pairs = zip(values[0::2], values[1::2], strict=True)
        points = tuple((min(max(x / width, 0.0), 1.0), min(max(y / height, 0.0), 1.0)) for x, y in pairs)
        if len(points) >= 3:
            found.append(points)
    return tuple(found)


def _keypoints(given: Any, width: float, height: float) -> tuple[tuple[float, float, float], ...]:
    if not isinstance(given, list) or not given:
        return ()
    if isinstance(given[0], list):
        given = [value for point in given for value in point]
    values = [float(value) for value in given]
    triples = zip(values[0::3], values[1::3], values[2::3], strict=True)
    return tuple(
        (min(max(x / width, 0.0), 1.0), min(max(y / height, 0.0), 1.0), seen) if seen > 0 else (0.0, 0.0, 0.0)
        for x, y, seen in triples
    )


def _polygons_of_runs(runs: Mapping[str, Any]) -> list[list[float]]:
    """Outer contours of a run-length mask (columns first, background first): COCO's form of masks beside polygons."""
    import cv2
    import numpy as np

    height, width = (int(value) for value in runs["size"])
    counts = runs["counts"]
    lengths = _uncompressed(counts) if isinstance(counts, str) else [int(count) for count in counts]
    if sum(lengths) != width * height:
        raise ValueError(f"a run-length mask covers {sum(lengths)} of {width * height} pixels")
    values = np.repeat(np.arange(len(lengths), dtype=np.uint8) % 2, lengths)
    mask = np.ascontiguousarray(values.reshape(width, height).T)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour.reshape(-1).astype(float).tolist() for contour in contours if len(contour) >= 3]


def _uncompressed(text: str) -> list[int]:
    """COCO's text form of run lengths: 5 bits and a continuation bit a character, from the 4th on as a difference."""
    lengths: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        more = True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 0x1F) << (5 * shift)
            more = bool(bits & 0x20)
            at += 1
            shift += 1
            if not more and bits & 0x10:
                value |= -1 << (5 * shift)
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    return lengths


# --- YOLO


def _read_yolo(root: Path, paths: list[str], task: Task) -> DetectionData:
    available = set(paths)
    images = [path for path in paths if is_image(path) and "images" in PurePosixPath(path).parts[:-1]]
    config_name = next((n for n in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml") if n in available), None)
    config = _read_yaml(root, config_name) if config_name else {}
    if not images:
        raise DatasetUnavailable("yolo: there is no image in an images folder")
    shape = config.get("kpt_shape")
    keypoint_shape = (int(shape[0]), int(shape[1])) if isinstance(shape, list) and len(shape) == 2 else None
    if task == "pose_estimation" and keypoint_shape is None:
        raise DatasetUnavailable("pose_estimation needs kpt_shape in data.yaml")
    folders = _split_folders(config)
    counts: Counter[str] = Counter()
    read: list[LabelledImage] = []
    for path in images:
        label_path = label_path_of(path)
        labels: tuple[ObjectLabel, ...] = ()
        if label_path in available:
            text = (root / label_path).read_text(encoding="utf-8-sig")
            labels = tuple(_yolo_labels(text, label_path, keypoint_shape, counts, task))
        split = next((split for split, folder in folders if path.startswith(f"{folder}/")), None) or split_of_path(path)
        read.append(LabelledImage(path, split, labels))
    highest = max((label.class_id for image in read for label in image.labels), default=-1)
    names = _yolo_names(config, highest + 1)
    if highest >= len(names):
        raise DatasetUnavailable(f"a label has the class {highest}, but data.yaml has {len(names)} classes")
    flip = config.get("flip_idx")
    return DetectionData(
        class_names=tuple(names),
        images=tuple(read),
        keypoint_shape=keypoint_shape if task == "pose_estimation" else None,
        keypoint_flip=tuple(int(i) for i in flip) if isinstance(flip, list) else None,
        warnings=tuple(f"{count} {what}" for what, count in counts.items()),
    )


def _read_yaml(root: Path, name: str) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load((root / name).read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError) as error:
        raise DatasetUnavailable(f"{name} cannot be read: {error}") from error
    return config if isinstance(config, dict) else {}


def _split_folders(config: Mapping[str, Any]) -> list[tuple[Split, str]]:
    found: list[tuple[Split, str]] = []
    for split in ("train", "val", "test"):
        given = config.get(split)
        for folder in given if isinstance(given, list) else [given]:
            if isinstance(folder, str):
                tail = re.sub(r"^(?:\.{1,2}/)+", "", folder).rstrip("/")
                if tail and not tail.startswith("/"):
                    found.append((split, tail))
    return found


def _yolo_names(config: Mapping[str, Any], needed: int) -> list[str]:
    names = config.get("names")
    if isinstance(names, dict):
        return [str(names[key]) for key in sorted(names, key=int)]
    if isinstance(names, list):
        return [str(name) for name in names]
    return [str(i) for i in range(int(config.get("nc") or needed))]


def label_path_of(image: str) -> str:
    """The label file of an image: the last `images` folder becomes `labels`, the ending `.txt`."""
    parts = list(PurePosixPath(image).with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return "/".join(parts)


def _yolo_labels(
    text: str, path: str, keypoint_shape: tuple[int, int] | None, counts: Counter[str], task: Task
) -> Iterator[ObjectLabel]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            class_id, values = int(float(words[0])), [float(word) for word in words[1:]]
        except ValueError as error:
            raise DatasetUnavailable(f"{path} line {number}: {error}") from error
        outlines: tuple[tuple[Point, ...], ...] = ()
        keypoints: tuple[tuple[float, float, float], ...] = ()
        box: tuple[float, float, float, float] | None
        if keypoint_shape is not None and len(values) == 4 + keypoint_shape[0] * keypoint_shape[1]:
            step = keypoint_shape[1]
            groups = [values[4 + i : 4 + i + step] for i in range(0, keypoint_shape[0] * step, step)]
            keypoints = tuple((g[0], g[1], g[2] if step == 3 else (2.0 if g[0] or g[1] else 0.0)) for g in groups)
            box = _cut(values)
        elif len(values) == 4:
            box = _cut(values)
        elif len(values) >= 6 and len(values) % 2 == 0:
            outlines = (tuple(zip(values[0::2], values[1::2], strict=True)),)
            box = _box_around(outlines, ())
        else:
            raise DatasetUnavailable(f"{path} line {number}: {len(words)} numbers are no box, outline or keypoints")
        if box is None:
            counts["labels have no area inside their image"] += 1
            continue
        if task == "instance_segmentation" and not outlines:
            counts["objects have no outline: their boxes stand for it"] += 1
        yield ObjectLabel(class_id, box, outlines, keypoints)


def _cut(values: Sequence[float]) -> tuple[float, float, float, float] | None:
    x, y, w, h = values[:4]
    if w <= 0 or h <= 0:
        return None
    if x - w / 2 >= 0 and y - h / 2 >= 0 and x + w / 2 <= 1 and y + h / 2 <= 1:
        return (x, y, w, h)  # As written: no rounding of what needs no cut.
    return _shares(x - w / 2, y - h / 2, x + w / 2, y + h / 2)
