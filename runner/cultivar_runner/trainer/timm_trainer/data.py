"""Images as a timm model gets them: decoding, resizing as the server's inference does it, augmentation, batches.

All randomness is a function of (seed, epoch, image) or (seed, epoch, batch). Nothing has to be saved to go on exactly,
and the order and looks of images do not depend on the number of loader processes.

What timm has is used on whole batches: `Mixup` (mixup, cutmix) and `RandomErasing`. Its image transform factory knows
neither the three resize modes nor a rotation, a blur's size or AutoAugment's other policies: those are torchvision's.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from ..common.classification import Sample
from .config import Augmentation, Preprocessing

# The shorter side before the middle is cut out: 256 of 224 pixels and the like, cut short as torchvision does.
CROP_FACTOR = 1.14
# Epoch number of images that are not augmented.
PLAIN = -1

Key = tuple[int, int]
# Their constructors have no types.
_Mixup: Any = Mixup
_RandomErasing: Any = RandomErasing


@dataclass(frozen=True)
class InputForm:
    """How an image becomes the model's input; the server's inference does the same from the manifest."""

    size: int
    resize_mode: str
    pad_value: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def of(preprocessing: Preprocessing, size: int, channels: int) -> InputForm:
        """From the settings. Grey images take the mean over the channels of both statistics."""
        mean = preprocessing.mean if preprocessing.normalize else (0.0, 0.0, 0.0)
        std = preprocessing.std if preprocessing.normalize else (1.0, 1.0, 1.0)
        if channels == 1:
            return InputForm(
                size, preprocessing.resize_mode, preprocessing.pad_value, 1, (sum(mean) / 3,), (sum(std) / 3,)
            )
        return InputForm(size, preprocessing.resize_mode, preprocessing.pad_value, 3, mean, std)

    @property
    def short_side(self) -> int:
        """Pixels of the shorter side before the crop."""
        return max(int(self.size * CROP_FACTOR), self.size)

    def manifest(self) -> dict[str, Any]:
        """`input` of the checkpoint's manifest."""
        return {
            "name": "input",
            "layout": "NCHW",
            "width": self.size,
            "height": self.size,
            "channels": self.channels,
            "dtype": "float32",
            "scale": 1 / 255,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": {"resize": "stretch", "resize_crop": "crop", "pad": "pad"}[self.resize_mode],
            "interpolation": "pil_bilinear",
            **({"resize_short_side": self.short_side} if self.resize_mode == "resize_crop" else {}),
            "pad_value": self.pad_value,
        }

    def state(self) -> dict[str, Any]:
        """As plain values, for a saved state."""
        return {**vars(self), "mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_state(state: dict[str, Any]) -> InputForm:
        """The inverse of `state`."""
        return InputForm(**{**state, "mean": tuple(state["mean"]), "std": tuple(state["std"])})


def decode(path: Path, channels: int) -> Image.Image:
    """An upright image of 1 (grey) or 3 (RGB) channels, transparency on white as a viewer shows it.

    `OSError` and the like when it cannot be read.
    """
    with Image.open(path) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode in ("I;16", "I;16B", "I;16L", "I"):
            image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
        mode = "L" if channels == 1 else "RGB"
        if channels == 1 and image.mode != "L":
            image = image.convert("RGB")
        return image.convert(mode) if image.mode != mode else image.copy()


def is_grey(path: Path) -> bool:
    """Whether the file itself holds grey pixels; judged by its header."""
    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
    except OSError:
        return True  # Says nothing; it is left out when it is read.


class Resize:
    """To the model's square input, as the server's `pil_bilinear` does."""

    def __init__(self, form: InputForm) -> None:
        self._form = form
        self._crop = transforms.Compose(
            [
                transforms.Resize(form.short_side, transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(form.size),
            ]
        )

    def __call__(self, image: Image.Image) -> Image.Image:
        """`size` x `size` pixels."""
        size = self._form.size
        if self._form.resize_mode == "resize":
            return image.resize((size, size), Image.Resampling.BILINEAR)
        if self._form.resize_mode == "resize_crop":
            cropped: Image.Image = self._crop(image)
            return cropped
        ratio = max(image.width / size, image.height / size)
        # Halves up, as JavaScript rounds.
        width, height = (min(max(int(side / ratio + 0.5), 1), size) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        value = self._form.pad_value
        canvas = Image.new(image.mode, (size, size), value if image.mode == "L" else (value,) * 3)
        canvas.paste(resized, ((size - width) // 2, (size - height) // 2))
        return canvas


def training_transform(form: InputForm, augmentation: Augmentation) -> transforms.Compose:
    """From an image to an augmented one of the input's size; draws from PyTorch's global generator."""
    steps: list[Any] = []
    if augmentation.enabled and augmentation.random_crop:
        steps.append(transforms.RandomResizedCrop(form.size, augmentation.crop_scale, augmentation.crop_ratio))
    else:
        steps.append(Resize(form))
    if not augmentation.enabled:
        return transforms.Compose(steps)
    fill = form.pad_value if form.channels == 1 else (form.pad_value,) * 3
    if augmentation.random_flip:
        steps.append(transforms.RandomHorizontalFlip(augmentation.random_flip_prob))
    if augmentation.random_rotation:
        steps.append(
            transforms.RandomRotation(augmentation.rotation_degrees, transforms.InterpolationMode.BILINEAR, fill=fill)
        )
    if augmentation.autoaugment:
        policy = transforms.AutoAugmentPolicy(augmentation.autoaugment_policy)
        steps.append(transforms.AutoAugment(policy))
    if augmentation.color_jitter:
        steps.append(
            transforms.ColorJitter(
                augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue
            )
        )
    if augmentation.random_grayscale:
        steps.append(transforms.RandomGrayscale(augmentation.grayscale_prob))
    if augmentation.gaussian_blur:
        steps.append(transforms.GaussianBlur(augmentation.blur_kernel_size, augmentation.blur_sigma))
    return transforms.Compose(steps)


def draw(seed: int, *place: int) -> int:
    """A seed of 32 bits for one place in a job; places that are close have unrelated seeds."""
    return zlib.crc32(repr((seed, *place)).encode())


class ImageSet(Dataset[tuple[Tensor, int, int] | None]):
    """Images by (epoch, position): pixels as uint8 CHW, label, position; None for an image that cannot be read."""

    def __init__(
        self,
        root: Path,
        samples: Sequence[Sample],
        form: InputForm,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self._root = root
        self._samples = samples
        self._channels = form.channels
        self._plain = Resize(form)
        self._augmented = None if augmentation is None else training_transform(form, augmentation)
        self._seed = seed
        self._warned: set[int] = set()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int] | None:
        """One image; the same key gives the same pixels in every process."""
        epoch, position = key
        sample = self._samples[position]
        try:
            image = decode(self._root / sample.path, self._channels)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if position not in self._warned:
                self._warned.add(position)
                print(f"warning: {sample.path} cannot be read and is left out: {error}", flush=True)
            return None
        if self._augmented is None or epoch == PLAIN:
            image = self._plain(image)
        else:
            seed = draw(self._seed, epoch, position)
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            image = self._augmented(image)
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), sample.label, position


@dataclass
class Batch:
    """Images of one step: uint8 NCHW, labels, positions in the set."""

    images: Tensor
    labels: Tensor
    positions: Tensor


def collate(items: list[tuple[Tensor, int, int] | None]) -> Batch | None:
    """One batch; None when none of the images can be read."""
    found = [item for item in items if item is not None]
    if not found:
        return None
    images, labels, positions = zip(*found, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), torch.tensor(positions))


def plan_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray[Any, Any]]:
    """Positions of each batch of an epoch (from 0).

    Batches differ by one image at most: a rest of a single image would break batch normalisation.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return np.array_split(order, -(-count // batch_size))


class EpochSampler(Sampler[list[Key]]):
    """Keys of this process's share of each batch, from a batch on. `epoch` and `first` are set before each pass."""

    def __init__(self, count: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._rank, self._world = rank, world
        self.epoch = 0
        self.first = 0

    def plan(self) -> list[np.ndarray[Any, Any]]:
        """All batches of the epoch, of all processes."""
        return plan_batches(self._count, self._batch_size, self._seed, self.epoch)

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.plan()[self.first :]:
            share = batch[self._rank :: self._world]
            # Every process has to take part in every step: one without a share gets an image that does not count.
            yield [(self.epoch, int(position)) for position in (share if len(share) else batch[:1])]

    def __len__(self) -> int:
        return len(self.plan()) - self.first


def loader_of(images: ImageSet, sampler: Sampler[list[Key]], *, workers: int, pin_memory: bool) -> DataLoader[Any]:
    """A loader whose processes stay from epoch to epoch."""
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers > 0 else None,
    )


class PlainSampler(Sampler[list[Key]]):
    """Keys of this process's share of a set, in order, not augmented."""

    def __init__(self, count: int, batch_size: int, rank: int, world: int) -> None:
        self._positions = range(rank, count, world)
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self._positions), self._batch_size):
            yield [(PLAIN, position) for position in self._positions[start : start + self._batch_size]]

    def __len__(self) -> int:
        return -(-len(self._positions) // self._batch_size)


class BatchAugmentation:
    """What is done to whole batches on the device: normalisation, erasing, mixup and cutmix."""

    def __init__(self, form: InputForm, augmentation: Augmentation, classes: int, device: torch.device) -> None:
        self._scale = 1 / 255
        self._mean = torch.tensor(form.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(form.std, device=device).view(1, -1, 1, 1)
        self._classes = classes
        on = augmentation.enabled
        self._erase = (
            _RandomErasing(augmentation.erasing_prob, mode="const", device=str(device))
            if on and augmentation.random_erasing
            else None
        )
        self._mixup = (
            _Mixup(
                mixup_alpha=augmentation.mixup_alpha if augmentation.mixup else 0.0,
                cutmix_alpha=augmentation.cutmix_alpha if augmentation.cutmix else 0.0,
                label_smoothing=0.0,
                num_classes=classes,
            )
            if on and (augmentation.mixup or augmentation.cutmix)
            else None
        )

    def normalize(self, images: Tensor) -> Tensor:
        """Float values as the model takes them: (pixel / 255 - mean) / std."""
        return (images.float() * self._scale - self._mean) / self._std

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs, and class labels or, under mixup, their shares; draws from Python's and numpy's generators."""
        inputs = self.normalize(images)
        if self._erase is not None:
            inputs = self._erase(inputs)
        if self._mixup is None:
            return inputs, labels
        even = len(inputs) // 2 * 2
        # timm mixes pairs; the last image of an odd batch stays as it is.
        shares = torch.nn.functional.one_hot(labels, self._classes).to(inputs.dtype)
        if even:
            mixed, mixed_shares = self._mixup(inputs[:even].contiguous(), labels[:even])
            inputs = torch.cat([mixed, inputs[even:]])
            shares = torch.cat([mixed_shares.to(shares.dtype), shares[even:]])
        return inputs, shares
