"""A small set of pictures and jobs on them; the tiny models that timm has for its own tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cultivar_runner.trainer.messages import TrainerJob
from tests.support.recorder import CLASSES, JobMaker

SIZE = 32


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics replaces Pillow's opener for its whole process; a trainer of timm never shares one with it."""
    patches = sys.modules.get("ultralytics.utils.patches")
    if patches is not None:
        monkeypatch.setattr(Image, "open", patches._image_open)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures of three classes that can be told apart."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 90, (40, 36, 3)) + (90 if label else 0)
            if label == 2:
                pixels[::4] = 0
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def make_job(pictures: Path, tmp_path: Path) -> JobMaker:
    """A job on the pictures; keyword arguments replace parts of its spec, `advanced` its settings."""

    def make(
        advanced: dict[str, Any] | None = None,
        *,
        data_dir: Path = pictures,
        resume: dict[str, Any] | None = None,
        work: str = "work",
        **spec: Any,
    ) -> TrainerJob:
        content = {
            "job_id": 1,
            "framework": "timm",
            "model_name": "test_efficientnet",
            "task_type": "image_classification",
            "dataset_id": "pictures",
            "dataset_format": "imagefolder",
            "num_classes": 3,
            "class_names": list(CLASSES),
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 0.003,
            "advanced_config": {"pretrained": False, **(advanced or {})},
            "primary_metric": "accuracy",
            "primary_metric_mode": "max",
            "image_size": SIZE,
            **spec,
        }
        return TrainerJob.model_validate_json(
            json.dumps({"spec": content, "data_dir": str(data_dir), "work_dir": str(tmp_path / work), "resume": resume})
        )

    return make
