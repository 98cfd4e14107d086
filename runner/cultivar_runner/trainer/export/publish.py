"""Which files a model becomes, by its size, and writing them.

The server's inference takes 20 MB in one file, or 28.5 MB with the weights in a second one
(src/training/inference/limits.ts). Above that the weights go as int8; what is still larger is refused there with its
size, and stored all the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import onnx

from ..common.files import write_durably
from ..messages import CheckpointFile
from .onnx_model import save_external, save_single
from .quantize import is_quantized, quantize_weights

MAX_SINGLE_BYTES = 20_000_000
MAX_EXTERNAL_BYTES = 28_500_000
# Room for what a file has beside its weights: names, nodes, padding.
_MARGIN = 0.98

Form = Literal["single", "external", "int8"]


def form_for(weight_bytes: int) -> Form:
    """The most exact form that fits: by the bytes of the float32 weights."""
    if weight_bytes <= MAX_SINGLE_BYTES * _MARGIN:
        return "single"
    return "external" if weight_bytes <= MAX_EXTERNAL_BYTES * _MARGIN else "int8"


def publish(
    proto: onnx.ModelProto,
    stem: Path,
    name: str,
    manifest: dict[str, Any],
    *,
    form: Form | None = None,
    keep_float32: bool = True,
) -> list[CheckpointFile]:
    """Writes a model beside `stem` (a path without ending) and describes its files in the order of their upload.

    `name` is what the artifacts are called: `best` makes best.onnx, and best.bin where weights lie apart. In the int8
    form the float32 model is kept as `best.fp32.onnx`, a plain file. Leaves `proto` and `manifest` as they are.
    """
    form = form or form_for(proto.ByteSize())
    files = []
    if form == "int8":
        quantized = quantize_weights(proto)
        if keep_float32:
            files.append(_file("file", _write_single(proto, _ending(stem, ".fp32.onnx")), f"{name}.fp32.onnx"))
        if is_quantized(quantized):
            manifest = {**manifest, "weights": "int8"}
        proto = quantized
    if form == "single":
        return [_file("model", _write_single(proto, _ending(stem, ".onnx")), f"{name}.onnx", manifest)]
    data_name = f"{name}.bin"
    graph_path, data_path = _ending(stem, ".onnx"), _ending(stem, ".bin")

    def write_graph(path: Path) -> None:
        write_durably(data_path, lambda data: save_external(proto, path, data, data_name))

    write_durably(graph_path, write_graph)
    files.append(_file("file", data_path, data_name))
    external = [{"path": data_name, "file": data_name}]
    files.append(_file("model", graph_path, f"{name}.onnx", {**manifest, "external_data": external}))
    return files


def _ending(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _write_single(proto: onnx.ModelProto, path: Path) -> Path:
    return write_durably(path, lambda temporary: save_single(proto, temporary))


def _file(
    kind: Literal["model", "checkpoint", "file"], path: Path, name: str, manifest: dict[str, Any] | None = None
) -> CheckpointFile:
    return CheckpointFile(kind=kind, path=path.absolute(), name=name, manifest=manifest)
