import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from cultivar_runner.trainer.channel import CheckpointCorrupt, DatasetUnavailable, InvalidConfig, TrainerError
from cultivar_runner.trainer.timm_trainer.state import load_state
from cultivar_runner.trainer.timm_trainer.train import train
from tests.support.recorder import CLASSES, JobMaker, Recorder

# Everything random at once: its order, its looks, its mixing, its dropping of paths.
LIVELY: dict[str, Any] = {
    "optimizer": {"type": "adamw", "weight_decay": 0.05},
    "scheduler": {"type": "reduce_on_plateau", "patience": 0, "factor": 0.5},
    "augmentation": {
        "random_crop": True,
        "random_erasing": True,
        "mixup": True,
        "cutmix": True,
        "color_jitter": True,
        "autoaugment": True,
    },
    "checkpoint_interval": 1,
}


def same(left: Path, right: Path) -> bool:
    one, other = load_state(left), load_state(right)
    assert one.progress.epoch == other.progress.epoch and one.progress.batch == other.progress.batch
    weights = all(torch.equal(value, other.model[name]) for name, value in one.model.items())
    moments = json.dumps(one.optimizer, default=lambda t: t.tolist()) == json.dumps(
        other.optimizer, default=lambda t: t.tolist()
    )
    return weights and moments and one.schedule == other.schedule


class TestAWholeJob:
    @pytest.fixture
    def done(self, make_job: JobMaker) -> Recorder:
        channel = Recorder()
        settings = {"validation": {"metrics": ["accuracy", "roc_auc"], "save_predictions": True}}
        assert train(make_job(settings, epochs=3), channel) == "done"
        return channel

    def test_it_reports_epochs_validations_and_checkpoints(self, done: Recorder, pictures: Path) -> None:
        assert done.sent[0].model_dump() == {"type": "started", "total_epochs": 3}
        assert [epoch.epoch for epoch in done.epochs] == [1, 2, 3]
        assert done.summary()[-1] == "last 3"
        assert "best 1" in done.summary()
        last = done.epochs[-1]
        assert last.loss is not None and last.loss < 1.2 and last.learning_rate == pytest.approx(0.003)
        assert {"train_accuracy", "val_loss", "val_accuracy", "precision", "recall", "f1", "roc_auc"} <= set(
            last.extra_metrics
        )
        result = done.validations[-1]
        assert result["class_names"] == list(CLASSES)
        assert np.sum(result["confusion_matrix"]) == len(result["images"]) == 6
        hits = sum(image["is_correct"] for image in result["images"])
        assert result["metrics"]["accuracy"] == last.accuracy == pytest.approx(hits / 6)
        assert result["primary_metric_value"] == result["metrics"]["accuracy"]
        assert {name: row["support"] for name, row in result["per_class_metrics"].items()} == dict.fromkeys(CLASSES, 2)
        for image in result["images"]:
            assert (pictures / image["image_path"]).exists()
            assert len(image["top5_predictions"]) == 3

        best = next(c for c in done.checkpoints if c.role == "best")
        model = next(f for f in best.files if f.kind == "model")
        assert model.manifest is not None and model.manifest["labels"] == list(CLASSES)
        predictions = next(f for f in best.files if f.name == "predictions-0001.jsonl")
        assert len(predictions.path.read_text().splitlines()) == 6

        # The last model gives the probabilities of the last validation, from the file and by the manifest.
        self.check_model(done, pictures)

    @staticmethod
    def check_model(done: Recorder, pictures: Path) -> None:
        model = next(f for f in done.checkpoints[-1].files if f.kind == "model")
        assert model.manifest is not None
        form = model.manifest["input"]
        session = onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
        for row in done.validations[-1]["images"]:
            size = (form["width"], form["height"])
            with Image.open(pictures / row["image_path"]) as image:
                pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR)).astype(np.float32)
            values = ((pixels * form["scale"] - form["mean"]) / form["std"]).transpose(2, 0, 1)[None].astype(np.float32)
            (logits,) = session.run([model.manifest["output"]["name"]], {form["name"]: values})[0]
            shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            assert int(shares.argmax()) == row["predicted_label_id"]
            assert float(shares.max()) == pytest.approx(row["confidence"], abs=1e-4)


def test_four_epochs_straight_are_two_killed_and_two(make_job: JobMaker) -> None:
    straight = Recorder()
    train(make_job(LIVELY, epochs=4, work="straight"), straight)

    class Killed(Exception):
        pass

    def kill(_: Recorder) -> None:
        raise Killed

    first = Recorder()
    # An epoch polls after each of three batches, in the validation and at its end: this is in the third one.
    first.at["poll 12"] = kill
    with pytest.raises(Killed):
        train(make_job(LIVELY, epochs=4, work="first"), first)
    assert load_state(first.state).progress.epoch == 2
    second = Recorder()
    resume = {"path": str(first.state), "epoch": 2}
    assert train(make_job(LIVELY, epochs=4, work="second", resume=resume), second) == "done"
    assert [epoch.epoch for epoch in second.epochs] == [3, 4]
    assert [epoch.loss for epoch in second.epochs] == [epoch.loss for epoch in straight.epochs[2:]]
    assert same(straight.state, second.state)


def test_a_stop_between_two_batches_loses_nothing(make_job: JobMaker) -> None:
    settings = {**LIVELY, "gradient_accumulation_steps": 2}
    straight = Recorder()
    train(make_job(settings, work="straight", batch_size=4), straight)
    stopped = Recorder()
    stopped.at["poll 2"] = Recorder.request_stop
    assert train(make_job(settings, work="stopped", batch_size=4), stopped) == "user_stop"
    progress = load_state(stopped.state).progress
    # Not in the middle of an update: gradients that are added up are not saved.
    assert (progress.epoch, progress.batch) == (0, 4)
    assert stopped.checkpoints[-1].epoch == 0
    resumed = Recorder()
    train(make_job(settings, work="on", batch_size=4, resume={"path": str(stopped.state), "epoch": 0}), resumed)
    assert [epoch.loss for epoch in resumed.epochs] == pytest.approx([epoch.loss for epoch in straight.epochs])
    assert same(straight.state, resumed.state)


def test_a_checkpoint_on_request_changes_nothing(make_job: JobMaker) -> None:
    plain, asked = Recorder(), Recorder()
    train(make_job(LIVELY, work="plain"), plain)
    asked.at["poll 1"] = Recorder.request_checkpoint
    train(make_job(LIVELY, work="asked"), asked)
    assert asked.summary()[0] == "last 0"
    assert load_state(asked.checkpoints[0].files[0].path).progress.batch == 1
    assert same(plain.state, asked.state)


def test_weights_alone_begin_at_the_first_epoch(make_job: JobMaker) -> None:
    first, second = Recorder(), Recorder()
    train(make_job(work="first"), first)
    resume = {"path": str(first.state), "epoch": 2, "weights_only": True}
    # Of another image size and another learning plan.
    train(make_job({"preprocessing": {"image_size": 48}}, work="second", epochs=1, resume=resume), second)
    assert [epoch.epoch for epoch in second.epochs] == [1]
    assert load_state(second.state).input["size"] == 48


def test_a_finished_state_has_nothing_left_to_do(make_job: JobMaker) -> None:
    first, second = Recorder(), Recorder()
    train(make_job(work="first", epochs=1), first)
    assert train(make_job(work="second", epochs=1, resume={"path": str(first.state), "epoch": 1}), second) == "done"
    assert second.epochs == []


def test_a_damaged_or_foreign_state_is_refused(make_job: JobMaker, tmp_path: Path) -> None:
    first = Recorder()
    train(make_job(work="first", epochs=1), first)
    resume = {"path": str(first.state), "epoch": 1}
    with pytest.raises(CheckpointCorrupt):
        train(make_job(model_name="test_resnet", resume=resume), Recorder())
    whole = first.state.read_bytes()
    for content in (whole[:1000], b"", b"not a state", whole[: len(whole) // 2]):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(CheckpointCorrupt):
            train(make_job(resume={"path": str(tmp_path / "broken"), "epoch": 1}), Recorder())
    torch.save({"framework": "timm", "format": 1}, tmp_path / "bare")
    with pytest.raises(CheckpointCorrupt):
        train(make_job(resume={"path": str(tmp_path / "bare"), "epoch": 1}), Recorder())


def test_a_state_runs_no_code_of_whoever_made_it(make_job: JobMaker, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path}/was-run",))

    torch.save({"framework": "timm", "format": 1, "model": Evil()}, tmp_path / "evil")
    with pytest.raises(CheckpointCorrupt):
        train(make_job(resume={"path": str(tmp_path / "evil"), "epoch": 1}), Recorder())
    assert not (tmp_path / "was-run").exists()


def test_images_that_cannot_be_read_are_left_out(make_job: JobMaker, tmp_path: Path, pictures: Path) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    for name in CLASSES:
        for i in range(5):
            (data / name / f"{i}.png").write_bytes(b"broken")
    channel = Recorder()
    assert train(make_job(data_dir=data, epochs=1), channel) == "done"
    assert channel.epochs[0].loss is not None
    assert 0 < len(channel.validations[0]["images"]) < 6
    for path in data.glob("*/*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(DatasetUnavailable):
        train(make_job(data_dir=data, epochs=1), Recorder())


def test_early_stopping_ends_with_a_last_checkpoint(make_job: JobMaker) -> None:
    settings = {
        # So small that no rounding ever changes a weight: nothing improves after the first epoch.
        "optimizer": {"type": "sgd", "learning_rate": 1e-30, "momentum": 0.0},
        "validation": {"early_stopping": True, "early_stopping_patience": 2, "early_stopping_min_delta": 0.001},
    }
    channel = Recorder()
    assert train(make_job(settings, epochs=9), channel) == "done"
    assert [epoch.epoch for epoch in channel.epochs] == [1, 2, 3]
    assert channel.summary()[-1] == "last 3"


def test_a_loss_that_is_no_number_ends_the_job_by_name(make_job: JobMaker) -> None:
    settings = {"optimizer": {"type": "sgd", "learning_rate": 1.0, "momentum": 0.99}, "log_interval": 1}
    settings["augmentation"] = {"enabled": False}
    with pytest.raises(TrainerError, match="try a lower one"):
        train(make_job(settings, epochs=60, model_name="test_vit", batch_size=1), Recorder())


def test_without_reach_to_published_weights_the_setting_is_named(
    make_job: JobMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InvalidConfig, match=r"advanced_config\.pretrained: .* pretrained to false"):
        train(make_job({"pretrained": True}, model_name="resnet18"), Recorder())


@pytest.mark.parametrize("name", ["resnet_of_nobody", "hf-hub:someone/something", "../resnet18", ""])
def test_a_model_that_timm_has_not_is_refused_by_name(make_job: JobMaker, name: str) -> None:
    with pytest.raises(InvalidConfig, match=r"^model_name"):
        train(make_job(model_name=name), Recorder())


def test_an_image_size_that_does_not_fit_is_refused_by_name(make_job: JobMaker) -> None:
    with pytest.raises(InvalidConfig, match=r"image_size"):
        train(make_job({"preprocessing": {"image_size": 4}}, model_name="test_vit"), Recorder())


def test_grey_pictures_make_a_model_of_one_channel(make_job: JobMaker, tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / "grey" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (20, 20), 60 * i).save(tmp_path / "grey" / name / f"{i}.png")
    channel = Recorder()
    train(make_job({"preprocessing": {"to_rgb": False}}, data_dir=tmp_path / "grey", epochs=1), channel)
    model = next(f for f in channel.checkpoints[-1].files if f.kind == "model")
    assert model.manifest is not None
    assert model.manifest["input"]["channels"] == 1 == len(model.manifest["input"]["mean"])
    session = onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 1, 32, 32]


def test_weights_too_large_for_the_server_go_as_int8_with_both_accuracies(
    make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cultivar_runner.trainer.export.publish.MAX_SINGLE_BYTES", 100_000)
    monkeypatch.setattr("cultivar_runner.trainer.export.publish.MAX_EXTERNAL_BYTES", 200_000)
    channel = Recorder()
    train(make_job(epochs=1), channel)
    best = next(c for c in channel.checkpoints if c.role == "best")
    assert [(f.kind, f.name) for f in best.files] == [
        ("file", "best.fp32.onnx"),
        ("file", "best.bin"),
        ("model", "best.onnx"),
    ]
    manifest = best.files[-1].manifest
    assert manifest is not None and manifest["weights"] == "int8"
    assert manifest["measured"] == {
        "accuracy": channel.epochs[0].extra_metrics["int8_accuracy"],
        "float32_accuracy": channel.epochs[0].accuracy,
    }


@pytest.mark.timeout(900)
def test_two_processes_train_as_one(make_job: JobMaker, tmp_path: Path) -> None:
    """gloo on the CPU; both from a process of their own, for the group outlives a test."""
    settings = {
        "optimizer": {"type": "sgd", "momentum": 0.9},
        "augmentation": {"random_crop": True},
        "checkpoint_interval": 1,
    }
    states = []
    for world in (1, 2):
        # Norms over groups of channels: statistics of a batch would be those of each process's share.
        job = make_job(settings, model_name="test_efficientnet_gn", work=f"of-{world}", epochs=1)
        path = tmp_path / f"job-{world}.json"
        path.write_text(job.model_dump_json())
        done = subprocess.run(
            [sys.executable, "-m", "cultivar_runner.trainer", str(path)],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "CULTIVAR_PROCESSES": str(world), "OMP_NUM_THREADS": "1", "CULTIVAR_CHANNEL": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{world} x cpu" in done.stdout
        assert done.stdout.count("epoch 1/1") == 1
        states.append(load_state(job.work_dir / "checkpoints" / "last-0001.state"))
    one, two = states
    assert one.progress.best is not None and two.progress.best is not None
    assert two.progress.best.value == one.progress.best.value
    for name, value in one.model.items():
        # The same images with the same looks; only the order of sums differs.
        assert torch.allclose(value.float(), two.model[name].float(), atol=1e-4), name
