from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cultivar_runner.agent.api import ApiError, Client, Retry
from cultivar_runner.agent.dataset.cache import ContentCache
from cultivar_runner.agent.dataset.download import Download, HashMismatch, download
from cultivar_runner.agent.dataset.prepare import DatasetSummary, DatasetUnavailable, prepare_dataset
from tests.support.scripted_server import Call, Reply, ScriptedServer, json_reply, problem, ranged

Serve = Callable[[Callable[[Call], Reply]], ScriptedServer]
CONTENT = bytes(range(251)) * 40


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(server: ScriptedServer, target: Path, hasty: Retry, **changes: Any) -> int:
    async def work() -> int:
        client = Client(server.url)
        try:
            given = {"size": len(CONTENT), "sha256": sha256(CONTENT), "retry": hasty, **changes}
            return await download(Download(client, "/file", "t", target, **given))
        finally:
            await client.close()

    return asyncio.run(work())


def test_a_cut_download_goes_on_where_it_stopped(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    def answer(call: Call) -> Reply:
        reply = ranged(CONTENT, call, sha256(CONTENT))
        reply.cut_after = 4_000
        return reply

    server = serve(answer)
    assert fetch(server, tmp_path / "x", hasty) == len(CONTENT)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert [call.headers.get("range") for call in server.calls] == [None, "bytes=4000-", "bytes=8000-"]
    assert os.listdir(tmp_path) == ["x"]


def test_a_server_without_ranges_sends_all_of_it_again(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"old" * 10)
    fetch(serve(lambda call: Reply(200, CONTENT)), tmp_path / "x", hasty)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_wrong_partial_file_is_found_out_by_the_hash(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"z" * 100)
    server = serve(lambda call: ranged(CONTENT, call, sha256(CONTENT)))
    fetch(server, tmp_path / "x", hasty)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert len(server.calls) == 2


def test_other_bytes_than_announced_are_never_used(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    wrong = CONTENT[:-1] + b"!"
    with pytest.raises(HashMismatch):
        fetch(serve(lambda call: ranged(wrong, call, "x")), tmp_path / "x", hasty)
    assert os.listdir(tmp_path) == []


def test_an_empty_file_and_a_file_that_is_too_long(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    fetch(serve(lambda call: Reply(200, b"")), tmp_path / "e", hasty, size=0, sha256=sha256(b""))
    assert (tmp_path / "e").read_bytes() == b""
    with pytest.raises(Exception, match="more than"):
        fetch(serve(lambda call: Reply(200, CONTENT + b"x")), tmp_path / "x", hasty.within(0.1))


def test_a_large_file_comes_in_ranges_at_once_and_survives_cuts(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    content = os.urandom(1_000_003)

    def answer(call: Call) -> Reply:
        reply = ranged(content, call, sha256(content))
        # The first try of each range breaks off.
        if len(server.calls) <= 4:
            reply.cut_after = 100_000
        return reply

    server = serve(answer)
    sizes = {"size": len(content), "sha256": sha256(content), "segmented_from_bytes": 1_000_000}
    assert fetch(server, tmp_path / "x", hasty, **sizes) == len(content)
    assert (tmp_path / "x").read_bytes() == content
    assert all("range" in call.headers for call in server.calls)
    assert os.listdir(tmp_path) == ["x"]


def test_a_large_file_goes_on_after_a_restart(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    sizes = {"size": len(content), "sha256": sha256(content), "segmented_from_bytes": 1_000_000}

    def failing(call: Call) -> Reply:
        reply = ranged(content, call, sha256(content))
        reply.cut_after = 50_000
        return reply

    def gone(call: Call) -> Reply:
        return failing(call) if len(first.calls) <= 4 else problem(404, "NOT_FOUND")

    first = serve(gone)
    with pytest.raises(ApiError):
        fetch(first, tmp_path / "x", hasty, **sizes)
    second = serve(lambda call: ranged(content, call, sha256(content)))
    assert fetch(second, tmp_path / "x", hasty, **sizes) < len(content)
    assert (tmp_path / "x").read_bytes() == content


FILES = {"train/a/1.png": b"one", "train/a/2.png": b"two", "val/b/1.png": b"one", "val/b/고양이.png": b"three"}


def dataset(files: dict[str, bytes], page: int = 3) -> Callable[[Call], Reply]:
    rows = [
        {"file_id": n, "path": path, "size": len(content), "sha256": sha256(content)}
        for n, (path, content) in enumerate(files.items(), 1)
    ]
    contents = dict(enumerate(files.values(), 1))

    def answer(call: Call) -> Reply:
        path, _, query = call.path.partition("?cursor=")
        if path.endswith("/dataset"):
            at = int(query or 0)
            following = str(at + page) if at + page < len(rows) else None
            return json_reply(
                {
                    "dataset_id": "d",
                    "content_hash": "h",
                    "files": rows[at : at + page],
                    "next_cursor": following,
                }
            )
        content = contents[int(path.rsplit("/", 1)[1])]
        return ranged(content, call, sha256(content))

    return answer


def prepare(
    server: ScriptedServer, folder: Path, hasty: Retry, name: str = "data", max_bytes: int = 10**9
) -> DatasetSummary:
    async def work() -> DatasetSummary:
        client = Client(server.url)
        try:
            return await prepare_dataset(
                client=client,
                job_id=1,
                token="t",
                cache=ContentCache(folder / "cache", max_bytes),
                data_dir=folder / name,
                retry=hasty,
            )
        finally:
            await client.close()

    return asyncio.run(work())


def test_files_are_fetched_once_by_content_and_linked_to_their_names(
    serve: Serve, hasty: Retry, tmp_path: Path
) -> None:
    server = serve(dataset(FILES))
    summary = prepare(server, tmp_path, hasty)
    assert summary == DatasetSummary(files=4, size_bytes=11, fetched_bytes=11)
    for path, content in FILES.items():
        assert (tmp_path / "data" / path).read_bytes() == content
    assert len([call for call in server.calls if not call.path.partition("?")[0].endswith("/dataset")]) == 3
    assert prepare(server, tmp_path, hasty, "again").fetched_bytes == 0


def test_a_cached_file_that_somebody_wrote_to_is_fetched_anew(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    server = serve(dataset(FILES))
    prepare(server, tmp_path, hasty)
    target = tmp_path / "cache" / "sha256" / sha256(b"two")[:2] / sha256(b"two")
    assert target.stat().st_mode & 0o222 == 0
    target.chmod(0o600)
    target.write_bytes(b"tvo")
    assert prepare(server, tmp_path, hasty, "again").fetched_bytes == 3
    assert (tmp_path / "again/train/a/2.png").read_bytes() == b"two"


def test_the_cache_keeps_its_limit_and_what_is_in_use(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    prepare(serve(dataset({"a": b"x" * 1_000})), tmp_path, hasty, "first")
    (tmp_path / "first" / "a").unlink()
    prepare(serve(dataset({"b": b"y" * 1_000})), tmp_path, hasty, "second", max_bytes=1_500)
    kept = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert kept == {sha256(b"y" * 1_000)}
    # Larger than the limit, and used: it stays.
    prepare(serve(dataset({"c": b"z" * 1_000})), tmp_path, hasty, "third", max_bytes=10)
    assert (tmp_path / "second" / "b").exists() and (tmp_path / "third" / "c").exists()


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_an_unsafe_manifest_touches_nothing(serve: Serve, hasty: Retry, tmp_path: Path, path: str) -> None:
    with pytest.raises(DatasetUnavailable, match="not safe"):
        prepare(serve(dataset({path: b"x"})), tmp_path / "in", hasty)
    assert os.listdir(tmp_path) == ["in"] or os.listdir(tmp_path) == []


def test_a_link_in_the_way_does_not_lead_out(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetUnavailable, match="leads out"):
        prepare(serve(dataset(FILES)), tmp_path, hasty)
    assert not (tmp_path / "outside" / "a" / "1.png").exists()


def test_a_manifest_without_end_and_a_file_that_is_gone(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    endless = json_reply({"dataset_id": "d", "content_hash": "h", "files": [], "next_cursor": "1"})
    with pytest.raises(DatasetUnavailable, match="does not end"):
        prepare(serve(lambda call: endless), tmp_path, hasty)
    good = dataset(FILES)
    gone = serve(lambda call: problem(404, "FILE_NOT_FOUND") if call.path.endswith("/2") else good(call))
    with pytest.raises(DatasetUnavailable, match="404"):
        prepare(gone, tmp_path, hasty)


def test_a_lost_lease_is_no_fault_of_the_dataset(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="STALE_LEASE"):
        prepare(serve(lambda call: problem(409, "STALE_LEASE")), tmp_path, hasty)


def test_a_disk_without_room_is_found_out_before_anything_is_fetched(
    serve: Serve, hasty: Retry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 10, 4096

    server = serve(dataset(FILES))
    monkeypatch.setattr(os, "statvfs", lambda path: Full())
    with pytest.raises(DatasetUnavailable, match="are free on the disk"):
        prepare(server, tmp_path, hasty)
    assert len(server.calls) == 2


def test_two_processes_fill_an_entry_once(serve: Serve, hasty: Retry, tmp_path: Path) -> None:
    server = serve(dataset({"a": CONTENT}))

    async def work() -> list[int]:
        client = Client(server.url)
        caches = [ContentCache(tmp_path / "cache", 10**9) for _ in range(2)]
        path = "/api/v1/internal/jobs/1/dataset/1"
        try:
            return await asyncio.gather(
                *(
                    cache.fill(
                        sha256=sha256(CONTENT), size=len(CONTENT), client=client, path=path, token="t", retry=hasty
                    )
                    for cache in caches
                )
            )
        finally:
            await client.close()

    assert sorted(asyncio.run(work())) == [0, len(CONTENT)]
    assert len(server.calls) == 1
