"""The runner as its own process, as a person starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

RUNNER_ROOT = Path(__file__).parents[2]
SCRIPTED = "tests.support.scripted_trainer"


class RunnerProcess:
    """`cultivar-runner run` with a state folder of its own."""

    def __init__(self, url: str, state_dir: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.state_dir = state_dir
        command = [sys.executable, "-m", "cultivar_runner", "run", "--url", url, "--state-dir", str(state_dir)]
        self._child = subprocess.Popen(
            [*command, *arguments],
            cwd=RUNNER_ROOT,
            env={**os.environ, "PYTHONPATH": str(RUNNER_ROOT), "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def says(self, pattern: str, patience_s: float = 90) -> re.Match[str]:
        """Waits for something in its output."""
        give_up_at = time.monotonic() + patience_s
        while True:
            ended = self._child.poll() is not None and not self._reader.is_alive()
            match = re.search(pattern, self.output)
            if match is not None:
                return match
            assert not ended and time.monotonic() < give_up_at, f"it did not say {pattern}:\n{self.output}"
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def ended(self, patience_s: float = 90) -> int:
        """Its exit code."""
        try:
            code = self._child.wait(patience_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it did not end:\n{self.output}") from error
        self._reader.join(10)
        return code

    def close(self) -> None:
        """For the end of a test, whatever came before."""
        if self._child.poll() is None:
            self.signal(signal.SIGQUIT)
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._child.wait(10)
        self._reader.join(10)

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as stream:
            for line in stream:
                self._lines.append(line)


def eventually(what: object, patience_s: float = 20) -> bool:
    """Waits until a function says True."""
    assert callable(what)
    give_up_at = time.monotonic() + patience_s
    while not what():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.05)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process of this number exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
