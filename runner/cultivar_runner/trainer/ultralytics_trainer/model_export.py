"""A trained model as ONNX, with the manifest that the server needs to feed it and to read its answer."""

from __future__ import annotations

import copy
import random
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ..export.onnx_model import OPSET, own_initializers


def export_graph(model: Any, *, task: str, image_size: int) -> onnx.ModelProto:
    """`model` (an Ultralytics model, left as it is) as a graph.

    Batch 1, fixed height and width, suppression of overlapping boxes outside the graph. The random numbers of the
    caller are not touched.
    """
    from ultralytics.nn.modules import C2f, Classify, Detect

    with untouched_randomness(), torch.no_grad():
        fused = copy.deepcopy(model).cpu().float().eval()
        if hasattr(fused, "criterion"):
            fused.criterion = None
        for parameter in fused.parameters():
            parameter.requires_grad = False
        fused.fuse(verbose=False)
        for module in fused.modules():
            if isinstance(module, Classify):
                module.export, module.format = True, "onnx"
            elif isinstance(module, Detect):
                module.export, module.format, module.dynamic, module.xyxy = True, "onnx", False, False
                module.shape = None
            elif isinstance(module, C2f):
                # The same sums, cut in a way that gives a simpler graph.
                module.forward = module.forward_split
        image = torch.zeros(1, 3, image_size, image_size)
        fused(image)  # Builds the anchors of this size.
        names = ["output0", "output1"] if task == "segment" else ["output0"]
        with tempfile.TemporaryDirectory(prefix="cultivar-export-") as folder, warnings.catch_warnings():
            # Notes of the tracer about constants: sizes are meant to be fixed.
            warnings.simplefilter("ignore")
            path = str(Path(folder) / "model.onnx")
            # Tracing: the other exporter writes this head with operators that the server's runtime lacks.
            torch.onnx.export(
                fused, (image,), path, opset_version=OPSET, input_names=["images"], output_names=names, dynamo=False
            )
            return own_initializers(onnx.load(path))


def manifest_of(
    model: Any, *, task: str, platform_task: str, model_name: str, image_size: int, labels: Sequence[str]
) -> dict[str, Any]:
    """The manifest (schema 1) for the graph that `export_graph` writes, without `external_data`."""
    output: dict[str, Any] = {"name": "output0", "decode": "none"}
    resize: dict[str, Any] = {
        # What the library's validation does to an image of a class.
        "resize": "crop",
        "interpolation": "pil_bilinear",
        "resize_short_side": image_size,
        "pad_value": 0,
    }
    if task != "classify":
        resize = {"resize": "letterbox", "pad_value": 114}
        head = model.model[-1]
        output = {"name": "output0", "decode": "yolo", "nms": "in_graph" if getattr(head, "end2end", False) else "none"}
        if task == "segment":
            output["masks"] = {"name": "output1", "channels": int(head.nm)}
        if task == "pose":
            output["kpt_shape"] = [int(value) for value in head.kpt_shape]
    return {
        "schema": 1,
        "task": platform_task,
        "framework": "ultralytics",
        "model_name": model_name,
        "format": "onnx",
        "input": {
            "name": "images",
            "layout": "NCHW",
            "width": image_size,
            "height": image_size,
            "channels": 3,
            "dtype": "float32",
            "scale": 1 / 255,
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
            **resize,
        },
        "output": output,
        "labels": list(labels),
    }


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Puts the random numbers of this process back to where they were: what is done inside is no part of training."""
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
