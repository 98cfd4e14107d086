import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cultivar_runner.trainer.channel import Channel, InvalidConfig
from cultivar_runner.trainer.main import outcome_of
from cultivar_runner.trainer.messages import (
    Checkpoint,
    CheckpointFile,
    Epoch,
    Finished,
    Started,
    Validation,
    plain,
    trainer_message,
)


def pair() -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    return Channel(ours), theirs


def eventually(what: Any, limit_s: float = 5) -> bool:
    until = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def test_messages_are_one_json_object_a_line() -> None:
    channel, agent = pair()
    channel.send(Started(total_epochs=3))
    channel.send(Epoch(epoch=1, loss=math.nan, extra_metrics={"val_loss": math.inf, "lr": 0.5}))
    lines = agent.makefile("rb")
    assert json.loads(lines.readline()) == {"type": "started", "total_epochs": 3}
    epoch = json.loads(lines.readline())
    assert epoch["loss"] is None
    assert epoch["extra_metrics"] == {"val_loss": None, "lr": 0.5}


def test_commands_are_heard_and_unknown_ones_are_passed_over() -> None:
    channel, agent = pair()
    agent.sendall(b'{"type":"dance"}\nnonsense\n{"type":"checkpoint"}\n')
    assert eventually(channel.take_checkpoint_request)
    assert not channel.take_checkpoint_request()
    assert not channel.stop_requested
    agent.sendall(b'{"type":"stop"}\n')
    assert channel.wait_for_stop(5)
    assert not channel.agent_gone


def test_a_lost_agent_is_a_request_to_stop_and_sending_goes_nowhere() -> None:
    channel, agent = pair()
    agent.close()
    assert channel.wait_for_stop(5)
    assert channel.agent_gone
    channel.send(Started(total_epochs=1))


def test_a_channel_that_was_closed_by_its_own_side_asks_for_nothing() -> None:
    channel, agent = pair()
    channel.send(Finished(reason="done"))
    channel.close()
    assert b"finished" in agent.recv(1000)
    time.sleep(0.05)
    assert not channel.stop_requested


def test_values_of_numpy_become_json_values() -> None:
    np = pytest.importorskip("numpy")
    assert plain({1: np.float32(0.5), "m": np.array([[1, 2]]), "bad": np.float64("nan"), "t": (Path("/x"), None)}) == {
        "1": 0.5,
        "m": [[1, 2]],
        "bad": None,
        "t": ["/x", None],
    }
    with pytest.raises(TypeError):
        plain(object())
    assert Validation(data={"epoch": np.int64(2)}).data == {"epoch": 2}


def test_a_checkpoint_message_survives_its_way() -> None:
    sent = Checkpoint(
        epoch=2, role="best", files=[CheckpointFile(kind="model", path=Path("/a/best.onnx"), name="best.onnx")]
    )
    assert trainer_message.validate_json(sent.line()) == sent


def test_errors_have_the_reasons_of_the_protocol() -> None:
    assert outcome_of(InvalidConfig("advanced_config.x", "no")).message == "advanced_config.x: no"
    assert outcome_of(MemoryError()).reason == "oom"
    assert outcome_of(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")).reason == "oom"
    assert outcome_of(ValueError("x")).reason == "exit_nonzero"


SPEC = {
    "job_id": 1,
    "framework": "scripted",
    "model_name": "m",
    "task_type": "image_classification",
    "dataset_id": "d",
    "dataset_format": "dice",
    "num_classes": None,
    "class_names": None,
    "epochs": 1,
    "batch_size": 1,
    "learning_rate": 0.1,
    "advanced_config": None,
    "primary_metric": "accuracy",
    "primary_metric_mode": "max",
    "image_size": None,
}


def run_trainer(tmp_path: Path, source: str, spec: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    (tmp_path / "scripted_module.py").write_text(source)
    job = {"spec": spec, "data_dir": str(tmp_path), "work_dir": str(tmp_path), "module": "scripted_module"}
    (tmp_path / "job.json").write_text(json.dumps(job))
    address = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    child = subprocess.Popen(
        [sys.executable, "-m", "cultivar_runner.trainer", str(tmp_path / "job.json")],
        env={**os.environ, "CULTIVAR_CHANNEL": address, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"},
        start_new_session=True,
    )
    connection, _ = listener.accept()
    messages = [json.loads(line) for line in connection.makefile("rb")]
    return child.wait(20), messages


def test_a_trainer_process_ends_with_its_outcome(tmp_path: Path) -> None:
    code, messages = run_trainer(tmp_path, "def train(job, channel):\n    return 'done'\n", SPEC)
    assert (code, messages) == (0, [{"type": "finished", "reason": "done", "message": None}])


def test_an_exception_of_the_trainer_is_exit_nonzero(tmp_path: Path) -> None:
    code, messages = run_trainer(tmp_path, "def train(job, channel):\n    raise ValueError('bad luck')\n", SPEC)
    assert code == 1
    assert messages[-1]["reason"] == "exit_nonzero"
    assert "bad luck" in messages[-1]["message"]


def test_a_spec_that_cannot_be_read_names_its_field(tmp_path: Path) -> None:
    code, messages = run_trainer(tmp_path, "", {**SPEC, "epochs": "many"})
    assert code == 1
    assert messages[-1]["reason"] == "invalid_config"
    assert messages[-1]["message"].startswith("epochs:")
