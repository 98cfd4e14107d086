"""What existing trainers send, replayed as they send it."""

from __future__ import annotations

from typing import Any

import pytest

from cultivar_runner.legacy.calls import Calls
from cultivar_runner.legacy.translate import Translator, outcome_of_failure
from cultivar_runner.trainer.messages import Epoch, Message, Started, Validation

JOB = 5


class Wire:
    """One job's calls, and what became of them."""

    def __init__(self, resumed_after: int = 0) -> None:
        self.sent: list[Message] = []
        self.translator = Translator(self.sent.append, resumed_after)
        self.calls = Calls(JOB, self.translator)

    def call(self, method: str, path: str, body: Any) -> Any:
        import json

        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer = self.calls.answer(method, path, text)
        assert status == 200, (status, answer)
        return answer

    def progress(self, epoch: int, metrics: Any, total: int = 3) -> Any:
        body = {
            "job_id": JOB,
            "status": "running",
            "current_epoch": epoch,
            "total_epochs": total,
            "progress_percent": 100 * epoch / total,
            "metrics": metrics,
        }
        return self.call("POST", f"/api/v1/training/jobs/{JOB}/callback/progress", body)

    def completion(self, status: str, **more: Any) -> Any:
        body = {"job_id": JOB, "status": status, "total_epochs_completed": 3, "exit_code": 0, **more}
        return self.call("POST", f"/api/v1/training/jobs/{JOB}/callback/completion", body)

    def metric(self, epoch: int | None, name: str, value: float) -> Any:
        body = {"name": name, "value": value, "epoch": epoch, "step": None, "metadata": {}, "timestamp": "2025-11-06"}
        return self.call("POST", f"/internal/training/{JOB}/metrics", body)

    @property
    def epochs(self) -> list[Epoch]:
        return [message for message in self.sent if isinstance(message, Epoch)]

    @property
    def validations(self) -> list[dict[str, Any]]:
        return [message.data for message in self.sent if isinstance(message, Validation)]


def sdk_metrics(loss: float | None, **more: float) -> dict[str, Any]:
    return {"loss": loss, "accuracy": None, "learning_rate": None, "extra_metrics": {"loss": loss, **more}}


def test_a_job_of_sdk_2_is_told_in_the_runner_s_own_words() -> None:
    wire = Wire()
    wire.progress(0, None)
    answer = wire.progress(1, {"loss": 0.5, "accuracy": 0.25, "learning_rate": 0.01, "extra_metrics": {"val/box": 2}})
    wire.progress(2, sdk_metrics(0.4, lr=0.005, **{"mAP50-95": 0.3, "metrics/mAP50(B)": 0.5}))
    assert answer == {"success": True, "message": "Progress received", "job_status": "running"}
    wire.completion("completed")
    assert isinstance(wire.sent[0], Started)
    assert [message.model_dump(exclude={"type"}) for message in wire.epochs] == [
        {"epoch": 1, "loss": 0.5, "accuracy": 0.25, "learning_rate": 0.01, "extra_metrics": {"val/box": 2}},
        {
            "epoch": 2,
            "loss": 0.4,
            "accuracy": 0.3,
            "learning_rate": 0.005,
            "extra_metrics": {"lr": 0.005, "mAP50-95": 0.3, "metrics/mAP50(B)": 0.5},
        },
    ]
    assert wire.translator.outcome is not None and wire.translator.outcome.reason == "done"


def test_an_identical_retry_changes_nothing() -> None:
    wire = Wire()
    for _ in range(4):
        wire.progress(0, None)
        wire.progress(1, sdk_metrics(0.5))
    assert len(wire.sent) == 2


def test_the_first_word_about_the_end_counts() -> None:
    wire = Wire()
    wire.completion("completed")
    wire.completion("failed", error_message="[NetworkError] no answer", exit_code=1)
    assert wire.translator.outcome is not None and wire.translator.outcome.reason == "done"
    wire = Wire()
    wire.completion("failed", error_message="[ResourceError] CUDA out of memory", exit_code=1)
    wire.completion("completed")
    assert wire.translator.outcome is not None and wire.translator.outcome.reason == "oom"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("[ConfigError] no such optimizer", "invalid_config"),
        ("[FrameworkError] CUDA out of memory. Tried to allocate", "oom"),
        ("[DatasetError] no images", "exit_nonzero"),
        ("something else", "exit_nonzero"),
    ],
)
def test_a_failure_has_a_reason(message: str, reason: str) -> None:
    outcome = outcome_of_failure(message)
    assert (outcome.reason, outcome.message) == (reason, message)


def test_bare_nan_is_a_value_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    wire = Wire()
    metrics = b'{"loss":NaN,"extra_metrics":{"x":Infinity,"y":-Infinity,"z":1}}'
    body = b'{"job_id":5,"current_epoch":1,"total_epochs":2,"metrics":' + metrics + b"}"
    wire.call("POST", f"/training/jobs/{JOB}/callback/progress", body)
    assert wire.epochs[0].loss is None
    assert wire.epochs[0].extra_metrics == {"x": None, "y": None, "z": 1}


def test_several_calls_of_the_mvp_logger_make_one_epoch() -> None:
    wire = Wire()
    for epoch in (1, 2):
        wire.metric(epoch, "train_loss", 1 / epoch)
        wire.metric(epoch, "val_accuracy", 0.5)
        wire.metric(epoch, "lr", 0.01)
        wire.metric(epoch, "epoch_time", 12.5)
    assert len(wire.epochs) == 1
    wire.call("PATCH", f"/internal/training/{JOB}/status", {"status": "completed", "error": None, "progress": 100})
    assert [(e.epoch, e.loss, e.accuracy, e.learning_rate) for e in wire.epochs] == [
        (1, 1.0, 0.5, 0.01),
        (2, 0.5, 0.5, 0.01),
    ]
    assert wire.epochs[0].extra_metrics["epoch_time"] == 12.5


def test_a_late_metric_completes_its_epoch() -> None:
    wire = Wire()
    wire.metric(1, "loss", 0.5)
    wire.metric(2, "loss", 0.4)
    wire.metric(1, "accuracy", 0.9)
    wire.translator.flush()
    assert [(e.epoch, e.loss, e.accuracy) for e in wire.epochs] == [(1, 0.5, None), (2, 0.4, None), (1, 0.5, 0.9)]


def test_percents_become_fractions_by_sender() -> None:
    wire = Wire()
    path = f"/internal/training/{JOB}/training-metrics"
    extra = {"val_accuracy": 87.5, "val_precision": 100.0}
    wire.call("POST", path, {"epoch": 1, "step": 10, "loss": 2.5, "accuracy": None, "extra_metrics": extra})
    # Known to be percent by now: half a percent, not fifty.
    wire.call("POST", path, {"epoch": 2, "loss": 2.0, "accuracy": None, "extra_metrics": {"val_accuracy": 0.5}})
    result = {"epoch": 1, "task_type": "classification", "metrics": {"accuracy": 1.0, "f1_score": 0.9}}
    wire.call("POST", f"/internal/training/{JOB}/validation-results", result)
    assert [e.accuracy for e in wire.epochs] == [0.875, 0.005]
    assert [e.loss for e in wire.epochs] == [2.5, 2.0]
    # The raw ones stay as they came.
    assert wire.epochs[0].extra_metrics["val_precision"] == 100.0
    assert wire.validations[0]["metrics"] == {"accuracy": 1.0, "f1_score": 0.9}


def test_a_true_zero_is_not_taken_for_nothing() -> None:
    wire = Wire()
    wire.progress(1, {"loss": 0.0, "accuracy": 0.0, "learning_rate": 0.0, "extra_metrics": {"val_accuracy": 0.7}})
    assert (wire.epochs[0].loss, wire.epochs[0].accuracy, wire.epochs[0].learning_rate) == (0.0, 0.0, 0.0)


def test_validation_epochs_that_begin_at_zero_are_counted_from_one() -> None:
    wire = Wire()
    for epoch in range(3):
        body = {"epoch": epoch, "task_type": "classification", "primary_metric_name": "accuracy", "metrics": {}}
        wire.call("POST", f"/internal/training/{JOB}/validation-results", body)
    assert [data["epoch"] for data in wire.validations] == [1, 2, 3]
    assert wire.validations[0]["task_type"] == "image_classification"
    # Whoever begins at one is left alone.
    wire = Wire()
    body = {
        "type": "validation",
        "job_id": JOB,
        "epoch": 3,
        "task_type": "detection",
        "metrics": {"mAP50": 0.5, "x": "y"},
    }
    wire.call("POST", f"/api/v1/validation/jobs/{JOB}/results", body)
    assert (wire.validations[0]["epoch"], wire.validations[0]["metrics"]) == (3, {"mAP50": 0.5})


def test_images_follow_their_result_by_its_number() -> None:
    wire = Wire()
    body = {"epoch": 1, "task_type": "detection", "metrics": {"mAP50": 0.1}}
    number = wire.call("POST", f"/internal/training/{JOB}/validation-results", body)["validation_result_id"]
    images = [
        {
            "validation_result_id": number,
            "epoch": 1,
            "image_path": "images/a.png",
            "top5_predictions": [3, 1],
            "true_boxes": [{"class_id": 0, "bbox": [0.5, 0.5, 0.1, 0.1]}],
            "iou": None,
            "is_correct": True,
        },
        "nonsense",
    ]
    answer = wire.call("POST", f"/internal/training/{JOB}/validation-image-results", images)
    assert answer == {"status": "ok", "count": 1}
    assert wire.validations[1]["epoch"] == 1
    assert wire.validations[1]["images"] == [
        {
            "image_name": "a.png",
            "image_path": "images/a.png",
            "top5_predictions": [3, 1],
            "is_correct": True,
            "extra_data": {"true_boxes": [{"class_id": 0, "bbox": [0.5, 0.5, 0.1, 0.1]}]},
        }
    ]


def test_logs_are_the_job_s_log_also_after_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    wire = Wire()
    wire.completion("completed")
    path = f"/training/jobs/{JOB}/callback/logs"
    line = {
        "job_id": JOB,
        "event_type": "log",
        "message": "all done",
        "level": "INFO",
        "timestamp": "2025-11-06T12:00:00",
    }
    assert wire.call("POST", path, line)["job_status"] == "completed"
    wire.call("POST", f"/internal/training/{JOB}/logs", {"message": "bad", "level": "ERROR", "timestamp": None})
    out, err = capsys.readouterr()
    assert (out, err) == ("2025-11-06T12:00:00 INFO all done\n", "ERROR bad\n")


def test_the_plain_callback_is_understood_too() -> None:
    wire = Wire()

    def event(name: str, data: dict[str, Any]) -> Any:
        body = {"job_id": JOB, "event": name, "data": data}
        return wire.call("POST", "/api/v1/internal/training/callback", body)

    event("started", {"total_epochs": 2})
    assert event(
        "epoch_complete", {"epoch": 1, "loss": 0.45, "accuracy": 0.85, "extra_metrics": {"val_loss": 0.5}}
    ) == {
        "status": "received",
        "job_id": JOB,
    }
    event("failed", {"message": "[ConfigError] no"})
    assert [type(message) for message in wire.sent] == [Started, Epoch]
    assert wire.translator.outcome is not None and wire.translator.outcome.reason == "invalid_config"


def test_epochs_that_the_server_has_from_an_earlier_attempt_are_not_told_again() -> None:
    wire = Wire(resumed_after=2)
    for epoch in (1, 2, 3):
        wire.progress(epoch, sdk_metrics(1 / epoch))
    assert [message.epoch for message in wire.epochs] == [3]


def test_calls_of_another_job_and_unknown_ones_are_refused_and_odd_bodies_are_not() -> None:
    wire = Wire()
    assert wire.calls.answer("POST", "/training/jobs/6/callback/progress", b"{}")[0] == 404
    assert wire.calls.answer("POST", "/training/jobs/5/elsewhere", b"{}")[0] == 404
    assert wire.calls.answer("GET", "/training/jobs/5/callback/progress", b"")[0] == 405
    assert wire.calls.answer("POST", "/training/jobs/5/callback/progress", b"{")[0] == 422
    for body in (b"[]", b"null", b'{"current_epoch":"x","metrics":[]}', b'{"current_epoch":-1,"metrics":{"loss":1}}'):
        assert wire.calls.answer("POST", "/training/jobs/5/callback/progress", body)[0] == 200
    assert wire.sent == []
    assert wire.calls.answer("GET", "/internal/training/5/health", b"")[1]["status"] == "healthy"
