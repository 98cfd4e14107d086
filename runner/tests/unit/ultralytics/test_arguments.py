"""From a job's spec to the library's arguments: every setting of the server arrives, and nothing else passes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cultivar_runner.trainer.channel import InvalidConfig
from cultivar_runner.trainer.messages import JobSpec
from cultivar_runner.trainer.ultralytics_trainer.arguments import ARGUMENTS, OWN, plan

REPOSITORY = Path(__file__).parents[4]
TABLE = REPOSITORY / "src" / "training" / "config" / "ultralytics.ts"


def spec(config: dict[str, Any] | None = None, **more: Any) -> JobSpec:
    given = {
        "job_id": 1,
        "framework": "ultralytics",
        "model_name": "yolo11n",
        "task_type": "object_detection",
        "dataset_id": "d",
        "dataset_format": "dice",
        "epochs": 7,
        "batch_size": 5,
        "learning_rate": 0.003,
        "advanced_config": config,
        "primary_metric": "mAP50",
        "primary_metric_mode": "max",
    }
    return JobSpec.model_validate({**given, **more})


def nested(name: str, value: Any) -> dict[str, Any]:
    section, _, key = name.rpartition(".")
    return {section: {key: value}} if section else {key: value}


@pytest.fixture(scope="module")
def fields() -> list[dict[str, Any]]:
    """The server's own table, read by Node, which runs its TypeScript as it is."""
    node = shutil.which(
        "node", path=f"{REPOSITORY / 'node_modules' / '.bin'}:{REPOSITORY / 'node_modules' / 'node' / 'bin'}"
    )
    node = node or shutil.which("node")
    if node is None or not TABLE.exists():
        pytest.skip("needs the server's sources and Node")
    code = f"import({str(TABLE)!r}).then(m => console.log(JSON.stringify(m.ULTRALYTICS.fields)))"
    answer = subprocess.run([node, "-e", code], capture_output=True, check=True, text=True)
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


def test_every_setting_of_the_server_is_known_with_its_default(fields: list[dict[str, Any]]) -> None:
    ours: dict[str, Any] = {name: default for name, (_, default) in ARGUMENTS.items()} | OWN
    # The rate of the job itself stands for the omitted one; the server always sends the size of the model's images.
    ours |= {"optimizer.learning_rate": 0.01, "preprocessing.image_size": 640}
    assert ours == {field["name"]: field["omitted"] for field in fields}


def test_every_setting_of_the_server_changes_the_plan(fields: list[dict[str, Any]]) -> None:
    before = plan(spec())
    for field in fields:
        if field["type"] == "boolean":
            value: Any = not field["omitted"]
        elif field["type"] == "select":
            value = next(option["value"] for option in field["options"] if option["value"] != field["omitted"])
        else:
            other = field.get("max", 7)
            value = other if other != field["omitted"] else field["min"]
        after = plan(spec(nested(field["name"], value)))
        assert after != before, field["name"]
        if field["name"] in ARGUMENTS and field["type"] != "select":
            assert after.arguments[ARGUMENTS[field["name"]][0]] == value


def test_the_library_takes_every_argument_of_a_plan() -> None:
    from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg

    arguments = plan(spec({"optimizer": {"type": "rmsprop"}})).arguments
    assert arguments.keys() <= DEFAULT_CFG_DICT.keys()
    checked = get_cfg(overrides=dict(arguments))  # Raises for a wrong type or range.
    assert (checked.epochs, checked.batch, checked.optimizer) == (7, 5, "RMSprop")


def test_an_explicit_rate_wins_over_the_jobs_own_and_a_default_does_not() -> None:
    assert plan(spec()).arguments["lr0"] == 0.003
    assert plan(spec({"optimizer": {"learning_rate": 0.2}})).arguments["lr0"] == 0.2


@pytest.mark.parametrize("name", ["sgd", "SGD", "AdamW", "adam", "rmsprop"])
def test_an_optimizer_is_spelled_as_the_library_does(name: str) -> None:
    from torch import optim

    assert hasattr(optim, plan(spec({"optimizer": {"type": name}})).arguments["optimizer"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task_type": "semantic_segmentation"}, "task_type"),
        ({"model_name": "yolo11n-seg"}, "model_name"),
        ({"task_type": "pose_estimation"}, "model_name"),
        ({"config": {"mosaic": 1}}, "advanced_config.mosaic"),
        ({"config": {"augmentation": {"cutmix": 0.5}}}, "advanced_config.augmentation.cutmix"),
        ({"config": {"optimizer": {"type": "lion"}}}, "advanced_config.optimizer.type"),
        ({"config": {"preprocessing": {"image_size": 100}}}, "advanced_config.preprocessing.image_size"),
        (
            {
                "task_type": "image_classification",
                "model_name": "yolo11n-cls",
                "config": {"augmentation": {"scale": 1.5}},
            },
            "advanced_config.augmentation.scale",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as error:
        plan(spec(**change))
    assert error.value.field == field


def test_the_library_may_not_stop_a_job_before_its_last_epoch() -> None:
    from ultralytics.utils.torch_utils import EarlyStopping

    stopper = EarlyStopping(patience=plan(spec()).arguments["patience"])
    assert not any(stopper(epoch, 0.5) for epoch in range(1, 500))


def test_every_ultralytics_model_of_the_catalogue_can_be_planned_and_built_from_its_description() -> None:
    catalogue = REPOSITORY / "src" / "training" / "models" / "catalogue.json"
    if not catalogue.exists():
        pytest.skip("needs the server's sources")
    from ultralytics.nn.tasks import yaml_model_load

    from cultivar_runner.trainer.ultralytics_trainer import description_of

    entries = [entry for entry in json.loads(catalogue.read_text()) if entry["framework"] == "ultralytics"]
    assert len(entries) > 20
    for entry in entries:
        plan(spec(model_name=entry["model_name"], task_type=entry["task_types"][0]))
        description = yaml_model_load(description_of(entry["model_name"]))
        # A size that the name does not tell would silently be the smallest.
        assert description["scale"] == entry["model_name"].removesuffix("u").split("-")[0][-1]
