"""Every field of the server's table for timm: each changes something, or is refused by its name."""

import importlib
import json
import random
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from cultivar_runner.trainer.channel import InvalidConfig
from cultivar_runner.trainer.common.classification import Sample
from cultivar_runner.trainer.messages import JobSpec
from cultivar_runner.trainer.timm_trainer.config import Advanced, Settings, read_settings
from cultivar_runner.trainer.timm_trainer.data import BatchAugmentation, ImageSet, InputForm
from cultivar_runner.trainer.timm_trainer.model import build_optimizer
from cultivar_runner.trainer.timm_trainer.schedule import RatePlan
from cultivar_runner.trainer.timm_trainer.state import load_state
from cultivar_runner.trainer.timm_trainer.train import train
from tests.support.recorder import JobMaker, Recorder

REPOSITORY = Path(__file__).parents[4]


def table() -> dict[str, dict[str, Any]]:
    """The server's own table, read by Node."""
    node = REPOSITORY / "node_modules/.bin/node"
    script = 'import { TIMM } from "./src/training/config/timm.ts"; console.log(JSON.stringify(TIMM));'
    done = subprocess.run(
        [str(node) if node.exists() else "node", "--input-type=module-typescript", "-e", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    content = json.loads(done.stdout)
    return {"fields": {field["name"]: field for field in content["fields"]}, "presets": content["presets"]}


TABLE = table()
FIELDS = TABLE["fields"]


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in flat.items():
        *section, key = name.split(".")
        (result.setdefault(section[0], {}) if section else result)[key] = value
    return result


def settings_of(flat: dict[str, Any], **spec: Any) -> Settings:
    base = {
        "job_id": 1,
        "framework": "timm",
        "model_name": "test_efficientnet",
        "task_type": "image_classification",
        "dataset_id": "d",
        "dataset_format": "imagefolder",
        "epochs": 12,
        "batch_size": 8,
        "learning_rate": 0.01,
        "primary_metric": "accuracy",
        "primary_metric_mode": "max",
        "advanced_config": nested(flat),
    }
    return read_settings(JobSpec.model_validate({**base, **spec}))


def test_the_models_know_exactly_the_fields_of_the_table() -> None:
    known = set()
    for name, field in Advanced.model_fields.items():
        sections = getattr(field.annotation, "model_fields", None)
        known |= {f"{name}.{key}" for key in sections} if sections else {name}
    assert known == set(FIELDS)


# Where the trainer knows better than a constant: the job's own value, or the direction that the metric has.
FROM_THE_JOB = {
    "optimizer.learning_rate",
    "preprocessing.image_size",
    "validation.save_best_metric",
    "validation.save_best_mode",
}


def test_what_is_left_out_means_what_the_table_says() -> None:
    found = Advanced().model_dump()
    for name, field in FIELDS.items():
        if name in FROM_THE_JOB:
            continue
        *section, key = name.split(".")
        value = (found[section[0]] if section else found)[key]
        assert (list(value) if isinstance(value, tuple) else value) == field["omitted"], name


@pytest.mark.parametrize("name", list(TABLE["presets"]))
def test_the_presets_can_be_trained(name: str) -> None:
    spec = {"advanced_config": TABLE["presets"][name]}
    assert settings_of({}, **spec).image_size == 224


# --- what a setting changes, apart from the loop


def rates(settings: Settings) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    plan = RatePlan(optimizer, settings.scheduler, settings.learning_rate, settings.epochs)
    found = []
    for epoch in range(settings.epochs):
        for update in range(2):
            plan.begin_update(epoch, update, 2)
            found.append(round(plan.rate, 9))
        plan.end_epoch(epoch, 0.5 - epoch * 3e-4)
    return found


def groups(settings: Settings) -> list[dict[str, Any]]:
    optimizer = build_optimizer(torch.nn.Conv2d(3, 4, 3), settings.optimizer, settings.learning_rate)
    plain = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return [{"class": type(optimizer).__name__}, *json.loads(json.dumps(plain, default=str))]


PICTURE = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)


def looks(settings: Settings, folder: Path) -> list[bytes]:
    if not (folder / "a.png").exists():
        Image.fromarray(PICTURE).save(folder / "a.png")
        Image.fromarray(PICTURE).transpose(Image.Transpose.ROTATE_180).save(folder / "b.png")
    form = InputForm.of(settings.preprocessing, settings.image_size, 3)
    samples = [Sample("a.png", 0, None), Sample("b.png", 1, None)]
    images = ImageSet(folder, samples, form, augmentation=settings.augmentation, seed=settings.seed)
    batch_augmentation = BatchAugmentation(form, settings.augmentation, 2, torch.device("cpu"))
    found = []
    for epoch in range(6):
        items = [item for position in (0, 1) if (item := images[(epoch, position)]) is not None]
        random.seed(epoch)
        np.random.seed(epoch)
        inputs, targets = batch_augmentation(torch.stack([item[0] for item in items]), torch.tensor([0, 1]))
        found.append(inputs.numpy().tobytes() + targets.numpy().tobytes())
    return [*found, json.dumps(form.manifest()).encode()]


def effects(settings: Settings, folder: Path) -> dict[str, Any]:
    return {"rates": rates(settings), "groups": groups(settings), "looks": looks(settings, folder)}


# Field -> (what has to be on for it, another value than the default).
SGD = {"optimizer.type": "sgd"}
RMSPROP = {"optimizer.type": "rmsprop"}
STEP = {"scheduler.type": "step", "scheduler.step_size": 2}
COSINE = {"scheduler.type": "cosine"}
RESTARTS = {"scheduler.type": "cosine_warm_restarts", "scheduler.T_0": 3}
PLATEAU = {"scheduler.type": "reduce_on_plateau", "scheduler.patience": 2, "scheduler.threshold": 1e-2}
ONE_CYCLE = {"scheduler.type": "one_cycle"}


def on(*names: str) -> dict[str, Any]:
    return {f"augmentation.{name}": True for name in names}


SMALL: dict[str, Any] = {"preprocessing.image_size": 24}
PURE: list[tuple[str, dict[str, Any], Any]] = [
    *(("optimizer.type", {}, kind) for kind in ("adamw", "sgd", "rmsprop", "adagrad")),
    ("optimizer.learning_rate", {}, 0.02),
    ("optimizer.weight_decay", {}, 0.1),
    ("optimizer.betas", {}, [0.8, 0.99]),
    ("optimizer.eps", {}, 1e-4),
    ("optimizer.eps", RMSPROP, 1e-4),
    ("optimizer.eps", {"optimizer.type": "adagrad"}, 1e-4),
    ("optimizer.amsgrad", {}, True),
    ("optimizer.momentum", SGD, 0.5),
    ("optimizer.momentum", RMSPROP, 0.5),
    ("optimizer.nesterov", SGD, True),
    ("optimizer.alpha", RMSPROP, 0.5),
    *(
        ("scheduler.type", {"scheduler.step_size": 2, "scheduler.milestones": [3], "scheduler.T_0": 3}, kind)
        for kind in ("step", "multistep", "exponential", "cosine", "cosine_warm_restarts", "one_cycle")
    ),
    ("scheduler.type", {"scheduler.patience": 1, "scheduler.threshold": 1e-2}, "reduce_on_plateau"),
    ("scheduler.step_size", {"scheduler.type": "step"}, 3),
    ("scheduler.milestones", {"scheduler.type": "multistep"}, [2, 5]),
    ("scheduler.gamma", STEP, 0.5),
    ("scheduler.T_max", COSINE, 6),
    ("scheduler.eta_min", COSINE, 0.005),
    ("scheduler.eta_min", RESTARTS, 0.005),
    ("scheduler.T_0", {"scheduler.type": "cosine_warm_restarts"}, 4),
    ("scheduler.T_mult", RESTARTS, 1),
    ("scheduler.mode", {**PLATEAU, "scheduler.threshold": 1e-6}, "max"),
    ("scheduler.factor", PLATEAU, 0.5),
    ("scheduler.patience", {"scheduler.type": "reduce_on_plateau", "scheduler.threshold": 1e-2}, 1),
    ("scheduler.threshold", {"scheduler.type": "reduce_on_plateau", "scheduler.patience": 2}, 0.1),
    ("scheduler.cooldown", {**PLATEAU, "scheduler.patience": 0}, 3),
    ("scheduler.min_lr", PLATEAU, 0.005),
    ("scheduler.max_lr", ONE_CYCLE, 0.5),
    ("scheduler.pct_start", ONE_CYCLE, 0.6),
    ("scheduler.anneal_strategy", ONE_CYCLE, "linear"),
    ("scheduler.warmup_epochs", {}, 3),
    ("scheduler.warmup_lr", {"scheduler.warmup_epochs": 3}, 0.005),
    ("augmentation.enabled", {}, False),
    ("augmentation.random_flip", {}, False),
    ("augmentation.random_flip_prob", {}, 1.0),
    ("augmentation.random_rotation", {}, True),
    ("augmentation.rotation_degrees", on("random_rotation"), 90),
    ("augmentation.random_crop", {}, True),
    ("augmentation.crop_scale", on("random_crop"), [0.1, 0.2]),
    ("augmentation.crop_ratio", on("random_crop"), [0.5, 0.6]),
    ("augmentation.color_jitter", {}, True),
    *((f"augmentation.{part}", on("color_jitter"), 0.5) for part in ("brightness", "contrast", "saturation", "hue")),
    ("augmentation.random_erasing", {}, True),
    ("augmentation.erasing_prob", on("random_erasing"), 1.0),
    ("augmentation.random_grayscale", {"augmentation.grayscale_prob": 0.5}, True),
    ("augmentation.grayscale_prob", on("random_grayscale"), 1.0),
    ("augmentation.gaussian_blur", {}, True),
    ("augmentation.blur_kernel_size", on("gaussian_blur"), 9),
    ("augmentation.blur_sigma", on("gaussian_blur"), [3.0, 4.0]),
    ("augmentation.mixup", {}, True),
    ("augmentation.mixup_alpha", on("mixup"), 5.0),
    ("augmentation.cutmix", {}, True),
    ("augmentation.cutmix_alpha", on("cutmix"), 0.3),
    ("augmentation.autoaugment", {}, True),
    *(("augmentation.autoaugment_policy", on("autoaugment"), policy) for policy in ("cifar10", "svhn")),
    ("preprocessing.image_size", {}, 32),
    *(("preprocessing.resize_mode", {}, mode) for mode in ("resize_crop", "pad")),
    ("preprocessing.normalize", {}, False),
    ("preprocessing.mean", {}, [0.5, 0.5, 0.5]),
    ("preprocessing.std", {}, [0.5, 0.5, 0.5]),
    ("preprocessing.pad_value", {"preprocessing.resize_mode": "pad"}, 99),
    ("seed", {}, 7),
]


@pytest.mark.parametrize(("name", "given", "value"), PURE, ids=[f"{name}={value}" for name, _, value in PURE])
def test_a_setting_changes_what_is_computed(name: str, given: dict[str, Any], value: Any, tmp_path: Path) -> None:
    before = effects(settings_of({**SMALL, **given}), tmp_path)
    after = effects(settings_of({**SMALL, **given, name: value}), tmp_path)
    section = name.split(".", 1)[0]
    part = {"scheduler": "rates", "optimizer": "groups"}.get(section, "looks")
    assert before[part] != after[part]


# --- what a setting changes in the loop


@pytest.fixture
def _one_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is looked at, not the model's file: one empty graph for all."""
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    # Not by its dotted name, which is the function of that name.
    loop = importlib.import_module("cultivar_runner.trainer.timm_trainer.train")
    monkeypatch.setattr(loop, "export_onnx", lambda *_: empty)


def run(make_job: JobMaker, flat: dict[str, Any], **spec: Any) -> tuple[Recorder, dict[str, Any]]:
    channel = Recorder()
    job = make_job({"checkpoint_interval": 1, **nested(flat)}, work=f"work-{uuid4()}", **spec)
    train(job, channel)
    names = [[file.name for file in checkpoint.files] for checkpoint in channel.checkpoints]
    weights = load_state(channel.state).model
    facts = {
        "order": channel.summary(),
        "files": names,
        "metrics": [sorted(epoch.extra_metrics) for epoch in channel.epochs],
        "weights": {name: value.numpy().tobytes() for name, value in weights.items()},
        "on disk": sorted(path.name for path in job.checkpoint_dir.iterdir()),
        "best": load_state(channel.state).progress.best,
    }
    return channel, facts


FROZEN = {"optimizer.type": "sgd", "optimizer.learning_rate": 1e-30, "optimizer.momentum": 0.0}
STOPPING = {**FROZEN, "validation.early_stopping": True, "validation.early_stopping_patience": 1}
SLOPE = {
    "validation.early_stopping": True,
    "validation.early_stopping_patience": 2,
    "validation.save_best_metric": "val_loss",
}
LOOP: list[tuple[str, dict[str, Any], Any, str]] = [
    ("seed", {}, 7, "weights"),
    ("mixed_precision", {}, True, "weights"),
    ("gradient_clip_value", {"optimizer.type": "sgd"}, 0.001, "weights"),
    ("gradient_accumulation_steps", {}, 2, "weights"),
    ("checkpoint_interval", {}, 2, "order"),
    ("keep_n_checkpoints", {}, 5, "on disk"),
    ("validation.enabled", {}, False, "metrics"),
    ("validation.metrics", {}, ["roc_auc"], "metrics"),
    ("validation.val_interval", {}, 2, "metrics"),
    ("validation.val_start_epoch", {}, 4, "metrics"),
    ("validation.save_best", {}, False, "order"),
    ("validation.save_best_metric", {}, "val_loss", "best"),
    ("validation.save_best_mode", {"validation.save_best_metric": "loss"}, "max", "best"),
    ("validation.save_predictions", {}, True, "files"),
    ("validation.save_visualizations", {}, True, "files"),
    ("validation.early_stopping", {**FROZEN, "validation.early_stopping_patience": 1}, True, "order"),
    ("validation.early_stopping_patience", STOPPING, 2, "order"),
    ("validation.early_stopping_min_delta", SLOPE, 2.0, "order"),
]


@pytest.mark.usefixtures("_one_export")
@pytest.mark.parametrize(("name", "given", "value", "part"), LOOP, ids=[f"{case[0]}" for case in LOOP])
def test_a_setting_changes_the_loop(
    make_job: JobMaker, name: str, given: dict[str, Any], value: Any, part: str
) -> None:
    epochs = 5 if name == "keep_n_checkpoints" else 4
    _, before = run(make_job, given, epochs=epochs)
    _, after = run(make_job, {**given, name: value}, epochs=epochs)
    assert before[part] != after[part]


@pytest.mark.usefixtures("_one_export")
def test_log_lines_come_at_their_interval(make_job: JobMaker, capsys: pytest.CaptureFixture[str]) -> None:
    for interval, lines in ((1, 2), (2, 1), (10, 0)):
        run(make_job, {"log_interval": interval}, epochs=1)
        assert capsys.readouterr().out.count(" batch ") == lines


@pytest.mark.usefixtures("_one_export")
def test_as_many_pictures_as_asked_for(make_job: JobMaker) -> None:
    for count, width in ((2, 2), (4, 4), (0, None)):
        flat = {"validation.save_visualizations": True, "validation.num_visualizations": count}
        channel, _ = run(make_job, flat, epochs=1)
        found = [f.path for c in channel.checkpoints for f in c.files if f.name.endswith(".png")]
        assert (not found) if width is None else (Image.open(found[0]).width == width * 160)


def test_fields_that_are_shown_elsewhere_or_here_are_all_fields() -> None:
    shown = {case[0] for case in PURE} | {case[0] for case in LOOP}
    # Their tests: test_train.py (published weights, grey pictures), and the two above.
    elsewhere = {"pretrained", "preprocessing.to_rgb", "log_interval", "validation.num_visualizations"}
    assert shown | elsewhere == set(FIELDS)


# --- refused


@pytest.mark.parametrize(
    ("flat", "spec", "field"),
    [
        ({"optimizer.lr": 1}, {}, "advanced_config.optimizer.lr"),
        ({"ema": True}, {}, "advanced_config.ema"),
        ({"optimizer.type": "lion"}, {}, "advanced_config.optimizer.type"),
        ({"optimizer.learning_rate": "fast"}, {}, "advanced_config.optimizer.learning_rate"),
        ({"validation.metrics": ["accuracy", "map50"]}, {}, "advanced_config.validation.metrics"),
        ({"validation.save_best_metric": "mAP50"}, {}, "advanced_config.validation.save_best_metric"),
        ({"scheduler.type": "one_cycle", "scheduler.max_lr": 1e-6}, {}, "advanced_config.scheduler.max_lr"),
        (
            {"optimizer.type": "sgd", "optimizer.nesterov": True, "optimizer.momentum": 0.0},
            {},
            "advanced_config.optimizer.nesterov",
        ),
        (
            {"augmentation.gaussian_blur": True, "augmentation.blur_kernel_size": 65, "preprocessing.image_size": 32},
            {},
            "advanced_config.augmentation.blur_kernel_size",
        ),
        (
            {"validation.enabled": False, "validation.early_stopping": True},
            {},
            "advanced_config.validation.early_stopping",
        ),
        ({}, {"task_type": "object_detection"}, "task_type"),
        ({}, {"primary_metric": "mean_iou"}, "primary_metric"),
        ({}, {"batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(flat: dict[str, Any], spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        settings_of(flat, **spec)
    assert refused.value.field == field


def test_the_explicit_rate_wins_and_the_job_s_metric_decides_unless_another_is_named() -> None:
    assert settings_of({}).learning_rate == 0.01
    assert settings_of({"optimizer.learning_rate": 0.5}).learning_rate == 0.5
    assert settings_of({}).watched == settings_of({}).primary
    loss = settings_of({"validation.save_best_metric": "val_loss"})
    assert (loss.watched.metric, loss.watched.mode, loss.primary.metric) == ("loss", "min", "accuracy")
