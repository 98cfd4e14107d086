import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cultivar_runner.trainer.common.classification import Sample
from cultivar_runner.trainer.timm_trainer.config import Augmentation, Preprocessing
from cultivar_runner.trainer.timm_trainer.data import (
    PLAIN,
    BatchAugmentation,
    EpochSampler,
    ImageSet,
    InputForm,
    PlainSampler,
    Resize,
    decode,
    loader_of,
    plan_batches,
)

REPOSITORY = Path(__file__).parents[4]
NODE = next((str(p) for p in (REPOSITORY / "node_modules/.bin/node",) if p.exists()), shutil.which("node"))


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth waves with some noise, different in each channel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = [127 + 80 * np.sin(x / (3 + c) + y / (7 - c)) + rng.normal(0, 15, (height, width)) for c in range(3)]
    image = Image.fromarray(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8))
    return image.convert(mode)


def form_of(channels: int = 3, size: int = 24, **settings: Any) -> InputForm:
    return InputForm.of(Preprocessing(**settings), size, channels)


class TestAgreementWithTheServer:
    """The same pixels through the code of the server's inference, run by Node."""

    SCRIPT = """
      import { readFileSync } from "node:fs";
      import { loadRowKernel } from "./runner/embedded/trainer/row-kernel.ts";
      import { imageToTensor } from "./src/training/inference/preprocess.ts";
      const kernel = loadRowKernel();
      for (const { width, height, pixels, input, orientation } of JSON.parse(readFileSync(0, "utf8"))) {
        const data = Uint8Array.from(pixels);
        const tensor = imageToTensor(kernel, { width, height, data }, input, orientation);
        console.log(JSON.stringify(Array.from(tensor)));
      }
    """

    @staticmethod
    def server(cases: list[tuple[Image.Image, InputForm]]) -> list[np.ndarray[Any, Any]]:
        assert NODE is not None, "Node is needed: the repository's npm packages bring it"
        sent = [
            {
                "width": image.width,
                "height": image.height,
                "pixels": np.asarray(image.convert("RGBA")).reshape(-1).tolist(),
                "input": form.manifest(),
                "orientation": 1,
            }
            for image, form in cases
        ]
        # The code that runs has a part that is made, not committed.
        subprocess.run([NODE, "scripts/gen.ts"], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)
        done = subprocess.run(
            [NODE, "--input-type=module-typescript", "-e", TestAgreementWithTheServer.SCRIPT],
            cwd=REPOSITORY,
            input=json.dumps(sent),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        shapes = [(form.channels, form.size, form.size) for _, form in cases]
        lines = done.stdout.splitlines()
        return [np.array(json.loads(line)).reshape(shape) for line, shape in zip(lines, shapes, strict=True)]

    def test_every_resize_mode_shrinking_growing_and_at_odd_sizes(self, tmp_path: Path) -> None:
        sizes = [(61, 40), (40, 61), (24, 24), (9, 14), (250, 33), (1, 50), (24, 31)]
        forms = [
            form_of(resize_mode="resize"),
            form_of(resize_mode="resize_crop"),
            form_of(resize_mode="pad", pad_value=77),
            form_of(resize_mode="resize", normalize=False),
            form_of(1, resize_mode="pad", pad_value=9),
        ]
        cases = [
            (picture(*size, seed=i, mode="L" if form.channels == 1 else "RGB"), form)
            for i, size in enumerate(sizes)
            for form in forms
        ]
        for i, ((image, form), expected) in enumerate(zip(cases, self.server(cases), strict=True)):
            path = tmp_path / f"{i}.png"
            image.save(path)
            item = ImageSet(tmp_path, [Sample(path.name, 0, None)], form)[(PLAIN, 0)]
            assert item is not None
            found = BatchAugmentation(form, Augmentation(), 2, torch.device("cpu")).normalize(item[0][None])[0].numpy()
            # One level of brightness in the model's own scale, for roundings at a half.
            level = 1.01 / 255 / np.array(form.std).reshape(-1, 1, 1)
            difference = np.abs(found - expected)
            assert (difference <= level).all(), (image.size, form.resize_mode)
            # Pillow rounds after each axis and begins with the one that leaves less; the server begins with the rows.
            assert (difference > 1e-5).mean() < 0.3, (image.size, form.resize_mode)


class TestDecode:
    def test_a_turned_photograph_is_set_upright(self, tmp_path: Path) -> None:
        image = picture(30, 20)
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(
            np.asarray(decode(tmp_path / "a.png", 3)), np.asarray(image.transpose(Image.Transpose.ROTATE_270))
        )

    def test_transparency_lies_on_white(self, tmp_path: Path) -> None:
        Image.new("RGBA", (2, 1), (255, 0, 0, 0)).save(tmp_path / "a.png")
        palette = Image.new("P", (2, 1), 0)
        palette.putpalette([0, 0, 200])
        palette.save(tmp_path / "b.png", transparency=0)
        assert decode(tmp_path / "a.png", 3).getpixel((0, 0)) == (255, 255, 255)
        assert decode(tmp_path / "b.png", 3).getpixel((0, 0)) == (255, 255, 255)
        assert decode(tmp_path / "a.png", 1).getpixel((0, 0)) == 255

    def test_other_modes_become_rgb_or_grey(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((2, 2), 0x8080, np.uint16)).save(tmp_path / "deep.png")
        assert decode(tmp_path / "deep.png", 3).getpixel((0, 0)) == (128, 128, 128)
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
        red, green, blue = np.asarray(decode(tmp_path / "print.jpg", 3))[0, 0].tolist()
        assert red > 200 and green < 60 and blue < 60
        Image.new("1", (2, 2), 1).save(tmp_path / "bit.png")
        assert decode(tmp_path / "bit.png", 1).getpixel((1, 1)) == 255

    @pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
    def test_a_broken_image_is_left_out_with_one_warning(
        self, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.png").write_bytes(content)
        images = ImageSet(tmp_path, [Sample("a.png", 0, None)], form_of())
        assert images[(0, 0)] is None and images[(1, 0)] is None
        assert capsys.readouterr().out.count("a.png cannot be read and is left out") == 1


EVERYTHING = Augmentation(
    random_rotation=True,
    random_crop=True,
    color_jitter=True,
    random_grayscale=True,
    gaussian_blur=True,
    autoaugment=True,
)


def written(folder: Path, count: int = 6) -> list[Sample]:
    for i in range(count):
        picture(40, 30, i).save(folder / f"{i}.png")
    return [Sample(f"{i}.png", i % 2, None) for i in range(count)]


def test_augmentation_follows_from_seed_epoch_and_image_alone(tmp_path: Path) -> None:
    samples = written(tmp_path)
    one = ImageSet(tmp_path, samples, form_of(), augmentation=EVERYTHING, seed=5)
    other = ImageSet(tmp_path, samples, form_of(), augmentation=EVERYTHING, seed=5)
    other[(3, 2)], torch.rand(7)  # Whatever was drawn before.

    def pixels(images: ImageSet, epoch: int, position: int) -> torch.Tensor:
        item = images[(epoch, position)]
        assert item is not None
        return item[0]

    assert torch.equal(pixels(one, 4, 1), pixels(other, 4, 1))
    assert not torch.equal(pixels(one, 4, 1), pixels(one, 5, 1))
    seeded = ImageSet(tmp_path, samples, form_of(), augmentation=EVERYTHING, seed=6)
    assert not torch.equal(pixels(one, 4, 1), pixels(seeded, 4, 1))


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    samples = written(tmp_path)
    found = []
    for workers in (0, 2):
        sampler = EpochSampler(len(samples), 4, 1, 0, 1)
        images = ImageSet(tmp_path, samples, form_of(), augmentation=EVERYTHING, seed=1)
        loader = loader_of(images, sampler, workers=workers, pin_memory=False)
        for epoch in (0, 1):
            sampler.epoch = epoch
            found.append([batch.images for batch in loader])
    for alone, shared in ((found[0], found[2]), (found[1], found[3])):
        assert len(alone) == 2 and all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


class TestBatches:
    @pytest.mark.parametrize(("count", "size"), [(33, 32), (200, 32), (5, 5), (7, 1), (1, 1), (64, 32)])
    def test_every_image_once_and_no_tiny_rest(self, count: int, size: int) -> None:
        plan = plan_batches(count, size, 3, 0)
        lengths = [len(batch) for batch in plan]
        assert sorted(np.concatenate(plan).tolist()) == list(range(count))
        assert max(lengths) <= size and max(lengths) - min(lengths) <= 1
        assert len(plan) == -(-count // size)

    def test_the_order_is_new_in_each_epoch_and_the_same_for_a_seed(self) -> None:
        orders = [np.concatenate(plan_batches(50, 8, seed, epoch)).tolist() for seed, epoch in ((1, 0), (1, 1), (2, 0))]
        assert orders[0] != orders[1] != orders[2] != orders[0]
        assert np.concatenate(plan_batches(50, 8, 1, 1)).tolist() == orders[1]

    def test_processes_share_each_batch_and_all_take_every_step(self) -> None:
        shares = [EpochSampler(10, 4, 1, rank, 3) for rank in range(3)]
        steps = [list(share) for share in shares]
        assert {len(step) for step in steps} == {3}
        for number, batch in enumerate(shares[0].plan()):
            together = [position for step in steps for _, position in step[number]]
            assert set(together) == set(batch.tolist())
        lonely = [list(EpochSampler(2, 1, 1, rank, 3)) for rank in range(3)]
        assert [len(keys) for step in lonely for keys in step] == [1] * 6

    def test_an_epoch_goes_on_from_a_batch(self) -> None:
        sampler = EpochSampler(20, 4, 1, 0, 1)
        whole = list(sampler)
        sampler.first = 3
        assert list(sampler) == whole[3:] and len(sampler) == 2

    def test_validation_is_shared_without_overlap(self) -> None:
        keys = [key for rank in range(3) for batch in PlainSampler(10, 2, rank, 3) for key in batch]
        assert sorted(keys) == [(PLAIN, position) for position in range(10)]


class TestBatchAugmentation:
    images = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1])

    def augmented(self, seed: int = 1, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
        import random

        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        augment = BatchAugmentation(form_of(), Augmentation(**settings), 3, torch.device("cpu"))
        inputs, targets = augment(self.images, self.labels)
        return inputs, targets

    def test_without_it_images_are_normalized_and_labels_are_classes(self) -> None:
        inputs, targets = self.augmented()
        expected = (self.images[0, 1, 2, 3] / 255 - 0.456) / 0.224
        assert inputs[0, 1, 2, 3].item() == pytest.approx(expected.item(), abs=1e-6)
        assert targets is self.labels

    @pytest.mark.parametrize(
        "settings", [{"mixup": True, "mixup_alpha": 8.0}, {"cutmix": True}, {"mixup": True, "cutmix": True}]
    )
    def test_mixing_shares_labels_and_leaves_the_odd_image(self, settings: dict[str, Any]) -> None:
        plain, _ = self.augmented()
        inputs, targets = self.augmented(3, **settings)
        assert targets.shape == (5, 3)
        assert targets.sum(dim=1).tolist() == pytest.approx([1] * 5)
        assert torch.equal(inputs[4], plain[4]) and targets[4].tolist() == [0, 1, 0]
        assert not torch.equal(inputs[:4], plain[:4])

    def test_erasing_blanks_patches(self) -> None:
        inputs, _ = self.augmented(random_erasing=True, erasing_prob=1.0)
        assert ((inputs == 0).all(dim=1).sum(dim=(1, 2)) > 4).all()

    def test_the_master_switch_is_off_for_all(self) -> None:
        plain, _ = self.augmented()
        inputs, targets = self.augmented(enabled=False, mixup=True, cutmix=True, random_erasing=True, erasing_prob=1.0)
        assert torch.equal(inputs, plain) and targets is self.labels


def test_padding_keeps_the_proportions() -> None:
    padded = np.asarray(Resize(form_of(resize_mode="pad", pad_value=200))(Image.new("RGB", (40, 20))))
    assert (padded[:6] == 200).all() and (padded[6:18] == 0).all() and (padded[18:] == 200).all()
