"""Weight-only int8: a quarter of the bytes, computed in float32.

Each output channel of a weight has a scale, the largest absolute value / 127, and the graph begins with a
DequantizeLinear a weight. Symmetric scales commute with a folded batch normalisation, which only scales output
channels: quantising the PyTorch weights (`fake_quantize`) gives the same function as quantising the exported graph,
so accuracy can be measured on the training device.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

# Smaller weights are not worth a node, and have the most to lose.
FEWEST_ELEMENTS = 2048
_LEVELS = 127


def quantize_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large weights of Conv, Gemm and MatMul are int8; everything else stays."""
    quantized = onnx.ModelProto()
    quantized.CopyFrom(proto)
    graph = quantized.graph
    uses: Counter[str] = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    axes = {node.input[1]: axis for node in graph.node if (axis := _output_axis(node)) is not None}
    kept, nodes = [], []
    for tensor in graph.initializer:
        axis = axes.get(tensor.name)
        shape = tuple(tensor.dims)
        if (
            axis is None
            or uses[tensor.name] != 1
            or tensor.data_type != onnx.TensorProto.FLOAT
            or len(shape) < 2
            or int(np.prod(shape)) <= FEWEST_ELEMENTS
        ):
            kept.append(tensor)
            continue
        axis %= len(shape)
        weights = numpy_helper.to_array(tensor)
        highest = np.abs(weights).max(axis=tuple(i for i in range(weights.ndim) if i != axis))
        scale = np.where(highest > 0, highest / _LEVELS, 1).astype(np.float32)
        spread = scale.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
        values = np.clip(np.rint(weights / spread), -_LEVELS, _LEVELS).astype(np.int8)
        names = [f"{tensor.name}_{part}" for part in ("q", "s", "z")]
        arrays: tuple[np.ndarray[Any, Any], ...] = (values, scale, np.zeros(scale.shape, np.int8))
        kept += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
        nodes.append(onnx.helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
    rest = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes + rest)
    return quantized


def _output_axis(node: onnx.NodeProto) -> int | None:
    """Which axis of input 1 counts output channels; None where it is no weight."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        return -1
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i == 1 for attribute in node.attribute)
        return 0 if transposed else 1
    return None


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether `quantize_weights` found anything to quantise."""
    return any(node.op_type == "DequantizeLinear" for node in proto.graph.node)


@torch.no_grad()
def fake_quantize(model: nn.Module) -> nn.Module:
    """Rounds the weights of `model` in place to what their int8 form stands for; returns `model`."""
    for module in model.modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) or module.weight.numel() <= FEWEST_ELEMENTS:
            continue
        weight = module.weight
        highest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).float()
        scale = torch.where(highest > 0, highest / _LEVELS, torch.ones_like(highest))
        weight.copy_(((weight.float() / scale).round().clamp(-_LEVELS, _LEVELS) * scale).to(weight.dtype))
    return model
