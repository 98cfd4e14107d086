from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cultivar_runner.agent.outbox.journal import Journal


def run(work: Callable[[], Any]) -> Any:
    return asyncio.run(work())


def open_journal(folder: Path, troubles: list[BaseException] | None = None, **options: int) -> Journal:
    return Journal(folder, (troubles if troubles is not None else []).append, **options)


def test_records_get_numbers_without_holes_and_survive_a_restart(tmp_path: Path) -> None:
    async def first() -> None:
        journal = open_journal(tmp_path)
        assert [journal.append({"n": n}) for n in range(3)] == [1, 2, 3]
        await journal.flushed()
        assert journal.durable_seq == 3
        journal.release(1)
        await journal.close()

    async def second() -> None:
        journal = open_journal(tmp_path)
        # The file still holds number 1; sending it again changes nothing.
        assert (journal.last_seq, journal.durable_seq) == (3, 3)
        assert journal.read([2, 3]) == [{"seq": 2, "n": 1}, {"seq": 3, "n": 2}]
        assert journal.append({"n": 3}) == 4
        await journal.close()

    run(first)
    run(second)


def test_acknowledged_files_go_and_the_number_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        journal = open_journal(tmp_path, segment_bytes=200)
        for n in range(50):
            journal.append({"text": "x" * 40, "n": n})
            await journal.flushed()
        assert len(list(tmp_path.iterdir())) > 10
        journal.release(50)
        assert len(list(tmp_path.iterdir())) == 1
        await journal.close()
        again = open_journal(tmp_path)
        assert again.append({}) == 51
        await again.close()

    run(work)


def test_a_line_that_a_crash_left_half_written_is_cut_off(tmp_path: Path) -> None:
    async def write() -> None:
        journal = open_journal(tmp_path)
        journal.append({"n": 1})
        await journal.close()

    run(write)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:10])

    async def read() -> None:
        journal = open_journal(tmp_path)
        assert journal.append({"n": 2}) == 2
        await journal.close()
        assert [record["n"] for record in open_journal(tmp_path).read([1, 2])] == [1, 2]

    run(read)


def test_a_full_disk_costs_durability_and_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True
    real_write = os.write

    def write(handle: int, data: bytes) -> int:
        if full:
            # Half of it still goes, as on a real disk.
            real_write(handle, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(handle, data)

    async def work() -> None:
        nonlocal full
        troubles: list[BaseException] = []
        journal = open_journal(tmp_path, troubles)
        monkeypatch.setattr(os, "write", write)
        journal.append({"n": 1})
        journal.append({"n": 2})
        await journal.flushed()
        assert isinstance(troubles[0], OSError)
        assert [record["n"] for record in journal.read([1, 2])] == [1, 2]
        assert journal.durable_seq == 2  # They may be sent: this process will not give the numbers away again.
        full = False
        journal.append({"n": 3})
        await journal.flushed()
        assert [record["n"] for record in journal.read([1, 2, 3])] == [1, 2, 3]
        await journal.close()
        # What reached the disk is read again; what did not is a hole that the sender closes.
        again = open_journal(tmp_path, troubles)
        assert [record["n"] for record in again.read([1, 2, 3])][-1] == 3

    run(work)


def test_a_real_disk_that_is_full(tmp_path: Path) -> None:
    """A file system of 64 KiB, where the system allows to mount one."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("may not mount")
    try:

        async def work() -> None:
            troubles: list[BaseException] = []
            journal = open_journal(mount / "events", troubles)
            for n in range(100):
                journal.append({"n": n, "text": "x" * 2_000})
                await journal.flushed()
            assert troubles
            assert [record["n"] for record in journal.read(range(1, 101))] == list(range(100))
            journal.release(100)
            await journal.close()

        run(work)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


WRITER = """
import asyncio, sys
from pathlib import Path
from cultivar_runner.agent.outbox.journal import Journal
async def main():
    journal = Journal(Path(sys.argv[1]), print)
    for n in range(1_000_000):
        journal.append({"n": n + 1})
        await journal.flushed()
        sys.stdout.write(f"{journal.durable_seq}\\n"); sys.stdout.flush()
asyncio.run(main())
"""


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    promised = 0
    for line in child.stdout:
        promised = int(line)
        if promised >= 100:
            child.kill()
            break
    child.wait(10)
    for line in child.stdout:
        if line.endswith("\n"):
            promised = int(line)
    child.stdout.close()

    async def work() -> None:
        journal = open_journal(tmp_path)
        assert journal.last_seq >= promised
        numbers = [record["n"] for record in journal.read(range(1, promised + 1))]
        assert numbers == list(range(1, promised + 1))

    run(work)
