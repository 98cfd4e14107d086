import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

CATALOGUE = Path(__file__).parents[4] / "src/training/models/catalogue.json"
ENTRIES: list[dict[str, Any]] = [
    entry for entry in json.loads(CATALOGUE.read_text()) if entry["framework"] == "timm" and entry["trainable"]
]


def test_the_catalogue_has_timm_models() -> None:
    assert len(ENTRIES) >= 20


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["model_name"])
def test_timm_has_each_model_of_the_catalogue(entry: dict[str, Any]) -> None:
    name = entry["model_name"]
    assert timm.is_model(name)
    published = timm.get_pretrained_cfg(name)
    assert published is not None
    if entry["pretrained"]:
        assert published.has_weights
    size = {"img_size": entry["default_image_size"]} if published.fixed_input_size else {}
    # No memory, no numbers: shapes only.
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10, **size)
        logits = model.eval()(torch.zeros(2, 3, entry["default_image_size"], entry["default_image_size"]))
    assert logits.shape == (2, 10)
    assert entry["task_types"] == ["image_classification"]
