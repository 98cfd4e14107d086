"""The real Worker (`wrangler dev`, own port and folder), and a user of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

# Another checkout may be served: a server reloads when its sources are edited.
ROOT = Path(os.environ.get("CULTIVAR_SERVER_ROOT") or Path(__file__).parents[3])
EMAIL, PASSWORD = "user@example.com", "password123"
Json = dict[str, Any]


class FlowServer:
    """A server of its own, gone with `close`. `timers` replace those of the protocol, in seconds."""

    def __init__(self, timers: Mapping[str, float] | None = None) -> None:
        binaries = ROOT / "node_modules" / ".bin"
        node = binaries / "node"
        self._child = subprocess.Popen(
            [str(node) if node.exists() else "node", "test/flows/support/serve.ts", json.dumps(dict(timers or {}))],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        self.url: str = ready["url"]
        self.folder = Path(ready["folder"])

    def kill(self) -> None:
        """As a power cut would."""
        self._say("kill")

    def start(self) -> None:
        """Serves the same storage on the same port again."""
        self._say("start")

    def output(self) -> str:
        """What it said last."""
        return str(self._say("output")["output"])

    def close(self) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(30)
        self._child.stdout.close()

    def _say(self, word: str) -> Json:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{word}\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> Json:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {self._child.wait(10)}")
        return dict(json.loads(line))


class User:
    """The local user, over HTTP."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=30)
        answer = self.call("POST", "/auth/login", json={"email": EMAIL, "password": PASSWORD})
        self._http.headers["authorization"] = f"Bearer {answer['access_token']}"

    def call(self, method: str, path: str, **options: Any) -> Any:
        """A call that has to work. The server may be away for a moment."""
        response = self._http.request(method, path, **options)
        assert response.status_code < 300, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def create_job(self, config: Json, **body: Any) -> int:
        """A job of the local dataset unless told otherwise."""
        return int(self.call("POST", "/training/jobs", json={"config": config, **body})["id"])

    def start(self, job_id: int, query: str = "") -> Json:
        """Starts a job; a runner that has just begun to live gets a few seconds."""
        for _ in range(100):
            response = self._http.post(f"/training/jobs/{job_id}/start{query}")
            if response.status_code != 503:
                break
            time.sleep(0.2)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def stop(self, job_id: int) -> Json:
        return dict(self.call("POST", f"/training/stop/{job_id}"))

    def job(self, job_id: int) -> Json:
        return dict(self.call("GET", f"/training/jobs/{job_id}"))

    def metrics(self, job_id: int) -> list[Json]:
        return list(self.call("GET", f"/training/jobs/{job_id}/metrics?limit=10000"))

    def logs(self, job_id: int) -> list[Json]:
        return list(self.call("GET", f"/training/jobs/{job_id}/logs?limit=5000"))

    def checkpoints(self, job_id: int) -> Any:
        return self.call("GET", f"/training/jobs/{job_id}/checkpoints")

    def download(self, path: str) -> bytes:
        """The bytes of an answer."""
        response = self._http.get(path)
        assert response.status_code == 200, response.text
        return response.content

    def registration_token(self, uses: int = 1) -> str:
        answer = self.call("POST", "/runners/tokens", json={"uses": uses, "ttl_s": 600})
        return str(answer["registration_token"])

    def until(self, job_id: int, wanted: Callable[[Json], bool], patience_s: float = 90) -> Json:
        """Waits until the job is as wanted."""
        job: Json | None = None
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at:
            try:
                job = self.job(job_id)
            except httpx.TransportError:
                job = None  # A server that is being restarted has no answer.
            if job is not None and wanted(job):
                return job
            time.sleep(0.1)
        raise AssertionError(f"the job is still {job}")

    def upload_dataset(self, name: str, format: str, files: Mapping[str, bytes]) -> str:
        """A dataset of a zip; returns its id."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        answer = self.call(
            "POST",
            "/datasets",
            data={"name": name, "format": format},
            files={"files": (f"{name}.zip", buffer.getvalue(), "application/zip")},
        )
        return str(answer["id"])
