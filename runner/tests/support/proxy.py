"""A bad line to a good server: loses requests, loses answers, cuts bodies, answers in the server's place."""

from __future__ import annotations

import random
from collections import Counter

import httpx

from tests.support.scripted_server import Call, Reply, ScriptedServer, problem

# Of one hop only, or made anew by whoever sends.
OWN_HEADERS = {
    "host",
    "connection",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "accept-encoding",
    "date",
}


class BadLine:
    """A proxy. `share` of the calls fail, each in a way that is drawn; `is_cut`: nothing goes through."""

    def __init__(self, upstream: str, share: float = 0.0, seed: int = 1) -> None:
        self.share = share
        self.is_cut = False
        self.faults: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._http = httpx.Client(base_url=upstream, timeout=60, limits=httpx.Limits(max_connections=100))
        self._server = ScriptedServer(self._answer)
        self.url = self._server.url

    @property
    def calls(self) -> list[Call]:
        return self._server.calls

    def close(self) -> None:
        self._server.close()
        self._http.close()

    def _answer(self, call: Call) -> Reply:
        if self.is_cut:
            return Reply(drop=True)
        kind = ""
        # A runner that cannot even register is another test.
        if "/jobs/" in call.path or "/callback" in call.path:
            kind = self._chance.choice(FAULTS) if self._chance.random() < self.share else ""
        if kind:
            self.faults[kind] += 1
        if kind == "lost request":
            return Reply(drop=True)
        if kind == "503":
            return problem(503, "BUSY", **{"retry-after": "1"})
        if kind == "429":
            return problem(429, "TOO_MANY")
        if kind == "proxy's own page":
            return Reply(502, b"<html>Bad gateway</html>", {"content-type": "text/html"})
        reply = self._forward(call)
        if self.is_cut or kind == "lost answer":
            return Reply(drop=True)
        if kind == "cut answer" and len(reply.body) > 1:
            reply.cut_after = len(reply.body) // 2
        return reply

    def _forward(self, call: Call) -> Reply:
        headers = {name: value for name, value in call.headers.items() if name not in OWN_HEADERS}
        headers["accept-encoding"] = "identity"
        try:
            answer = self._http.request(call.method, call.path, headers=headers, content=call.body)
        except httpx.TransportError:
            return Reply(drop=True)
        kept = {name: value for name, value in answer.headers.items() if name not in OWN_HEADERS}
        return Reply(answer.status_code, answer.content, kept)


FAULTS = ["lost request", "lost answer", "cut answer", "503", "429", "proxy's own page"]
