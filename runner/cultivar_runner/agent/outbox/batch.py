"""What of an outbox is sent next (runner protocol, section 5). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cursor:
    """How far the server is. `sent`: sent at least once up to here; `missing`: of those, ranges that it lacks."""

    acked: int
    sent: int
    missing: tuple[tuple[int, int], ...] = ()


def next_batch(cursor: Cursor, last: int, max_events: int, max_bytes: int, bytes_of: Callable[[int], int]) -> list[int]:
    """Numbers of the next batch in ascending order: first what the server misses, then what it has not seen.

    A batch holds at least one, however large it is. last: highest number that is on disk. bytes_of: size of a record
    as it is sent; 0 for one that is not there any more.
    """
    batch: list[int] = []
    size = 0
    for seq in _wanted(cursor, last):
        size += bytes_of(seq) + 1  # One for the comma between two.
        if batch and (size > max_bytes or len(batch) == max_events):
            break
        batch.append(seq)
    return batch


def _wanted(cursor: Cursor, last: int) -> Iterator[int]:
    for first, end in cursor.missing:
        yield from range(max(first, cursor.acked + 1), min(end, cursor.sent) + 1)
    yield from range(max(cursor.sent, cursor.acked) + 1, last + 1)


def advance(cursor: Cursor, batch: Sequence[int], acked: int, missing: Sequence[Sequence[int]]) -> Cursor:
    """The cursor after an answer; batch: what was sent, ascending.

    `missing` then holds only numbers that were sent: an answer may know of gaps that are still under way. The server's
    word counts also when `acked` goes back: then it has lost what it had, and says from where.
    """
    sent = max([cursor.sent, acked, *batch[-1:]])
    ranges = [(first, end) for first, end in missing]
    if not ranges and acked < sent:
        ranges = [(acked + 1, sent)]
    return Cursor(acked, sent, tuple((first, end) for first, end in ranges if end > acked and first <= sent))
