"""PyTorch model -> ONNX.

The tracing exporter is used: 2 to 15 s for the models of the catalogue, where the newer one takes ten times as long.
The batch is fixed at 1, as the server runs one image at a time; shapes then fold into constants.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

# The server opens IR versions up to 13; 17 brought LayerNormalization.
OPSET = 17
MAX_IR_VERSION = 13


def export_onnx(
    model: nn.Module, input_shape: tuple[int, int, int], *, input_name: str = "input", output_name: str = "logits"
) -> onnx.ModelProto:
    """Exports `model` in evaluation mode for inputs `[1, *input_shape]` (channels, height, width) of float32.

    The model itself is left as it is. Raises what the exporter raises when neither way works.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    example = torch.zeros(1, *input_shape)
    try:
        proto = _traced(model, example, input_name, output_name)
    except Exception as error:
        print(f"the tracing exporter cannot export this model ({_first_line(error)}), trying the newer one", flush=True)
        proto = _dynamo(model, example, input_name, output_name)
    if proto.ir_version > MAX_IR_VERSION:
        raise ValueError(f"the exporter wrote ONNX IR version {proto.ir_version}, at most {MAX_IR_VERSION} can be run")
    return own_initializers(proto)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print whole graphs and warnings about their own internals; none of it belongs in a job's log."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _traced(model: nn.Module, example: torch.Tensor, input_name: str, output_name: str) -> onnx.ModelProto:
    # In a file: above 2 GB protobuf cannot be in memory at once, and below it a file costs nothing.
    with tempfile.TemporaryDirectory(prefix="cultivar-export-") as folder:
        path = os.path.join(folder, "model.onnx")
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                model,
                (example,),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=[input_name],
                output_names=[output_name],
            )
        return onnx.load(path)


def _dynamo(model: nn.Module, example: torch.Tensor, input_name: str, output_name: str) -> onnx.ModelProto:
    with _quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            model, (example,), dynamo=True, opset_version=18, input_names=[input_name], output_names=[output_name]
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def own_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Gives every use of a weight its weight, in place.

    The exporter stores equal tensors once and hands them on through Identity nodes, behind which a quantiser would not
    find them. Names that only stand for another are replaced; weights that several nodes share stay shared.
    """
    graph = proto.graph
    initializers = {tensor.name for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.output[0] not in outputs:
            source = renamed.get(node.input[0], node.input[0])
            if source in initializers:
                renamed[node.output[0]] = source
                continue
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    return proto


def save_single(proto: onnx.ModelProto, path: Path) -> None:
    """One file with graph and weights."""
    path.write_bytes(proto.SerializeToString())


def save_external(proto: onnx.ModelProto, path: Path, data_path: Path, data_name: str) -> None:
    """Graph in `path`, weights of 1 kB and more in `data_path`.

    The graph refers to the weights by `data_name`, whatever the file is called on disk. `proto` is left as it is.
    """
    external = onnx.ModelProto()
    external.CopyFrom(proto)
    offset = 0
    with data_path.open("wb") as data:
        for tensor in external.graph.initializer:
            if not tensor.HasField("raw_data") or len(tensor.raw_data) < 1024:
                continue
            # Aligned, so that the runtime can use the values where they lie.
            padding = -offset % 64
            data.write(b"\0" * padding)
            offset += padding
            length = len(tensor.raw_data)
            data.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (("location", data_name), ("offset", str(offset)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)
            offset += length
    path.write_bytes(external.SerializeToString())
