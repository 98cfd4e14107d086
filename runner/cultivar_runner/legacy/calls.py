"""The HTTP calls of existing trainers, by path.

What they send goes to the translator, what they log to this process's output, which is the job's log.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

from .translate import Outcome, Translator, outcome_of_failure

Json = dict[str, Any]
Answer = tuple[int, Any]
Handler = Callable[[Any], Answer]

# Levels that people want to find among the errors.
TO_STDERR = ("ERROR", "CRITICAL", "FATAL")
# The plain callback's events that end a job.
ENDS = {"completed", "failed", "stopped"}


class Calls:
    """One job's calls. Thread-safe."""

    def __init__(self, job_id: int, translator: Translator) -> None:
        self._job_id = job_id
        self._translator = translator
        self._printing = threading.Lock()
        training, internal = r"/training/jobs/(\d+)", r"/internal/training/(\d+)"
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            ("POST", re.compile(rf"{training}/callback/progress"), self._progress),
            ("POST", re.compile(rf"{training}/callback/completion"), self._completion),
            ("POST", re.compile(rf"{training}/callback/logs?"), self._sdk_log),
            ("POST", re.compile(r"/validation/jobs/(\d+)/results"), self._sdk_validation),
            ("POST", re.compile(rf"{internal}/logs"), self._log),
            ("POST", re.compile(rf"{internal}/metrics"), self._metric),
            ("PATCH", re.compile(rf"{internal}/status"), self._status),
            ("GET", re.compile(rf"{internal}/health"), self._health),
            ("POST", re.compile(rf"{internal}/training-metrics"), self._training_metrics),
            ("POST", re.compile(rf"{internal}/validation-results"), self._validation),
            ("POST", re.compile(rf"{internal}/validation-image-results"), self._validation_images),
            ("POST", re.compile(r"/internal/training/callback"), self._callback),
        ]

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Answers a call. `path` comes without the token, with or without `/api/v1`.

        An existing trainer takes a 4xx to its first call as the end of the job, so only what can never be right is one.
        """
        known = False
        for verb, pattern, handler in self._routes:
            match = pattern.fullmatch(path.removeprefix("/api/v1").rstrip("/"))
            if match is None:
                continue
            known = True
            if verb != method:
                continue
            if match.groups() and int(match[1]) != self._job_id:
                return 404, {"detail": "Job not found"}
            try:
                # Python's own reader takes the bare NaN and Infinity that some clients write.
                data = json.loads(body) if body else {}
            except ValueError:
                return 422, {"detail": "the body is no JSON"}
            return handler(data)
        return (405, {"detail": "Method not allowed"}) if known else (404, {"detail": "Not found"})

    def _progress(self, data: Any) -> Answer:
        call = _object(data)
        self._translator.started(call.get("total_epochs"))
        metrics = call.get("metrics")
        if isinstance(metrics, dict):
            self._translator.epoch(call.get("current_epoch"), metrics)
        return 200, self._done("Progress received")

    def _completion(self, data: Any) -> Answer:
        call = _object(data)
        if call.get("status") == "failed":
            message = str(call.get("error_message") or "the trainer says that it failed")
            if call.get("traceback"):
                self._print("ERROR", str(call["traceback"]), None)
            self._translator.ended(outcome_of_failure(message))
        else:
            self._translator.ended(Outcome("done", ""))
        return 200, self._done("Completion received")

    def _sdk_log(self, data: Any) -> Answer:
        call = _object(data)
        self._print(str(call.get("level") or "INFO"), str(call.get("message") or ""), call.get("timestamp"))
        return 200, self._done("Log received")

    def _sdk_validation(self, data: Any) -> Answer:
        call = _object(data)
        number = self._translator.validation(call)
        return 200, {
            "status": "success",
            "validation_result_id": number,
            "job_id": self._job_id,
            "epoch": call.get("epoch"),
        }

    def _log(self, data: Any) -> Answer:
        call = _object(data)
        self._print(str(call.get("level") or "INFO"), str(call.get("message") or ""), call.get("timestamp"))
        return 200, {"status": "ok", "log_id": 0, "job_id": self._job_id}

    def _metric(self, data: Any) -> Answer:
        call = _object(data)
        self._translator.metric(call.get("epoch"), call.get("name"), call.get("value"))
        return 200, {"status": "ok", "metric_id": 0, "job_id": self._job_id}

    def _status(self, data: Any) -> Answer:
        call = _object(data)
        status = call.get("status")
        if status == "completed":
            self._translator.ended(Outcome("done", ""))
        elif status == "failed":
            self._translator.ended(outcome_of_failure(str(call.get("error") or "the trainer says that it failed")))
        return 200, {"status": "ok", "job_id": self._job_id, "new_status": status}

    def _health(self, _: Any) -> Answer:
        return 200, {"status": "healthy", "job_id": self._job_id, "job_status": self._state()}

    def _training_metrics(self, data: Any) -> Answer:
        call = _object(data)
        names = ("loss", "accuracy", "learning_rate", "extra_metrics")
        self._translator.epoch(call.get("epoch"), {name: call.get(name) for name in names})
        return 200, {"status": "ok", "job_id": self._job_id}

    def _validation(self, data: Any) -> Answer:
        number = self._translator.validation(_object(data))
        return 200, {"status": "ok", "validation_result_id": number, "job_id": self._job_id}

    def _validation_images(self, data: Any) -> Answer:
        images = data if isinstance(data, list) else _object(data).get("images", [])
        first = images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else {}
        return 200, {
            "status": "ok",
            "count": self._translator.validation_images(first.get("validation_result_id"), images),
        }

    def _callback(self, data: Any) -> Answer:
        call = _object(data)
        if call.get("job_id") != self._job_id:
            return 404, {"detail": "Job not found"}
        event, content = call.get("event"), _object(call.get("data"))
        if event == "started":
            self._translator.started(content.get("total_epochs"))
        elif event == "epoch_complete":
            self._translator.epoch(content.get("epoch"), content)
        elif event == "validation":
            self._translator.validation({**content, "image_results": content.get("images")})
        elif event == "log":
            level = "ERROR" if content.get("stream") == "stderr" else "INFO"
            for line in content.get("lines") or []:
                self._print(level, str(line), content.get("timestamp"))
        elif event in ENDS:
            failed = outcome_of_failure(str(content.get("message") or content.get("error_message") or ""))
            self._translator.ended(failed if event == "failed" else Outcome("done", ""))
        return 200, {"status": "received", "job_id": self._job_id}

    def _done(self, message: str) -> Json:
        return {"success": True, "message": message, "job_status": self._state()}

    def _state(self) -> str:
        outcome = self._translator.outcome
        return "running" if outcome is None else "completed" if outcome.reason == "done" else "failed"

    def _print(self, level: str, message: str, timestamp: object) -> None:
        """A line of the job's log. Buffered lines come late, so each says when it was made."""
        stream = sys.stderr if level.upper() in TO_STDERR else sys.stdout
        stamp = f"{timestamp} " if isinstance(timestamp, str) else ""
        with self._printing:
            print(f"{stamp}{level.upper()} {message}", file=stream, flush=True)


def _object(data: Any) -> Json:
    return data if isinstance(data, dict) else {}
