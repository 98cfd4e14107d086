"""Looks after the attempts that an earlier process of this runner left unfinished."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from .api import Client
from .attempt import finish_limits
from .files import error_text, remove_tree
from .lease import ENDING_FILE, LEASE_FILE, TRAINER_FILE, Ending, Lease, TrainerMark, load
from .link import Link
from .trainer_process import identity_of, kill_group

# A trainer that lost its agent saves and leaves by itself; it gets this long.
TRAINER_PATIENCE_S = 10.0
POLL_S = 0.1

# What an attempt is called that nobody brought to its end: charged as lost, so a job that takes its runner down ends.
LOST = Ending(
    event="failed",
    reason="runner_lost",
    message="the runner's process ended during the job and was started again",
)


async def settle_leftovers(folder: Path, secrets: tuple[str, ...], log: Callable[[str], None]) -> None:
    """Ends their trainers, sends what is in their outboxes and how they ended.

    An attempt that the server has given to somebody else by now is refused once, and its outbox is dropped.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = [path for path in folder.iterdir() if path.is_dir()]
    await asyncio.gather(*(_settle_safely(path, secrets, log) for path in found))


async def _settle_safely(folder: Path, secrets: tuple[str, ...], log: Callable[[str], None]) -> None:
    def say(line: str) -> None:
        log(f"leftover {folder.name}: {line}")

    try:
        await _settle(folder, secrets, say)
    except Exception as error:
        say(error_text(error))


async def _settle(folder: Path, secrets: tuple[str, ...], say: Callable[[str], None]) -> None:
    await _end_trainer(folder, say)
    lease = load(folder / LEASE_FILE, Lease)
    if lease is None:
        remove_tree(folder)
        return
    ending = load(folder / ENDING_FILE, Ending) or LOST
    client = Client(lease.url)
    link = Link(client=client, lease=lease, folder=folder, secrets=secrets, log=say)
    try:
        await link.greet()
        link.start()
        timers = lease.timers
        delivered = await link.finish(ending, finish_limits(ending, timers.finalize_s, timers.terminal_retry_s))
        say(f"reported: {ending.event} ({ending.reason})" if delivered else "could not be reported")
    except Exception as error:
        say(f"dropped: {error_text(link.gone.reason or error)}")
    finally:
        await link.close()
        await client.close()
    remove_tree(folder)


async def _end_trainer(folder: Path, say: Callable[[str], None]) -> None:
    mark = load(folder / TRAINER_FILE, TrainerMark)
    if mark is None or mark.identity is None:
        return

    def lives() -> bool:
        # Another process may have the number by now.
        return identity_of(mark.pid) == mark.identity

    if not lives():
        return
    say(f"its trainer ({mark.pid}) still runs and is ended")
    kill_group(mark.pid, signal.SIGTERM)
    waited_s = 0.0
    while waited_s < TRAINER_PATIENCE_S and lives():
        await asyncio.sleep(POLL_S)
        waited_s += POLL_S
    if lives():
        kill_group(mark.pid, signal.SIGKILL)
