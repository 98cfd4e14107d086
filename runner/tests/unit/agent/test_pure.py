from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from cultivar_runner.agent.backoff import Backoff, jittered, parse_retry_after, retry_delay
from cultivar_runner.agent.dataset.plan import CacheEntry, fault_of_manifest, segments_of, to_evict
from cultivar_runner.agent.lease import Ending
from cultivar_runner.agent.log_chunker import LogChunker
from cultivar_runner.agent.machine import divide, parse_gpus
from cultivar_runner.agent.mask import LONGEST_SECRET, create_mask
from cultivar_runner.agent.outbox.batch import Cursor, advance, next_batch
from cultivar_runner.agent.outbox.frame import encode_record, scan_records
from cultivar_runner.agent.report import PAGE_IMAGES, TrainerEnd, ending_of, events_of, last_event
from cultivar_runner.agent.uploads import StoredFile, resolved_manifest
from cultivar_runner.config import EXEC_MODULE, UsageError, checked_url, read_gpus, read_labels, read_trainers
from cultivar_runner.trainer.messages import Epoch, Finished, Started, Validation
from cultivar_runner.wire import File

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_delays_grow_up_to_the_cap_with_full_jitter() -> None:
    backoff = Backoff(1, 60)
    assert [retry_delay(backoff, n, 1) for n in (0, 1, 2, 10, 5000)] == [1, 2, 4, 60, 60]
    assert retry_delay(backoff, 3, 0) == 0


def test_a_retry_after_is_the_earliest_moment() -> None:
    assert retry_delay(Backoff(1, 60), 5, 0, 7) == 7
    assert retry_delay(Backoff(1, 60), 5, 1, 7) == 8
    assert retry_delay(Backoff(1, 60), 0, 0, 1e9) == 3600


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("5", 5), ("soon", None), ("-5", None), ("Thu, 01 Jan 2026 00:00:09 GMT", 9), ("", None)],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


def test_intervals_differ_by_a_fifth() -> None:
    assert [round(jittered(10, chance), 6) for chance in (0, 0.5, 1)] == [8, 10, 12]


def test_tokens_are_masked_by_value_and_by_form() -> None:
    mask = create_mask(["my-very-secret"])
    job_token = "eyJhbGciOiJI.eyJqb2IiOjEsIn0.c2lnbmF0dXJl"
    text = f"a my-very-secret b {job_token} c cvrun_{'a1' * 20} Bearer {'x' * 20}"
    assert mask(text) == "a [masked] b [masked] c [masked] Bearer [masked]"
    assert mask("a short bearer of news") == "a short bearer of news"


def chunker(size: int = LONGEST_SECRET + 100) -> LogChunker:
    return LogChunker(size, create_mask(["topsecret-value"]))


def test_chunks_hold_whole_lines_and_characters() -> None:
    cut = chunker()
    data = "가나다\nabc".encode()
    assert [cut.push(data[:2]), cut.push(data[2:])] == [[], []]
    assert cut.flush() == "가나다\n"
    assert cut.flush() is None
    assert cut.end() == ["abc"]


def test_a_secret_that_comes_in_two_pieces_is_masked() -> None:
    cut = chunker()
    cut.push(b"x topsecr")
    cut.push(b"et-value y\n")
    assert cut.flush() == "x [masked] y\n"


def test_a_line_without_end_is_cut_and_loses_nothing() -> None:
    cut = chunker()
    text = "0123456789" * 2_000
    chunks = [chunk for start in range(0, len(text), 700) for chunk in cut.push(text[start : start + 700].encode())]
    chunks += cut.end()
    assert "".join(chunks) == text
    assert max(len(chunk.encode()) for chunk in chunks) <= LONGEST_SECRET + 100


def test_many_lines_become_chunks_of_the_allowed_size() -> None:
    cut = chunker()
    text = "".join(f"line {n}\n" for n in range(5_000))
    chunks = cut.push(text.encode()) + cut.end()
    assert "".join(chunks) == text
    assert all(chunk.endswith("\n") and len(chunk) <= LONGEST_SECRET + 100 for chunk in chunks)


def test_of_a_progress_bar_only_its_last_state_is_kept() -> None:
    cut = chunker()
    for percent in range(101):
        cut.push(f"\r{percent}%".encode())
    cut.push(b"\ndone\r")
    cut.push(b"\nbare\r\n")
    assert cut.flush() == "100%\ndone\nbare\n"


def test_a_line_of_the_agent_goes_between_two_lines() -> None:
    cut = chunker()
    cut.push(b"one\ntw")
    cut.insert("[runner] note\nwith a break")
    cut.push(b"o\n")
    assert cut.flush() == "one\n[runner] note with a break\ntwo\n"


def test_a_damaged_or_cut_record_costs_only_itself() -> None:
    records = [encode_record({"seq": n, "text": "x\u2028y"}) for n in (1, 2, 3)]
    damaged = records[1].replace(b"x", b"z")
    scan = scan_records(records[0] + damaged + b"\n" + records[2] + records[0][:-5])
    assert [place.seq for place in scan.places] == [1, 3]
    assert scan.damaged == 1
    assert scan.whole_bytes == sum(map(len, records)) + 1


def test_records_look_as_those_of_the_embedded_agent() -> None:
    # The number is that of Node's zlib.crc32 for the same text.
    assert encode_record({"seq": 1}) == b'a589bc6d {"seq":1}\n'


def test_batches_begin_with_what_is_missing_and_keep_their_limits() -> None:
    cursor = Cursor(acked=2, sent=6, missing=((3, 4),))
    assert next_batch(cursor, 9, 10, 1_000, lambda seq: 10) == [3, 4, 7, 8, 9]
    assert next_batch(cursor, 9, 2, 1_000, lambda seq: 10) == [3, 4]
    assert next_batch(cursor, 9, 10, 30, lambda seq: 10) == [3, 4]
    assert next_batch(cursor, 9, 10, 5, lambda seq: 10) == [3]
    assert next_batch(Cursor(9, 9), 9, 10, 100, lambda seq: 10) == []


def test_the_cursor_follows_the_servers_word_also_backwards() -> None:
    assert advance(Cursor(0, 0), [1, 2, 3], 3, []) == Cursor(3, 3)
    assert advance(Cursor(5, 8), [6, 7, 8], 2, []) == Cursor(2, 8, ((3, 8),))
    assert advance(Cursor(0, 5), [4, 5], 2, [[3, 3], [9, 12]]) == Cursor(2, 5, ((3, 3),))


def test_messages_become_events_under_the_contracts_names() -> None:
    assert events_of(Started(total_epochs=3)) == [{"event": "started", "data": {"total_epochs": 3}}]
    [event] = events_of(Epoch(epoch=1, loss=0.5, learning_rate=0.1, extra_metrics={"val_loss": 1.0}))
    assert event["data"] == {
        "epoch": 1,
        "loss": 0.5,
        "accuracy": None,
        "learning_rate": 0.1,
        "extra_metrics": {"val_loss": 1.0},
    }


def test_images_of_a_validation_are_paged_by_number_and_size() -> None:
    data = {"epoch": 2, "task_type": "t", "images": [{"image_name": str(n)} for n in range(1_200)]}
    first, *pages = events_of(Validation(data=data))
    assert (first["event"], len(first["data"]["images"]), first["data"]["epoch"]) == ("validation", PAGE_IMAGES, 2)
    assert [(page["data"]["offset"], len(page["data"]["images"])) for page in pages] == [(500, 500), (1000, 200)]
    fat = {"epoch": 1, "images": [{"x": "y" * 200_000} for _ in range(3)]}
    assert len(events_of(Validation(data=fat))) == 3
    assert events_of(Validation(data={"epoch": 1}))[0]["data"] == {"epoch": 1, "images": []}


@pytest.mark.parametrize(
    ("end", "intent", "event", "reason"),
    [
        (TrainerEnd(Finished(reason="done"), 0), None, "completed", "done"),
        (TrainerEnd(Finished(reason="done"), 0), "release", "completed", "done"),
        (TrainerEnd(Finished(reason="done"), 0), "stop", "stopped", "user_stop"),
        (TrainerEnd(Finished(reason="user_stop"), 0), "release", "released", "runner_shutdown"),
        # The system, not the user, asked the trainer to stop.
        (TrainerEnd(Finished(reason="user_stop"), 0), None, "released", "runner_shutdown"),
        (TrainerEnd(Finished(reason="invalid_config", message="x: y"), 1), None, "failed", "invalid_config"),
        (TrainerEnd(None, 3, stderr_tail=("boom",)), None, "failed", "exit_nonzero"),
        (TrainerEnd(None, None, "SIGKILL"), None, "failed", "exit_nonzero"),
        (TrainerEnd(None, None, "SIGKILL"), "stop", "stopped", "user_stop"),
        (TrainerEnd(None, None, "SIGKILL"), "release", "released", "runner_shutdown"),
    ],
)
def test_the_end_of_a_trainer_has_one_meaning(end: TrainerEnd, intent: object, event: str, reason: str) -> None:
    ending = ending_of(end, intent)  # type: ignore[arg-type]
    assert (ending.event, ending.reason) == (event, reason)


def test_a_death_without_a_last_word_shows_the_last_lines() -> None:
    ending = ending_of(TrainerEnd(None, 3, stderr_tail=("one", "two")), None)
    assert ending.message == "the trainer ended with exit code 3 and without a last word\none\ntwo"


def test_the_last_event_counts_the_log_and_names_what_was_not_stored() -> None:
    ending = Ending(event="completed", reason="done", exit_code=0)
    data = last_event(ending, {"stdout": 2, "stderr": 0}, 1, ["best.onnx was not stored"])["data"]
    assert data["log_chunks"] == {"stdout": 2, "stderr": 0}
    assert (data["chunks_failed"], data["message"]) == (1, "best.onnx was not stored")


def file(path: str, sha256: str = "a" * 64) -> File:
    return File(file_id=1, path=path, size=1, sha256=sha256)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        ".",
        "",
        "a//b",
        "a/./b",
        "C:/x",
        "c:x",
        "a\\b",
        "a\0b",
        "a\nb",
        "./a",
        "a/\uff0e\uff0e/b",
        "e\u0301.png",
        "x" * 300,
    ],
)
def test_a_name_that_could_leave_the_folder_or_stand_for_another_is_refused(path: str) -> None:
    assert fault_of_manifest([file(path)]) is not None


def test_ordinary_names_are_taken_and_contradictions_are_not() -> None:
    names = ["train/cat/1.png", "val/고양이/사진 1.png", "a/b/..c/d...e.png"]
    assert fault_of_manifest([file(name) for name in names]) is None
    assert fault_of_manifest([file("a"), file("a")]) is not None
    assert fault_of_manifest([file("a"), file("a/b")]) is not None
    assert fault_of_manifest([file("a", "../../x")]) is not None


def test_the_least_recently_used_goes_first_and_nothing_in_use() -> None:
    entries = [
        CacheEntry(Path("new"), 10, 9, False),
        CacheEntry(Path("old"), 10, 1, False),
        CacheEntry(Path("used"), 10, 0, True),
        CacheEntry(Path("middle"), 10, 5, False),
    ]
    chosen = {limit: [entry.path.name for entry in to_evict(entries, limit)] for limit in (40, 30, 15, 0)}
    assert chosen == {40: [], 30: ["old"], 15: ["old", "middle", "new"], 0: ["old", "middle", "new"]}


def test_segments_cover_a_file_once() -> None:
    segments = segments_of(1_001, 4)
    assert segments[0].start == 0 and segments[-1].end == 1_001
    assert all(left.end == right.start for left, right in pairwise(segments))


def test_a_model_refers_to_its_weights_by_their_artifact() -> None:
    manifest = {"schema": 1, "external_data": [{"path": "best.bin", "file": "best.bin"}]}
    stored = StoredFile(kind="file", name="best.bin", artifact_id="id-1", stored=True)
    resolved = resolved_manifest(manifest, [stored])
    assert resolved == {"schema": 1, "external_data": [{"path": "best.bin", "artifact_id": "id-1"}]}
    with pytest.raises(ValueError, match=r"best\.bin"):
        resolved_manifest(manifest, [stored.model_copy(update={"stored": False})])
    assert resolved_manifest({"schema": 1}, []) == {"schema": 1}


def test_the_drivers_table_is_read_with_commas_in_names() -> None:
    text = "0, GPU-1, NVIDIA H100, 80GB HBM3, 81559\n1, GPU-2, Tesla T4, 15360\nNo devices\n"
    assert [(gpu.index, gpu.model, gpu.vram_mb) for gpu in parse_gpus(text)] == [
        ("0", "NVIDIA H100, 80GB HBM3", 81559),
        ("1", "Tesla T4", 15360),
    ]


def test_slots_share_the_devices() -> None:
    assert divide(["0", "1", "2", "3"], 1) == [["0", "1", "2", "3"]]
    assert divide(["0", "1", "2"], 2) == [["0", "2"], ["1"]]
    assert divide(["0"], 2) == [["0"], ["0"]]
    assert divide([], 2) == [[], []]


def test_urls_are_checked_before_a_token_travels() -> None:
    assert checked_url("https://example.com/") == "https://example.com"
    assert checked_url("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
    assert checked_url("http://[::1]:8000") == "http://[::1]:8000"
    assert checked_url("http://gpu.example", insecure_http=True) == "http://gpu.example"
    for bad in ("http://example.com", "ftp://example.com", "https://u:p@example.com", "https://", "x", "https://a:b"):
        with pytest.raises(UsageError):
            checked_url(bad)


def test_devices_labels_and_trainers_of_the_command_line() -> None:
    assert (read_gpus(None), read_gpus("all"), read_gpus("none"), read_gpus("0,2")) == (None, None, [], ["0", "2"])
    for bad in ("0,0", "zero", "0;rm"):
        with pytest.raises(UsageError):
            read_gpus(bad)
    assert read_labels(["room=a b", "x="]) == {"room": "a b", "x": ""}
    with pytest.raises(UsageError):
        read_labels(["nothing"])
    assert read_trainers(["mine=my.module"])["mine"].module == "my.module"
    with pytest.raises(UsageError):
        read_trainers(["mine"])


def test_a_command_takes_the_place_of_the_packages_trainers() -> None:
    trainers = read_trainers([], "python train.py")
    assert sorted(trainers) == ["timm", "ultralytics"]
    assert trainers["timm"].module == EXEC_MODULE
    assert trainers["timm"].options == {"command": "python train.py"}
    assert list(read_trainers([], "x", ["other"])) == ["other"]
    assert "timm" not in read_trainers([], None, ["ultralytics"])
    with pytest.raises(UsageError):
        read_trainers([], "x", ["no name"])
