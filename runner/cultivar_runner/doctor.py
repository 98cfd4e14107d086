"""`cultivar-runner doctor`: looks whether this machine can train, and says what is missing."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from . import __version__
from .agent.api import USER_AGENT, reason_of
from .agent.backoff import parse_http_date
from .agent.machine import find_gpus
from .agent.registration import saved_servers

Verdict = Literal["ok", "warning", "error"]
GIB = 1024**3
# A checkpoint, a data set and their copies fit into this.
ENOUGH_DISK_BYTES = 20 * GIB
LITTLE_DISK_BYTES = 2 * GIB
SKEW_WARNING_S = 30.0
REACH_TIMEOUT_S = 10.0
LIBRARIES = ("torch", "torchvision", "timm", "ultralytics", "onnx", "onnxruntime", "httpx", "pydantic")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    verdict: Verdict
    text: str


def check_python() -> Finding:
    """The interpreter."""
    good = sys.version_info >= (3, 11)
    text = f"{platform.python_version()}, cultivar-runner {__version__}"
    return Finding("Python", "ok" if good else "error", text if good else f"{text}: 3.11 or newer is needed")


def check_libraries() -> list[Finding]:
    """Versions of what trains."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    frameworks = [name for name in ("timm", "ultralytics") if importlib.util.find_spec(name) is not None]
    if frameworks:
        verdict = Finding("Frameworks", "ok", ", ".join(frameworks))
    else:
        verdict = Finding(
            "Frameworks", "error", "neither timm nor ultralytics: pip install 'cultivar-runner[timm,ultralytics]'"
        )
    return [verdict, Finding("Versions", "ok", ", ".join(found))]


def check_gpus(wanted: list[str] | None) -> list[Finding]:
    """The devices, and whether torch can use them. Asked in a process of its own: CUDA stays where it was started."""
    gpus = find_gpus(wanted)
    if not gpus:
        text = "no NVIDIA device: jobs are trained on the CPU"
        return [Finding("GPU", "warning", text)]
    findings = [Finding("GPU", "ok", f"{gpu.index}: {gpu.model}, {gpu.vram_mb / 1024:.0f} GiB") for gpu in gpus]
    if importlib.util.find_spec("torch") is not None:
        code = (
            "import torch; n = torch.cuda.device_count(); "
            "x = [float(torch.ones(8, device=i).sum()) for i in range(n)]; print(n, torch.version.cuda)"
        )
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        if answer.returncode != 0:
            last = (answer.stderr.strip().splitlines() or ["no word"])[-1]
            findings.append(Finding("CUDA", "error", f"torch cannot use the devices: {last}"))
        else:
            count, version = answer.stdout.split()
            enough = int(count) >= len(gpus)
            text = f"torch sees {count} of {len(gpus)} devices, CUDA {version}"
            findings.append(Finding("CUDA", "ok" if enough else "error", text))
    return findings


def check_disk(state_dir: Path) -> Finding:
    """Room for data sets and checkpoints, and the right to write."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = state_dir / f".doctor-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        free = shutil.disk_usage(state_dir).free
    except OSError as error:
        return Finding("Disk", "error", f"{state_dir}: {error}")
    verdict: Verdict = "ok" if free >= ENOUGH_DISK_BYTES else "warning" if free >= LITTLE_DISK_BYTES else "error"
    others = "" if state_dir.stat().st_mode & 0o077 == 0 else "; other users can look into it: chmod 700"
    return Finding("Disk", "warning" if others and verdict == "ok" else verdict, f"{free / GIB:.1f} GiB free{others}")


def check_memory() -> Finding:
    """Main memory; data loaders use /dev/shm."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{total / GIB:.0f} GiB memory, {os.cpu_count()} cores"
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        text += f", {size / GIB:.1f} GiB /dev/shm"
        if size < GIB:
            return Finding("Machine", "warning", f"{text}: too small for data loaders, docker run --shm-size=8g")
    return Finding("Machine", "ok", text)


async def check_server(url: str, state_dir: Path) -> list[Finding]:
    """Whether the server answers, how far the clocks are apart, and whether it knows this machine."""
    findings: list[Finding] = []
    started = time.monotonic()
    try:
        async with httpx.AsyncClient(headers={"user-agent": USER_AGENT}, timeout=REACH_TIMEOUT_S) as http:
            answer = await http.get(f"{url}/healthz")
            runner = saved_servers(state_dir).get(url)
            # A claim that asks for nothing tells whether the token is good.
            token_answer = (
                None
                if runner is None
                else await http.post(
                    f"{url}/api/v1/internal/runners/offline",
                    headers={"authorization": f"Bearer {runner.runner_token}"},
                    json={"instance_id": "doctor"},
                )
            )
    except httpx.HTTPError as error:
        return [Finding("Server", "error", f"{url}: {reason_of(error)}")]
    took_ms = (time.monotonic() - started) * 1000
    good = answer.status_code == 200
    findings.append(Finding("Server", "ok" if good else "error", f"{url}: {answer.status_code} in {took_ms:.0f} ms"))
    sent_at = parse_http_date(answer.headers.get("date"))
    if sent_at is not None:
        skew_s = sent_at.timestamp() - time.time()
        off = abs(skew_s) > SKEW_WARNING_S
        text = f"{skew_s:+.0f} s to the server's" + ("; jobs run, but times in logs are off" if off else "")
        findings.append(Finding("Clock", "warning" if off else "ok", text))
    if token_answer is None:
        findings.append(Finding("Runner", "warning", "not registered there: cultivar-runner register"))
    elif token_answer.status_code == 204:
        findings.append(Finding("Runner", "ok", "registered, the token is good"))
    else:
        findings.append(Finding("Runner", "error", f"the saved token is refused ({token_answer.status_code})"))
    return findings


def examine(url: str | None, state_dir: Path, gpus: list[str] | None, on_finding: Callable[[Finding], None]) -> bool:
    """Makes all checks, each reported as it comes. Returns whether nothing is in the way of work."""
    all_good = True

    def report(finding: Finding) -> None:
        nonlocal all_good
        all_good = all_good and finding.verdict != "error"
        on_finding(finding)

    report(check_python())
    for finding in [*check_libraries(), *check_gpus(gpus), check_disk(state_dir), check_memory()]:
        report(finding)
    if url is not None:
        for finding in asyncio.run(check_server(url, state_dir)):
            report(finding)
    return all_good
