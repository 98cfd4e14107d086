import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cultivar_runner.trainer.channel import DatasetUnavailable, InvalidConfig
from cultivar_runner.trainer.common.classification import (
    ClassificationData,
    Sample,
    check_classes,
    read_classification,
    split_samples,
)


def put(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"no picture, for nobody opens it here")
    return root


def dice(root: Path, document: dict[str, Any], name: str = "annotations.json") -> ClassificationData:
    (root / name).write_text(json.dumps(document))
    return read_classification(root, "dice")


def facts(data: ClassificationData) -> list[tuple[str, str, str | None]]:
    return [(sample.path, data.class_names[sample.label], sample.split) for sample in data.samples]


CLASSES = [{"id": 7, "name": "ripe"}, {"id": 2, "name": "green"}]


class TestImagefolder:
    def test_class_folders_are_sorted_and_pictures_may_lie_deeper(self, tmp_path: Path) -> None:
        put(tmp_path, "b/2.PNG", "a/x/1.jpg", "a/notes.txt", "stray.png", ".git/hidden.png")
        data = read_classification(tmp_path, "imagefolder")
        assert data.class_names == ("a", "b")
        assert facts(data) == [("a/x/1.jpg", "a", None), ("b/2.PNG", "b", None)]
        assert data.warnings == ("1 images are in no class folder",)

    def test_split_folders_give_the_split(self, tmp_path: Path) -> None:
        put(tmp_path, "train/a/1.png", "valid/a/2.png", "train/b/3.png", "test/b/4.png")
        data = read_classification(tmp_path, "imagefolder")
        assert [split for _, _, split in facts(data)] == ["test", "train", "train", "val"]
        assert data.class_names == ("a", "b")

    def test_a_folder_around_everything_is_taken_off_the_classes_not_off_the_paths(self, tmp_path: Path) -> None:
        put(tmp_path, "mine/a/1.png", "mine/b/2.png", "__MACOSX/mine/a/1.png")
        data = read_classification(tmp_path, "imagefolder")
        assert facts(data) == [("mine/a/1.png", "a", None), ("mine/b/2.png", "b", None)]

    @pytest.mark.parametrize(
        "paths", [["a/1.png", "a/2.png"], ["1.png"], ["a/1.txt"], ["data.yaml", "a/1.png", "b/1.png"]]
    )
    def test_what_is_no_imagefolder_is_refused(self, tmp_path: Path, paths: list[str]) -> None:
        put(tmp_path, *paths)
        with pytest.raises((DatasetUnavailable, InvalidConfig)):
            read_classification(tmp_path, "imagefolder")

    def test_an_empty_or_missing_folder_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetUnavailable):
            read_classification(tmp_path, "imagefolder")
        with pytest.raises(DatasetUnavailable):
            read_classification(tmp_path / "nowhere", "imagefolder")


class TestDice:
    def test_nested_layout(self, tmp_path: Path) -> None:
        put(tmp_path, "images/1.png", "images/2.png", "images/3.png")
        images = [
            {"id": 1, "file_name": "images/1.png", "split": "val", "annotation": {"class_id": 7, "class_name": "ripe"}},
            {"id": 2, "file_name": "2.png", "annotation": {"class_id": "2"}},
            {"id": 3, "file_name": "images/3.png"},
            {"id": 4, "file_name": "images/4.png", "annotation": {"class_id": 2}},
        ]
        document = {"format_version": "1.0", "task_type": "classification", "classes": CLASSES, "images": images}
        data = dice(tmp_path, document)
        assert data.class_names == ("green", "ripe")
        assert facts(data) == [("images/1.png", "ripe", "val"), ("images/2.png", "green", None)]
        assert set(data.warnings) == {
            "1 images that are listed were not uploaded",
            "1 images have no class and are left out",
        }

    def test_flat_layout_without_images_finds_them_by_name(self, tmp_path: Path) -> None:
        put(tmp_path, "images/train/image_1.png", "images/val/image_2.png")
        labels = [
            {"image_id": "image_1", "category_id": 2},
            {"image_id": "image_2.png", "category_id": 7},
            {"image_id": "image_9", "category_id": 7},
        ]
        data = dice(tmp_path, {"categories": [*CLASSES, {"id": 0, "name": "__background__"}], "annotations": labels})
        assert data.class_names == ("green", "ripe")
        assert facts(data) == [
            ("images/train/image_1.png", "green", "train"),
            ("images/val/image_2.png", "ripe", "val"),
        ]

    def test_flat_layout_compares_ids_as_text_and_splits_by_its_config(self, tmp_path: Path) -> None:
        put(tmp_path, "images/1.png", "images/2.png")
        document = {
            "categories": CLASSES,
            "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
            "annotations": [{"image_id": "1", "category_id": 2}, {"image_id": 2, "category_id": 7}],
            "split_config": {"method": "manual", "splits": {"1": "train", "2": "val"}},
        }
        assert [split for _, _, split in facts(dice(tmp_path, document))] == ["train", "val"]

    def test_per_task_layout_reads_its_own_file_below_the_storage_root(self, tmp_path: Path) -> None:
        put(tmp_path, "images/1.png", "images/2.png", "annotations_detection.json")
        document = {
            "storage_info": {"image_root": "datasets/9/images/"},
            "classes": CLASSES,
            "images": [
                {"id": 1, "file_name": "1.png", "annotation": {"class_name": "ripe"}},
                {"id": 2, "file_name": "2.png", "annotation": {"class_name": "green"}},
            ],
        }
        data = dice(tmp_path, document, "annotations_classification.json")
        assert facts(data) == [("images/1.png", "ripe", None), ("images/2.png", "green", None)]

    def test_names_match_in_either_spelling_of_their_letters(self, tmp_path: Path) -> None:
        put(tmp_path, "images/caf\u00e9.png")
        images = [{"id": 1, "file_name": "cafe\u0301.png", "annotation": {"class_id": 2}}]
        assert facts(dice(tmp_path, {"classes": CLASSES, "images": images})) == [
            ("images/caf\u00e9.png", "green", None)
        ]

    def test_the_first_of_two_classes_of_an_image_counts(self, tmp_path: Path) -> None:
        put(tmp_path, "1.png", "2.png")
        labels = [{"image_id": 1, "category_id": c} for c in (2, 7)] + [{"image_id": 2, "category_id": 7}]
        images = [{"id": i, "file_name": f"{i}.png"} for i in (1, 2)]
        data = dice(tmp_path, {"categories": CLASSES, "images": images, "annotations": labels})
        assert facts(data)[0] == ("1.png", "green", None)
        assert data.warnings == ("1 labels give an image a second class and are not used",)

    @pytest.mark.parametrize(
        "label", [{"category_id": 2, "bbox": [0, 0, 1, 1]}, {"category_id": 2, "segmentation": [[0, 0, 1, 0, 1, 1]]}]
    )
    def test_objects_are_not_classes_of_images(self, tmp_path: Path, label: dict[str, Any]) -> None:
        put(tmp_path, "1.png")
        document = {
            "categories": CLASSES,
            "images": [{"id": 1, "file_name": "1.png"}],
            "annotations": [{"image_id": 1, **label}],
        }
        with pytest.raises(InvalidConfig, match="task_type"):
            dice(tmp_path, document)
        with pytest.raises(InvalidConfig, match="task_type"):
            dice(tmp_path, {**document, "task_type": "object_detection"})

    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"classes": []},
            {"classes": [{"id": 1}]},
            {"classes": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "images": []},
            {"classes": CLASSES, "images": [{"id": 1}]},
            {"classes": CLASSES, "images": [{"file_name": "1.png", "annotation": {"class_id": 9}}]},
            {"classes": CLASSES, "images": [{"file_name": "1.png", "annotation": {"class_name": "blue"}}]},
            {"classes": CLASSES, "images": [{"file_name": "gone.png", "annotation": {"class_id": 2}}]},
            {"classes": CLASSES, "images": "all"},
        ],
    )
    def test_a_broken_document_says_so(self, tmp_path: Path, document: dict[str, Any]) -> None:
        put(tmp_path, "1.png")
        with pytest.raises(DatasetUnavailable):
            dice(tmp_path, document)

    def test_a_document_that_is_no_json_says_so(self, tmp_path: Path) -> None:
        put(tmp_path, "1.png", "annotations.json")
        with pytest.raises(DatasetUnavailable, match=r"annotations\.json"):
            read_classification(tmp_path, "dice")


@pytest.mark.parametrize("dataset_format", ["yolo", "coco", "pascal_voc"])
def test_formats_of_objects_are_refused_by_name(tmp_path: Path, dataset_format: str) -> None:
    put(tmp_path, "images/1.png")
    with pytest.raises(InvalidConfig, match=r"^dataset_format"):
        read_classification(tmp_path, dataset_format)


class TestSplit:
    samples = tuple(
        Sample(f"{label}/{i:02}.png", label, None) for label, n in ((0, 50), (1, 10), (2, 1)) for i in range(n)
    )

    def test_a_fifth_of_each_class_is_for_validation_and_a_single_image_is_for_training(self) -> None:
        train, validation = split_samples(self.samples)
        assert Counter(sample.label for sample in validation) == {0: 10, 1: 2}
        assert Counter(sample.label for sample in train) == {0: 40, 1: 8, 2: 1}
        assert sorted([*train, *validation], key=lambda s: s.path) == list(self.samples)

    def test_the_split_does_not_depend_on_the_order_of_files(self) -> None:
        _, validation = split_samples(self.samples)
        _, again = split_samples(self.samples[::-1])
        assert {sample.path for sample in validation} == {sample.path for sample in again}
        # Not simply the first ones.
        assert {s.path for s in validation if s.label == 0} != {f"0/{i:02}.png" for i in range(10)}

    def test_what_the_dataset_says_holds(self) -> None:
        said = [Sample("a", 0, "train"), Sample("b", 0, "val"), Sample("c", 0, "test"), Sample("d", 0, None)]
        train, validation = split_samples(said)
        assert [sample.path for sample in train] == ["a", "d"]
        assert [sample.path for sample in validation] == ["b"]

    def test_nothing_to_train_on_is_an_error(self) -> None:
        with pytest.raises(DatasetUnavailable):
            split_samples([Sample("a", 0, "val"), Sample("b", 0, "test")])


def test_classes_of_the_job_have_to_be_those_of_the_dataset() -> None:
    check_classes(["a", "b"], None, None)
    check_classes(["a", "b"], ["a", "b"], 2)
    with pytest.raises(InvalidConfig, match="class_names"):
        check_classes(["a", "b"], ["b", "a"], None)
    with pytest.raises(InvalidConfig, match="num_classes"):
        check_classes(["a", "b"], None, 3)
