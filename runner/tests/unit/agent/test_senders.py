"""Events, log chunks, uploads and heartbeat against a server that fails in every way."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cultivar_runner.agent.api import ApiError, Client, Retry
from cultivar_runner.agent.heartbeat import Heartbeat, Order
from cultivar_runner.agent.mask import create_mask
from cultivar_runner.agent.outbox.event_sender import EventSender
from cultivar_runner.agent.outbox.journal import Journal
from cultivar_runner.agent.outbox.log_shipper import LogShipper
from cultivar_runner.agent.uploads import Uploads
from cultivar_runner.trainer.messages import Checkpoint, CheckpointFile
from cultivar_runner.wire import HeartbeatAnswer, Limits, Timers
from tests.support.scripted_server import Call, Reply, ScriptedServer, json_reply, problem

Serve = Callable[[Callable[[Call], Reply]], ScriptedServer]


class Job:
    """The receiving side: keeps numbers as the protocol says."""

    def __init__(self) -> None:
        self.events: dict[int, dict[str, Any]] = {}
        self.faults: list[Reply] = []
        self.refuse: Callable[[dict[str, Any]], Reply | None] = lambda event: None
        self.lost_answers = 0

    def __call__(self, call: Call) -> Reply:
        if self.faults:
            return self.faults.pop(0)
        events = call.json["events"]
        for event in events:
            reply = self.refuse(event)
            if reply is not None:
                return reply
        for event in events:
            self.events.setdefault(event["seq"], event)
        if self.lost_answers > 0:
            self.lost_answers -= 1
            return Reply(drop=True)
        acked = 0
        while acked + 1 in self.events:
            acked += 1
        answer = {"status": "received", "job_id": 1, "ack_seq": acked, "missing": [], "rejected": [], "desired": "run"}
        return json_reply(answer)


def send_events(server: ScriptedServer, folder: Path, hasty: Retry, count: int, **limits: int) -> list[str]:
    rejected: list[str] = []

    async def work() -> None:
        client = Client(server.url)
        journal = Journal(folder, lambda error: None)
        sender = EventSender(
            client=client,
            job_id=1,
            token="t",
            journal=journal,
            limits=Limits(**limits),
            retry=hasty,
            on_desired=lambda desired: None,
            on_rejected=rejected.append,
        )
        for n in range(count):
            journal.append({"event": "epoch_complete", "data": {"epoch": n + 1}})
        running = asyncio.create_task(sender.run())
        try:
            async with asyncio.timeout(20):
                while sender.pending > 0 and not running.done():
                    await asyncio.sleep(0.01)
            if running.done():
                running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await journal.close()
            await client.close()

    asyncio.run(work())
    return rejected


def test_events_arrive_once_and_in_order_whatever_happens_on_the_way(
    serve: Serve, hasty: Retry, tmp_path: Path
) -> None:
    job = Job()
    job.faults = [problem(503, "X"), Reply(drop=True), Reply(502, b"proxy"), problem(429, "TOO_MANY_EVENTS")]
    job.lost_answers = 2
    server = serve(job)
    send_events(server, tmp_path, hasty, 25, events_per_batch=10)
    assert [job.events[n]["data"]["epoch"] for n in range(1, 26)] == list(range(1, 26))
    assert max(len(call.json["events"]) for call in server.calls) <= 10


def test_one_event_that_the_server_cannot_read_costs_no_other(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    job = Job()
    job.refuse = lambda event: problem(422, "VALIDATION_ERROR") if event["data"].get("epoch") == 4 else None
    rejected = send_events(serve(job), tmp_path, hasty, 9)
    assert sorted(job.events) == list(range(1, 10))
    assert job.events[4]["event"] == "log"
    assert "event 4 (epoch_complete) could not be stored" in rejected[0]


def test_a_stale_lease_ends_the_sending(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="STALE_LEASE"):
        send_events(serve(lambda call: problem(409, "STALE_LEASE")), tmp_path, hasty, 1)


def test_what_was_not_acknowledged_is_sent_after_a_restart(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    with pytest.raises(ApiError):
        send_events(serve(lambda call: problem(409, "STALE_LEASE")), tmp_path, hasty, 3)
    job = Job()
    send_events(serve(job), tmp_path, hasty, 1)
    assert sorted(job.events) == [1, 2, 3, 4]


def ship(server: ScriptedServer, folder: Path, hasty: Retry, data: bytes) -> LogShipper:
    async def work() -> LogShipper:
        client = Client(server.url)
        shipper = LogShipper(
            folder,
            stream="stdout",
            client=client,
            job_id=1,
            token="t",
            limits=Limits(log_chunk_bytes=4_000),
            mask=create_mask(),
            retry=hasty,
            on_trouble=lambda error: None,
        )
        running = asyncio.create_task(shipper.run())
        await shipper.write(data)
        await shipper.end()
        async with asyncio.timeout(20):
            while shipper.pending > 0:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await shipper.close()
        await client.close()
        return shipper

    return asyncio.run(work())


def test_log_chunks_are_numbered_and_the_same_after_a_fault(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    chunks: dict[int, bytes] = {}
    faults = [Reply(drop=True), problem(500, "X"), Reply(502, b"")]

    def answer(call: Call) -> Reply:
        seq = int(call.path.rsplit("/", 1)[1])
        assert chunks.setdefault(seq, call.body) == call.body
        return faults.pop(0) if faults else json_reply({"next_seq": seq + 1}, 201)

    data = b"".join(b"line %d\n" % n for n in range(3_000))
    shipper = ship(serve(answer), tmp_path, hasty, data)
    assert b"".join(chunks[n] for n in sorted(chunks)) == data
    assert (shipper.chunks, shipper.failed) == (len(chunks), 0)
    assert shipper.tail[-1] == "line 2999"


def test_a_chunk_that_the_server_refuses_is_counted_and_passed_over(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    def answer(call: Call) -> Reply:
        seq = int(call.path.rsplit("/", 1)[1])
        return problem(409, "LOG_CONFLICT") if seq == 1 else json_reply({"next_seq": seq + 1}, 201)

    shipper = ship(serve(answer), tmp_path, hasty, b"x" * 10_000)
    assert (shipper.chunks, shipper.failed) == (3, 1)


class Store:
    """The receiving side of uploads."""

    def __init__(self, part_size: int = 1_000) -> None:
        self.part_size = part_size
        self.created: list[dict[str, Any]] = []
        self.parts: dict[str, dict[int, bytes]] = {}
        self.complete: list[str] = []
        self.fault: Callable[[Call], Reply | None] = lambda call: None

    def __call__(self, call: Call) -> Reply:
        fault = self.fault(call)
        if fault is not None:
            return fault
        _, _, rest = call.path.partition("/artifacts")
        steps = rest.strip("/").split("/")
        if call.method == "POST" and rest == "":
            self.created.append(call.json)
            artifact_id = f"a{len(self.created)}"
            self.parts[artifact_id] = {}
            parts = max(1, -(-call.json["size"] // self.part_size))
            return json_reply({"artifact_id": artifact_id, "part_size": self.part_size, "parts": parts}, 201)
        artifact_id = steps[0]
        if call.method == "PUT":
            assert hashlib.sha256(call.body).hexdigest() == call.headers["x-part-sha256"]
            self.parts[artifact_id][int(steps[2])] = call.body
            return json_reply({"n": int(steps[2])})
        if call.method == "POST":
            self.complete.append(artifact_id)
            return json_reply({"artifact_id": artifact_id, "checkpoint_path": "x"})
        created = self.created[int(artifact_id[1:]) - 1]
        return json_reply(
            {
                "artifact_id": artifact_id,
                "state": "complete" if artifact_id in self.complete else "open",
                "kind": created["kind"],
                "name": created["name"],
                "size": created["size"],
                "sha256": created["sha256"],
                "epoch": 1,
                "role": None,
                "part_size": self.part_size,
                "parts": max(1, -(-created["size"] // self.part_size)),
                "received": sorted(self.parts[artifact_id]),
            }
        )

    def bytes_of(self, artifact_id: str) -> bytes:
        return b"".join(content for _, content in sorted(self.parts[artifact_id].items()))


def upload(
    server: ScriptedServer, folder: Path, hasty: Retry, messages: list[Checkpoint], limit_s: float = 20
) -> tuple[list[tuple[str, int, str]], list[str]]:
    stored: list[tuple[str, int, str]] = []
    notes: list[str] = []

    async def work() -> None:
        client = Client(server.url)

        async def on_stored(artifact_id: str, epoch: int, role: str) -> None:
            stored.append((artifact_id, epoch, role))

        uploads = Uploads(
            folder, client=client, job_id=1, token="t", retry=hasty, on_stored=on_stored, note=notes.append
        )
        for message in messages:
            await uploads.add(message)
        running = asyncio.create_task(uploads.run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while uploads.pending > 0 and not running.done():
                    await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()

    asyncio.run(work())
    return stored, notes


def checkpoint(path: Path, content: bytes, epoch: int = 1, name: str = "last.state") -> Checkpoint:
    path.write_bytes(content)
    return Checkpoint(epoch=epoch, role="last", files=[CheckpointFile(kind="checkpoint", path=path, name=name)])


def test_a_checkpoint_goes_in_parts_and_is_announced_when_complete(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    store = Store()
    content = os.urandom(4_500)
    stored, _ = upload(serve(store), tmp_path, hasty, [checkpoint(tmp_path / "f", content, 3)])
    assert stored == [("a1", 3, "last")]
    assert store.bytes_of("a1") == content
    assert store.created[0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_checkpoint_is_complete_only_after_the_events_before_it(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    store = Store()
    asked: list[int] = []

    async def work() -> None:
        client = Client(serve(store).url)
        acknowledged = asyncio.Event()

        async def reported(seq: int) -> None:
            asked.append(seq)
            await acknowledged.wait()

        async def on_stored(artifact_id: str, epoch: int, role: str) -> None:
            assert acknowledged.is_set()

        uploads = Uploads(
            tmp_path,
            client=client,
            job_id=1,
            token="t",
            retry=hasty,
            on_stored=on_stored,
            note=lambda line: None,
            reported=reported,
        )
        await uploads.add(checkpoint(tmp_path / "f", b"state"), after_seq=7)
        running = asyncio.create_task(uploads.run())
        async with asyncio.timeout(20):
            while not asked:
                await asyncio.sleep(0.01)
            # Its bytes are there, and nobody can resume from it yet.
            assert (store.bytes_of("a1"), store.complete) == (b"state", [])
            acknowledged.set()
            while uploads.pending > 0:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()

    asyncio.run(work())
    assert (asked, store.complete) == ([7], ["a1"])


def test_parts_whose_answers_are_lost_do_not_travel_twice(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    store = Store()
    lost: set[str] = set()

    def fault(call: Call) -> Reply | None:
        if call.method != "PUT" or call.path in lost:
            return None
        lost.add(call.path)
        store.fault = lambda call: None
        store(call)
        store.fault = fault
        return Reply(drop=True)

    store.fault = fault
    server = serve(store)
    content = os.urandom(3_500)
    stored, _ = upload(server, tmp_path, hasty, [checkpoint(tmp_path / "f", content)])
    assert store.bytes_of("a1") == content and len(stored) == 1
    assert len([call for call in server.calls if call.method == "PUT"]) == 4


def test_an_upload_goes_on_after_a_restart_though_the_trainer_deleted_its_file(
    serve: Serve, hasty: Retry, tmp_path: Path
) -> None:
    store = Store()
    content = os.urandom(5_000)
    message = checkpoint(tmp_path / "f", content)
    store.fault = lambda call: problem(503, "X") if call.path.endswith(("/parts/4", "/parts/5", "/complete")) else None
    stored, _ = upload(serve(store), tmp_path, hasty, [message], limit_s=1)
    assert stored == []
    (tmp_path / "f").unlink()
    store.fault = lambda call: None
    second = serve(store)
    stored, _ = upload(second, tmp_path, hasty, [])
    assert stored == [("a1", 1, "last")]
    assert store.bytes_of("a1") == content
    assert len([call for call in second.calls if call.method == "PUT"]) == 2


def test_an_upload_that_the_server_forgot_is_begun_anew(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    store = Store()
    gone = [problem(404, "ARTIFACT_NOT_FOUND")]
    store.fault = lambda call: gone.pop() if gone and call.method == "PUT" else None
    stored, notes = upload(serve(store), tmp_path, hasty, [checkpoint(tmp_path / "f", b"abc")])
    assert stored == [("a2", 1, "last")]
    assert notes == []


def test_the_newest_of_those_that_wait_replaces_the_others(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    store = Store()
    messages = [checkpoint(tmp_path / f"f{n}", b"%d" % n, n) for n in range(1, 6)]
    stored, _ = upload(serve(store), tmp_path, hasty, messages)
    assert [epoch for _, epoch, _ in stored] == [5]


def test_weights_go_before_the_graph_that_names_them(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    store = Store()
    (tmp_path / "best.bin").write_bytes(b"weights")
    (tmp_path / "best.onnx").write_bytes(b"graph")
    manifest = {"schema": 1, "external_data": [{"path": "best.bin", "file": "best.bin"}]}
    files = [
        CheckpointFile(kind="file", path=tmp_path / "best.bin", name="best.bin"),
        CheckpointFile(kind="model", path=tmp_path / "best.onnx", name="best.onnx", manifest=manifest),
    ]
    stored, _ = upload(serve(store), tmp_path, hasty, [Checkpoint(epoch=2, role="best", files=files)])
    assert stored == [("a2", 2, "best")]
    assert [created["name"] for created in store.created] == ["best.bin", "best.onnx"]
    assert store.created[1]["manifest"]["external_data"] == [{"path": "best.bin", "artifact_id": "a1"}]
    assert store.created[0].get("role") is None


def test_a_refused_file_is_named_and_the_others_go_on(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    store = Store()
    store.fault = lambda call: (
        problem(422, "VALIDATION_ERROR", "manifest") if call.method == "POST" and b"bad.onnx" in call.body else None
    )
    messages = [
        checkpoint(tmp_path / "bad", b"x", 1, "bad.onnx"),
        checkpoint(tmp_path / "good", b"y", 1, "good.onnx"),
    ]
    stored, notes = upload(serve(store), tmp_path, hasty, messages)
    assert len(stored) == 1
    assert "bad.onnx of epoch 1 could not be stored" in notes[0]


ANSWER = {
    "lease_s": 60,
    "desired": "run",
    "grace_s": 5,
    "ack_seq": 0,
    "server_time": "2026-01-01T00:00:00Z",
    "skew_s": None,
}


def heartbeat_of(server: ScriptedServer, on_answer: Callable[[HeartbeatAnswer], None]) -> Heartbeat:
    timers = Timers(heartbeat_s=0.1, retry_base_s=0.05, retry_cap_s=0.1)
    return Heartbeat(
        Order(url=server.url, job_id=1, token="secret-job-token", timers=timers),
        report=lambda: {"outbox": 3, "progress": {"stage": "training"}},
        on_answer=on_answer,
        on_trouble=lambda text: None,
    )


def test_the_heartbeat_is_a_process_that_goes_on_through_faults(serve: Serve) -> None:
    answers: list[HeartbeatAnswer] = []

    def answer(call: Call) -> Reply:
        if len(server.calls) in (2, 3):
            return problem(503, "X") if len(server.calls) == 2 else Reply(drop=True)
        return json_reply({**ANSWER, "desired": "stop" if len(server.calls) > 4 else "run"})

    server = serve(answer)

    async def work() -> None:
        heartbeat = heartbeat_of(server, answers.append)
        running = asyncio.create_task(heartbeat.run())
        async with asyncio.timeout(30):
            while not any(answer.desired == "stop" for answer in answers):
                await asyncio.sleep(0.02)
        assert heartbeat.pid not in (None, os.getpid())
        assert b"secret" not in Path(f"/proc/{heartbeat.pid}/cmdline").read_bytes()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not Path(f"/proc/{heartbeat.pid}").exists()

    asyncio.run(work())
    assert server.calls[-1].json["outbox"] == 3
    assert server.calls[-1].json["progress"] == {"stage": "training"}


def test_a_refused_heartbeat_is_the_servers_last_word(serve: Serve) -> None:
    server = serve(lambda call: problem(409, "STALE_LEASE"))
    with pytest.raises(ApiError, match="STALE_LEASE"):
        asyncio.run(asyncio.wait_for(heartbeat_of(server, lambda answer: None).run(), 30))


def test_a_heartbeat_that_was_killed_is_reported_to_be_started_again(serve: Serve) -> None:
    async def work() -> None:
        beaten = asyncio.Event()
        heartbeat = heartbeat_of(serve(lambda call: json_reply(ANSWER)), lambda answer: beaten.set())
        running = asyncio.create_task(heartbeat.run())
        await asyncio.wait_for(beaten.wait(), 30)
        os.kill(heartbeat.pid or 0, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="started again"):
            await asyncio.wait_for(running, 10)

    asyncio.run(work())
