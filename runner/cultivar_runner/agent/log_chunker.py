"""Cuts one output stream of a trainer into chunks of whole lines (runner protocol, section 6). Pure."""

from __future__ import annotations

import codecs
import re

from .mask import LONGEST_SECRET, Mask


class LogChunker:
    """Takes bytes, gives chunks of at most `max_bytes` of UTF-8. When to flush is decided by the caller's clock.

    A carriage return alone, as progress bars write it, ends no line; only the last state of such a line is kept.
    """

    def __init__(self, max_bytes: int, mask: Mask) -> None:
        if max_bytes <= LONGEST_SECRET:
            raise ValueError(f"a chunk needs more than {LONGEST_SECRET} bytes")
        self._max_bytes = max_bytes
        self._mask = mask
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # Complete lines, masked.
        self._lines: list[str] = []
        self._line_bytes = 0
        # The line that has not ended yet, not masked: half a token does not look like one.
        self._open = ""
        self._ready: list[str] = []

    def push(self, data: bytes) -> list[str]:
        """Takes raw output; returns the chunks that are full."""
        self._take(self._decoder.decode(data))
        return self._take_ready()

    def insert(self, line: str) -> list[str]:
        """Puts a line of the agent's own between two lines of the trainer; returns the chunks that are full."""
        self._add_line(re.sub(r"[\r\n]+", " ", line) + "\n")
        return self._take_ready()

    def flush(self) -> str | None:
        """All complete lines so far as one chunk, or None. A line that has not ended stays."""
        if not self._lines:
            return None
        chunk = "".join(self._lines)
        self._lines = []
        self._line_bytes = 0
        return chunk

    def end(self) -> list[str]:
        """What is left, a last line without an end included."""
        self._take(self._decoder.decode(b"", final=True))
        if self._open:
            self._add_line(last_state(self._open))
            self._open = ""
        rest = self.flush()
        return self._take_ready() + ([] if rest is None else [rest])

    def _take_ready(self) -> list[str]:
        ready, self._ready = self._ready, []
        return ready

    def _take(self, text: str) -> None:
        *complete, self._open = (self._open + text).split("\n")
        for line in complete:
            self._add_line(last_state(line) + "\n")
        if "\r" in self._open:
            # A progress bar writes for hours without ending its line. The return itself may be half of a line end.
            self._open = last_state(self._open) + ("\r" if self._open.endswith("\r") else "")
        # A line without end is cut; its last part stays, in case a secret is only half there.
        while len(self._open) > self._max_bytes + LONGEST_SECRET:
            self._open = self._mask(self._open)
            if len(self._open) <= LONGEST_SECRET:
                break
            cut = min(self._max_bytes, len(self._open) - LONGEST_SECRET)
            self._add_line(self._open[:cut])
            self._open = self._open[cut:]

    def _add_line(self, line: str) -> None:
        rest = self._mask(line)
        while rest:
            piece, rest = cut_at_bytes(rest, self._max_bytes)
            size = len(piece.encode("utf-8", "replace"))
            if self._line_bytes + size > self._max_bytes:
                self._close()
            self._lines.append(piece)
            self._line_bytes += size
            if self._line_bytes == self._max_bytes:
                self._close()

    def _close(self) -> None:
        chunk = self.flush()
        if chunk is not None:
            self._ready.append(chunk)


def last_state(line: str) -> str:
    """What a terminal shows of a line that was overwritten by carriage returns."""
    if "\r" not in line:
        return line
    return next((part for part in reversed(line.split("\r")) if part), "")


def cut_at_bytes(text: str, max_bytes: int) -> tuple[str, str]:
    """The beginning of a text that fits into `max_bytes` of UTF-8, whole characters only, and the rest."""
    if len(text) * 4 <= max_bytes:
        return text, ""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= max_bytes:
        return text, ""
    piece = encoded[:max_bytes].decode("utf-8", "ignore")
    return piece, text[len(piece) :]
