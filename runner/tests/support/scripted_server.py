"""An HTTP server in a thread that answers as a test says, and can cut its answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """`cut_after`: so many bytes of the body are sent, then the connection ends. `drop`: no answer at all."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    drop: bool = False


def json_reply(value: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"content-type": "application/json", **headers})


def problem(status: int, code: str, field: str | None = None, **headers: str) -> Reply:
    return json_reply({"detail": "no", "code": code, "field": field}, status, **headers)


class ScriptedServer:
    def __init__(self, answer: Callable[[Call], Reply]) -> None:
        self.calls: list[Call] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                if headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                call = Call(self.command, self.path, headers, body)
                outer.calls.append(call)
                reply = answer(call)
                if reply.drop:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body if reply.cut_after is None else reply.body[: reply.cut_after])
                self.close_connection = reply.cut_after is not None

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def ranged(content: bytes, call: Call, etag: str) -> Reply:
    """The content, or the range that is asked for."""
    asked = call.headers.get("range")
    headers = {"etag": f'"{etag}"'}
    if asked is None:
        return Reply(200, content, headers)
    first, _, last = asked.removeprefix("bytes=").partition("-")
    end = int(last) + 1 if last else len(content)
    return Reply(206, content[int(first) : end], headers)
