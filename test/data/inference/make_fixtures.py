"""Writes the fixtures of the inference tests: values computed by the frameworks' own code.

    pip install ultralytics onnx onnxruntime onnxscript timm && python make_fixtures.py

Models are tiny, with random weights from a fixed seed, exported by Ultralytics; what they answer for one picture is taken
from Ultralytics' predictor on the exported file. Resizing comes from Pillow through torchvision, and from OpenCV through
Ultralytics' LetterBox. Files: `<name>.onnx`, `yolo.json`, `resize.json`.
"""

import base64
import io
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision.transforms import CenterCrop, InterpolationMode, Resize  # noqa: E402
from ultralytics import YOLO  # noqa: E402
from ultralytics.data.augment import LetterBox  # noqa: E402

HERE = Path(__file__).parent
torch.set_num_threads(1)

LABELS = ["zero", "one", "two"]
HEIGHT, WIDTH = 64, 96
BACKBONE = [
    [-1, 1, "Conv", [8, 3, 2]],
    [-1, 1, "Conv", [12, 3, 2]],
    [-1, 1, "Conv", [16, 3, 2]],  # 2: stride 8
    [-1, 1, "Conv", [16, 3, 2]],  # 3: stride 16
    [-1, 1, "Conv", [16, 3, 2]],  # 4: stride 32
]
LEVELS = [2, 3, 4]
LIMITS = {"conf": 0.25, "iou": 0.45, "max_det": 40}


def picture(width: int, height: int, seed: int) -> np.ndarray:
    """Soft shapes, hard edges and noise; RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rgb = np.stack(
        [128 + 100 * np.sin(x / 7 + y / 11), 128 + 100 * np.cos(x / 5 - y / 9), 128 + 100 * np.sin(y / 4)],
        axis=-1,
    )
    rgb[height // 4 : height // 2, width // 3 : width // 2] = [250, 20, 60]
    rgb[height // 2 :, : width // 5] = [5, 240, 200]
    return np.clip(rgb + rng.normal(0, 8, rgb.shape), 0, 255).round().astype(np.uint8)


def png(rgb: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def floats(values: np.ndarray) -> dict[str, object]:
    return {
        "dims": list(values.shape),
        "float32": base64.b64encode(np.ascontiguousarray(values, np.float32).tobytes()).decode(),
    }


def tiny(head: list[object], **more: object) -> dict[str, object]:
    return {"nc": len(LABELS), "reg_max": 4, **more, "backbone": BACKBONE, "head": [[LEVELS, 1, *head]]}


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that places differ; scores on both sides of the threshold."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.requires_grad:
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2.2 / fan_in) ** 0.5
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=generator) * 0.7
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.data = torch.randn(module.running_mean.shape, generator=generator) * 0.1
            module.weight.data = 1.2 + 0.3 * torch.randn(module.weight.shape, generator=generator)
    head = model.model[-1]
    for name in ("cv3", "one2one_cv3"):
        for level in getattr(head, name, None) or []:
            level[-1].weight.data *= 4


def export(
    name: str, config: dict[str, object], task: str, folder: Path, seed: int, **options: object
) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    torch.manual_seed(1)
    model = YOLO(str(path), task=task)
    model.model.names = dict(enumerate(LABELS))
    randomise(model.model, seed)
    size = (HEIGHT, WIDTH) if task != "classify" else 32
    exported = model.export(
        format="onnx", imgsz=size, opset=17, simplify=False, dynamic=False, verbose=False, **options
    )
    target = HERE / f"{name}.onnx"
    target.write_bytes(Path(exported).read_bytes())
    return target


def letterboxed(rgb: np.ndarray) -> np.ndarray:
    return LetterBox((HEIGHT, WIDTH), auto=False)(image=rgb)


def bits(mask: np.ndarray) -> str:
    return base64.b64encode(np.packbits(mask.astype(bool).reshape(-1)).tobytes()).decode()


def yolo_fixture(path: Path, task: str, rgb: np.ndarray) -> dict[str, object]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    tensor = letterboxed(rgb).transpose(2, 0, 1)[None].astype(np.float32) / 255
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: tensor}), strict=True))
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    [result] = YOLO(str(path), task=task).predict(
        bgr, imgsz=(HEIGHT, WIDTH), verbose=False, save=False, **LIMITS
    )
    expected: dict[str, object] = {
        "boxes": result.boxes.xyxy.tolist(),
        "scores": result.boxes.conf.tolist(),
        "labels": [int(label) for label in result.boxes.cls],
    }
    if result.masks is not None:
        expected["masks"] = [bits(mask.numpy()) for mask in result.masks.data]
    if result.keypoints is not None:
        expected["keypoints"] = result.keypoints.data.tolist()
    return {"outputs": {name: floats(value) for name, value in outputs.items()}, "expected": expected}


def make_yolo() -> None:
    rgb = picture(83, 47, 3)
    fixture: dict[str, object] = {
        "image": {"width": 83, "height": 47, "png": png(rgb)},
        "input": {"width": WIDTH, "height": HEIGHT},
        "labels": LABELS,
        "limits": {"confidence": LIMITS["conf"], "iou": LIMITS["iou"], "detections": LIMITS["max_det"]},
    }
    models_by_name: dict[str, dict[str, object]] = {}
    masks = {"name": "output1", "channels": 8}
    models = [
        ("tiny-detect", tiny(["Detect", ["nc"]]), "detect", {}, {"nms": "none"}),
        ("tiny-detect-nms", tiny(["Detect", ["nc"]]), "detect", {"nms": True, **LIMITS}, {"nms": "in_graph"}),
        (
            "tiny-detect-end2end",
            tiny(["Detect", ["nc"]], end2end=True, reg_max=1),
            "detect",
            {"nms": False},
            {"nms": "in_graph"},
        ),
        ("tiny-segment", tiny(["Segment", ["nc", 8, 8]]), "segment", {}, {"nms": "none", "masks": masks}),
        (
            "tiny-segment-end2end",
            tiny(["Segment26", ["nc", 8, 8]], end2end=True, reg_max=1),
            "segment",
            {"nms": False},
            {"nms": "in_graph", "masks": masks},
        ),
        (
            "tiny-pose",
            tiny(["Pose", ["nc", [5, 3]]], kpt_shape=[5, 3]),
            "pose",
            {},
            {"nms": "none", "kpt_shape": [5, 3]},
        ),
        (
            "tiny-pose-end2end",
            tiny(["Pose26", ["nc", [5, 2]]], kpt_shape=[5, 2], end2end=True, reg_max=1),
            "pose",
            {"nms": False},
            {"nms": "in_graph", "kpt_shape": [5, 2]},
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, config, task, options, output in models:
            # The first seed whose model finds enough things of enough kinds.
            for seed in range(100):
                path = export(name, config, task, Path(folder), seed, **options)
                models_by_name[name] = {"task": task, "output": output, **yolo_fixture(path, task, rgb)}
                expected = models_by_name[name]["expected"]
                print(name, seed, path.stat().st_size, len(expected["scores"]), set(expected["labels"]))
                if len(expected["scores"]) >= 5 and len(set(expected["labels"])) >= 2:
                    break
            else:
                raise RuntimeError(f"{name}: too little to compare")
    fixture["models"] = models_by_name
    (HERE / "yolo.json").write_text(json.dumps(fixture))


def make_resize() -> None:
    cases = []
    for seed, (width, height) in enumerate([(83, 47), (40, 61), (300, 20), (33, 33)]):
        rgb = picture(width, height, seed)
        image = Image.fromarray(rgb)
        wanted = []
        for name, mode in [
            ("pil_bilinear", InterpolationMode.BILINEAR),
            ("pil_bicubic", InterpolationMode.BICUBIC),
        ]:
            wanted.append(
                (
                    {"resize": "stretch", "interpolation": name, "width": 24, "height": 30},
                    Resize((30, 24), mode)(image),
                )
            )
            for short in (24, 27):
                if max(width, height) / min(width, height) > 8:
                    continue
                whole = Resize(short, mode)(image)
                wanted.append(
                    (
                        {
                            "resize": "crop",
                            "interpolation": name,
                            "width": 24,
                            "height": 22,
                            "resize_short_side": short,
                        },
                        CenterCrop((22, 24))(whole),
                    )
                )
        for box_width, box_height in [(32, 32), (96, 64), (20, 37)]:
            boxed = LetterBox((box_height, box_width), auto=False)(image=rgb)
            wanted.append(
                ({"resize": "letterbox", "pad_value": 114, "width": box_width, "height": box_height}, boxed)
            )
        cases.append(
            {
                "width": width,
                "height": height,
                "rgb": base64.b64encode(rgb.tobytes()).decode(),
                "wanted": [
                    {"input": input, "rgb": base64.b64encode(np.asarray(out).tobytes()).decode()}
                    for input, out in wanted
                ],
            }
        )
    (HERE / "resize.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    print(sys.version, torch.__version__, cv2.__version__)
    make_resize()
    make_yolo()
