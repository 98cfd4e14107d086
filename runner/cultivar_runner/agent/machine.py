"""What this machine has: devices, name of the system."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

QUERY_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class GpuInfo:
    """A device of this machine."""

    index: str
    uuid: str
    model: str
    vram_mb: int


def parse_gpus(text: str) -> list[GpuInfo]:
    """The devices in the answer of nvidia-smi (index, uuid, name, memory.total; csv without units). Pure."""
    gpus: list[GpuInfo] = []
    for line in text.splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) < 4 or not fields[-1].isdigit():
            continue
        gpus.append(GpuInfo(fields[0], fields[1], ", ".join(fields[2:-1])[:200], int(fields[-1])))
    return gpus


def find_gpus(wanted: Sequence[str] | None) -> list[GpuInfo]:
    """The NVIDIA devices of this machine, or the wanted ones of them.

    `wanted` None: those that CUDA_VISIBLE_DEVICES leaves. Asks the driver's own tool, not torch: the agent has no use
    for a CUDA context.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None or (wanted is not None and not wanted):
        return []
    try:
        answer = subprocess.run(
            [tool, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=QUERY_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = parse_gpus(answer)
    if wanted is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return gpus
        wanted = [part.strip() for part in visible.split(",") if part.strip()]
    return [
        gpu for gpu in gpus if gpu.index in wanted or any(gpu.uuid.startswith(name) for name in wanted if len(name) > 4)
    ]


def divide(devices: Sequence[str], slots: int) -> list[list[str]]:
    """The devices of each slot: as even as it goes, and shared when there are more slots than devices. Pure."""
    if not devices:
        return [[] for _ in range(slots)]
    return [list(devices[slot::slots]) or [devices[slot % len(devices)]] for slot in range(slots)]


# The names that the embedded runner's system uses for the same.
ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}


def machine_labels() -> dict[str, str]:
    """Labels that say what machine this is; a job may ask for them."""
    machine = platform.machine().lower()
    return {"platform": sys.platform, "arch": ARCHITECTURES.get(machine, machine)}


def describe_system() -> str:
    """For people, in the list of runners."""
    return f"{platform.system().lower()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores"[:200]
