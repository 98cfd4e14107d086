"""The order of training images: a function of seed and epoch, so that a run can go on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """A permutation of `length` images for each epoch. Iterating it again means the next epoch."""

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._seed = seed
        self._epoch = 0
        self._skip = 0

    def start(self, epoch: int, skip: int = 0) -> None:
        """The next iteration is that of `epoch` (from 0), without its first `skip` images."""
        self._epoch = epoch
        self._skip = skip

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        # The bits of a small seed are alike; the generator mixes them, two different numbers give unrelated orders.
        generator.manual_seed((self._seed + 1) * 1_000_003 + self._epoch)
        order: list[int] = torch.randperm(self._length, generator=generator).tolist()
        skip, self._skip = self._skip, 0
        self._epoch += 1
        yield from order[skip:]

    def __len__(self) -> int:
        return self._length
