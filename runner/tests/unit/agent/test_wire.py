from pathlib import Path

from cultivar_runner import wire
from tests.wire_models import MODELS, write_models


def test_the_types_are_those_of_the_schema(tmp_path: Path) -> None:
    write_models(tmp_path / "wire.py")
    assert MODELS.read_text() == (tmp_path / "wire.py").read_text(), "run: python -m tests.wire_models"


def test_a_server_that_says_more_or_less_is_understood() -> None:
    timers = wire.Timers.model_validate({"lease_s": 3, "new_in_2030": True})
    assert (timers.lease_s, timers.heartbeat_s) == (3, 15)


def test_what_may_be_null_may_be_missing() -> None:
    given = {"lease_s": 60, "desired": "run", "grace_s": 5, "ack_seq": 0, "server_time": "2026-01-01T00:00:00Z"}
    assert wire.HeartbeatAnswer.model_validate(given).skew_s is None


def test_numbers_that_are_missing_come_as_pairs() -> None:
    answer = wire.CallbackAnswer.model_validate({"status": "received", "job_id": 1, "missing": [[2, 4]]})
    assert answer.missing == [[2, 4]]
