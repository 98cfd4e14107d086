import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from cultivar_runner.trainer.export.onnx_model import export_onnx, own_initializers
from cultivar_runner.trainer.export.publish import form_for, publish
from cultivar_runner.trainer.export.quantize import fake_quantize, is_quantized, quantize_weights

SIZE = 32
# A convolutional network with batch norms, one with layer norms, and a transformer (weights in MatMul).
FAMILIES = ["test_resnet", "test_convnext", "test_vit"]


def model_of(name: str) -> nn.Module:
    torch.manual_seed(3)
    arguments: dict[str, Any] = {"img_size": SIZE} if "vit" in name else {}
    model: nn.Module = timm.create_model(name, num_classes=5, **arguments)
    # Statistics as after some training: with those of a new model, folding a norm changes nothing.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.weight) / 10
            module.running_var = torch.rand_like(module.weight) + 0.5
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def run(content: bytes | str, images: torch.Tensor) -> np.ndarray[Any, Any]:
    # Further optimisations turn int8 weights of a MatMul into a kernel that rounds activations too.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"input": image[None].numpy()})[0] for image in images])


def logits_of(model: nn.Module, images: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        result: np.ndarray[Any, Any] = model(images).numpy()
    return result


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_export_and_its_int8_form_compute_what_pytorch_does(name: str, images: torch.Tensor) -> None:
    model = model_of(name)
    expected = logits_of(model, images)
    proto = export_onnx(model, (3, SIZE, SIZE))
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 13
    np.testing.assert_allclose(run(proto.SerializeToString(), images), expected, atol=1e-4)

    quantized = quantize_weights(proto)
    assert is_quantized(quantized) and not is_quantized(proto)
    # Nearly all weights are large ones: a quarter of the bytes, and the nodes that it takes.
    assert quantized.ByteSize() < 0.45 * proto.ByteSize()
    rounded = logits_of(fake_quantize(model), images)
    found = run(quantized.SerializeToString(), images)
    spread = np.abs(expected).max()
    assert 1e-5 < np.abs(rounded - expected).max() < 0.1 * spread
    # The accuracy measured with PyTorch is that of the file: the difference is far below what rounding itself makes.
    assert np.abs(found - rounded).max() < 0.1 * np.abs(rounded - expected).max()


def test_the_model_is_left_as_it_was(images: torch.Tensor) -> None:
    model = model_of("test_resnet").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, (3, SIZE, SIZE))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_behind_names_for_other_names_are_found() -> None:
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    nodes = [
        helper.make_node("Identity", ["w"], ["v"]),
        helper.make_node("Identity", ["v"], ["u"]),
        helper.make_node("MatMul", ["input", "u"], ["hidden"]),
        helper.make_node("Identity", ["hidden"], ["logits"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("input", "logits")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    proto = own_initializers(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert [node.op_type for node in proto.graph.node] == ["MatMul", "Identity"]
    assert is_quantized(quantize_weights(proto))


def test_a_weight_that_is_used_twice_or_is_small_stays_exact() -> None:
    arrays = {"shared": np.ones((64, 64)), "small": np.ones((64, 8)), "last": np.ones((8, 8))}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("MatMul", ["input", "shared"], ["a"]),
        helper.make_node("MatMul", ["a", "shared"], ["b"]),
        helper.make_node("MatMul", ["b", "small"], ["c"]),
        helper.make_node("MatMul", ["c", "last"], ["logits"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in (("input", 64), ("logits", 8))]
    proto = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], tensors))
    assert not is_quantized(quantize_weights(proto))


@pytest.mark.parametrize(
    ("weight_bytes", "form"), [(6_000_000, "single"), (21_000_000, "external"), (44_700_000, "int8")]
)
def test_the_most_exact_form_that_fits_is_chosen(weight_bytes: int, form: str) -> None:
    assert form_for(weight_bytes) == form


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    return export_onnx(model_of("test_resnet"), (3, SIZE, SIZE))


class TestPublish:
    manifest: ClassVar[dict[str, Any]] = {"schema": 1, "labels": ["a"], "external_data": []}

    def test_one_file(self, tmp_path: Path, proto: onnx.ModelProto, images: torch.Tensor) -> None:
        (model,) = publish(proto, tmp_path / "best-0001", "best", self.manifest)
        assert (model.kind, model.name, model.manifest) == ("model", "best.onnx", self.manifest)
        np.testing.assert_allclose(run(str(model.path), images), logits_of(model_of("test_resnet"), images), atol=1e-4)

    def test_weights_in_a_second_file_that_comes_first(
        self, tmp_path: Path, proto: onnx.ModelProto, images: torch.Tensor
    ) -> None:
        data, model = publish(proto, tmp_path / "best-0001", "best", self.manifest, form="external")
        assert (data.kind, data.name) == ("file", "best.bin")
        assert model.manifest is not None
        assert model.manifest["external_data"] == [{"path": "best.bin", "file": "best.bin"}]
        assert model.path.stat().st_size < 60_000 < data.path.stat().st_size
        # On disk the file has a name of its own; the graph knows the artifact's.
        data.path.rename(tmp_path / "best.bin")
        np.testing.assert_allclose(run(str(model.path), images), logits_of(model_of("test_resnet"), images), atol=1e-4)
        onnx.checker.check_model(str(model.path))

    def test_int8_keeps_the_exact_model_beside_it(
        self, tmp_path: Path, proto: onnx.ModelProto, images: torch.Tensor
    ) -> None:
        exact, data, model = publish(proto, tmp_path / "best-0001", "best", self.manifest, form="int8")
        assert [(file.kind, file.name) for file in (exact, data, model)] == [
            ("file", "best.fp32.onnx"),
            ("file", "best.bin"),
            ("model", "best.onnx"),
        ]
        assert model.manifest is not None and model.manifest["weights"] == "int8"
        assert data.path.stat().st_size < 0.4 * exact.path.stat().st_size
        data.path.rename(tmp_path / "best.bin")
        expected = logits_of(model_of("test_resnet"), images)
        np.testing.assert_allclose(run(str(exact.path), images), expected, atol=1e-4)
        assert (run(str(model.path), images).argmax(1) == expected.argmax(1)).all()
        assert json.loads(json.dumps(model.manifest)) == model.manifest
