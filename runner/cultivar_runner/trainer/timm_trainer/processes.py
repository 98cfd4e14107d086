"""Several devices: one process each, joined by DistributedDataParallel.

The process that the agent started is rank 0, keeps the channel and starts the others with the environment that torchrun
would give them. They stay in its process group, so that what ends the job ends them too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..channel import CHANNEL_VARIABLE
from ..messages import TrainerJob

T = TypeVar("T")

# Processes on a machine without CUDA devices; for tests.
PROCESSES_VARIABLE = "CULTIVAR_PROCESSES"
# A whole validation or export of rank 0 passes while the others wait.
_PATIENCE = timedelta(hours=6)
_MODULE = f"{__package__}.peer"


@dataclass
class Processes:
    """One process among those of the job. With a single one, nothing here does anything."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    peers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def leads(self) -> bool:
        """Whether this process reports, saves and decides."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as training runs it."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        wrapped: nn.Module = DistributedDataParallel(model, device_ids=devices)
        return wrapped

    def told(self, value: T) -> T:
        """Rank 0's value, in every process."""
        if self.world == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self._plain())
        return box[0]  # type: ignore[no-any-return]

    def flag(self, value: bool) -> bool:
        """Rank 0's yes or no, in every process; cheap enough for every batch."""
        if self.world == 1:
            return value
        tensor = torch.tensor([1 if value else 0])
        dist.broadcast(tensor, src=0, group=self._plain())
        return bool(tensor.item())

    def gathered(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value, group=self._plain())
        return box

    def close(self, *, failed: bool) -> None:
        """Leaves the group; after a failure the others are ended, for they wait for an answer that will not come."""
        self.closing.set()
        if failed:
            for peer in self.peers:
                peer.kill()
        if self.world > 1 and dist.is_initialized() and not failed:
            dist.destroy_process_group()
        for peer in self.peers:
            peer.wait()

    def _plain(self) -> Any:
        """A group for values in main memory: NCCL knows only devices."""
        global _plain_group
        if self.device.type != "cuda":
            return None
        if _plain_group is None:
            _plain_group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        return _plain_group


_plain_group: Any = None


def device_count() -> int:
    """Processes that a job gets: one a visible CUDA device; one without any."""
    if torch.cuda.is_available():
        return max(torch.cuda.device_count(), 1)
    return max(int(os.environ.get(PROCESSES_VARIABLE, "1")), 1)


def start(job: TrainerJob, wanted: int) -> Processes:
    """Joins the group of a job; as rank 0, after starting the other processes.

    Under torchrun, and in those others, rank and size come from the environment.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", str(wanted)))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world == 1:
        return Processes(device=device)
    peers: list[subprocess.Popen[bytes]] = []
    closing = threading.Event()
    if "RANK" not in os.environ:
        # Bound as long as it takes to be read: the next free port of this machine.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        job.work_dir.mkdir(parents=True, exist_ok=True)
        job_file = job.work_dir / "peers.json"
        job_file.write_text(job.model_dump_json())
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        os.environ.update(group)
        command = [sys.executable, "-m", _MODULE, str(job_file)]
        peers = [_peer(command, group, rank) for rank in range(1, world)]
        threading.Thread(target=_watch, args=(peers, closing), name="peers", daemon=True).start()
    try:
        dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=_PATIENCE)
    except Exception:
        Processes(peers=peers, closing=closing).close(failed=True)
        raise
    return Processes(rank, world, device, peers, closing)


def _watch(peers: list[subprocess.Popen[bytes]], closing: threading.Event) -> None:
    """Ends this process when one of the others has died: it would wait for hours for an answer that will not come."""
    left = list(peers)
    while left and not closing.is_set():
        for peer in left:
            if peer.poll() not in (None, 0) and not closing.is_set():
                print(f"a training process ended with exit code {peer.returncode}", file=sys.stderr, flush=True)
                for other in peers:
                    other.kill()
                # No exception reaches a thread that waits inside the library.
                os._exit(1)
        left = [peer for peer in left if peer.returncode is None]
        time.sleep(0.5)


def _peer(command: Sequence[str], group: dict[str, str], rank: int) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != CHANNEL_VARIABLE}
    return subprocess.Popen(
        command,
        env={**environment, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        stdin=subprocess.DEVNULL,
        cwd=Path.cwd(),
    )
