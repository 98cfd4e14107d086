"""The local endpoint: callbacks below the token's path, S3 requests everywhere else, on 127.0.0.1 only."""

from __future__ import annotations

import contextlib
import hmac
import io
import json
import re
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import gmtime, strftime
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from .calls import Calls
from .objects import CHUNK_BYTES, ObjectError, ObjectStore, StoredObject

MAX_CALL_BYTES = 64 * 1024 * 1024
MAX_KEYS = 1_000
CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/")
PART_NUMBER = re.compile(r"<PartNumber>\s*(\d+)\s*</PartNumber>")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
XML = "application/xml"


class _Source(Protocol):
    """What is needed of a connection, or of a reader over one."""

    def read(self, size: int = ..., /) -> bytes: ...

    def readline(self, limit: int = ..., /) -> bytes: ...


class _Limited(io.RawIOBase):
    """The next `left` bytes of a connection."""

    def __init__(self, source: _Source, left: int) -> None:
        self._source = source
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(min(len(buffer), self._left))
        self._left -= len(data)
        if not data and self._left > 0:
            raise ConnectionError("the body ended early")
        buffer[: len(data)] = data
        return len(data)


class _Chunked(io.RawIOBase):
    """A body in chunks: HTTP's own, or S3's signed ones, whose size lines carry a signature."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._left = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left == 0 and not self._ended:
            self._next()
        if self._ended:
            return 0
        data = self._source.read(min(len(buffer), self._left))
        if not data:
            raise ConnectionError("the body ended early")
        self._left -= len(data)
        if self._left == 0:
            self._source.readline()
        buffer[: len(data)] = data
        return len(data)

    def _next(self) -> None:
        self._left = int(self._source.readline().split(b";")[0].strip() or b"0", 16)
        if self._left == 0:
            self._ended = True
            # Trailers, up to an empty line or the end of what was announced.
            while self._source.readline().strip():
                pass


class LocalServer:
    """Serves until it is left. `url` is `http://127.0.0.1:PORT`."""

    def __init__(self, token: str, calls: Calls, store: ObjectStore) -> None:
        class Handler(_Handler):
            job_token = token
            job_calls = calls
            job_store = store

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="cultivar-legacy", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    job_token: str
    job_calls: Calls
    job_store: ObjectStore
    # A client that goes away amid a request does not hold a thread for ever.
    timeout = 300

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: this process's output is the job's log."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _serve(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            target = urlsplit(self.path)
            parts = target.path.split("/", 2)
            if len(parts) > 1 and hmac.compare_digest(parts[1].encode(), self.job_token.encode()):
                self._call("/" + (parts[2] if len(parts) > 2 else ""))
            else:
                self._object(unquote(target.path), target.query)

    # Callbacks

    def _call(self, path: str) -> None:
        body = self._whole_body()
        if body is None:
            self._json(413, {"detail": "the body is too large"})
            return
        status, answer = self.job_calls.answer(self.command, path, body)
        self._json(status, answer)

    def _json(self, status: int, answer: Any) -> None:
        self._send(status, json.dumps(answer).encode(), "application/json")

    # Objects

    def _object(self, path: str, query: str) -> None:
        body = self._body()
        try:
            self._authorize(query)
            bucket, _, key = path.lstrip("/").partition("/")
            self._answer_object(bucket, key, parse_qs(query, keep_blank_values=True), body)
        except ObjectError as error:
            self._drain(body)
            text = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>"
            self._send(error.status, text.encode(), XML)

    def _authorize(self, query: str) -> None:
        """The access key is the job's secret; signatures prove nothing more on this machine."""
        credential = CREDENTIAL.search(self.headers.get("authorization", ""))
        given = credential[1] if credential else parse_qs(query).get("X-Amz-Credential", [""])[0].split("/")[0]
        if not hmac.compare_digest(given.encode(), self.job_token.encode()):
            raise ObjectError(403, "AccessDenied", "another access key is expected")

    def _answer_object(self, bucket: str, key: str, query: dict[str, list[str]], body: io.BufferedReader) -> None:
        store = self.job_store
        one = {name: values[0] for name, values in query.items()}
        md5 = self.headers.get("content-md5")
        method = self.command
        if not key:
            self._answer_bucket(bucket, one)
        elif method in ("GET", "HEAD"):
            self._content(store.find(key))
        elif method == "PUT" and "uploadId" in one:
            number = one.get("partNumber", "")
            etag = store.put_part(one["uploadId"], int(number) if number.isdigit() else 0, body, md5)
            self._send(200, b"", XML, {"etag": f'"{etag}"'})
        elif method == "PUT" and "x-amz-copy-source" not in self.headers:
            self._send(200, b"", XML, {"etag": f'"{store.put(key, body, md5).etag}"'})
        elif method == "POST" and "uploads" in one:
            upload_id = store.begin_upload(key)
            self._xml(
                "InitiateMultipartUploadResult",
                f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key><UploadId>{upload_id}</UploadId>",
            )
        elif method == "POST" and "uploadId" in one:
            named = body.read(MAX_CALL_BYTES).decode("utf-8", "replace")
            numbers = [int(number) for number in PART_NUMBER.findall(named)]
            stored = store.complete_upload(key, one["uploadId"], numbers)
            self._xml(
                "CompleteMultipartUploadResult",
                f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key><ETag>{stored.etag}</ETag>",
            )
        elif method == "DELETE" and "uploadId" in one:
            store.abort_upload(one["uploadId"])
            self._send(204, b"", XML)
        elif method == "DELETE":
            store.delete(key)
            self._send(204, b"", XML)
        else:
            raise ObjectError(
                501, "NotImplemented", "the local endpoint has list, head, get, put, delete and multipart"
            )

    def _answer_bucket(self, bucket: str, one: dict[str, str]) -> None:
        if self.command in ("HEAD", "PUT"):
            self._send(200, b"", XML)
        elif self.command == "GET" and "location" in one:
            self._xml("LocationConstraint", "")
        elif self.command == "GET":
            self._list(bucket, one)
        else:
            raise ObjectError(501, "NotImplemented", "the local endpoint does not do this to a bucket")

    def _list(self, bucket: str, one: dict[str, str]) -> None:
        prefix, delimiter = one.get("prefix", ""), one.get("delimiter", "")
        after = one.get("continuation-token") or one.get("start-after") or one.get("marker") or ""
        asked = one.get("max-keys", "")
        limit = min(int(asked), MAX_KEYS) if asked.isdigit() else MAX_KEYS
        encode = quote if one.get("encoding-type") == "url" else escape
        entries: list[str] = []
        folders: list[str] = []
        last, truncated = "", False
        for stored in self.job_store.walk(prefix, after):
            rest = stored.key[len(prefix) :]
            folder = prefix + rest.split(delimiter)[0] + delimiter if delimiter and delimiter in rest else None
            if folder is not None and (folder in folders or after.startswith(folder)):
                last = stored.key
                continue
            if len(entries) + len(folders) == limit:
                truncated = True
                break
            last = stored.key
            if folder is not None:
                folders.append(folder)
                continue
            entries.append(
                f"<Contents><Key>{encode(stored.key)}</Key><Size>{stored.size}</Size><ETag>&quot;{stored.etag}&quot;</ETag>"
                f"<LastModified>{strftime('%Y-%m-%dT%H:%M:%S.000Z', gmtime(stored.modified))}</LastModified>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        more = f"<NextContinuationToken>{escape(last)}</NextContinuationToken><NextMarker>{encode(last)}</NextMarker>"
        self._xml(
            "ListBucketResult",
            f"<Name>{escape(bucket)}</Name><Prefix>{encode(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>"
            f"<KeyCount>{len(entries) + len(folders)}</KeyCount><IsTruncated>{str(truncated).lower()}</IsTruncated>"
            + ("<EncodingType>url</EncodingType>" if encode is quote else "")
            + (more if truncated else "")
            + "".join(entries)
            + "".join(f"<CommonPrefixes><Prefix>{encode(folder)}</Prefix></CommonPrefixes>" for folder in folders),
        )

    def _content(self, stored: StoredObject) -> None:
        size = stored.size
        first, last, status = 0, size - 1, 200
        asked = RANGE.fullmatch(self.headers.get("range", ""))
        if asked is not None and (asked[1] or asked[2]):
            first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
            last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
            status = 206
            if first > last:
                raise ObjectError(416, "InvalidRange", f"the object has {size} bytes")
        headers = {
            "etag": f'"{stored.etag}"',
            "last-modified": formatdate(stored.modified, usegmt=True),
            "accept-ranges": "bytes",
            "content-length": str(last - first + 1),
        }
        if status == 206:
            headers["content-range"] = f"bytes {first}-{last}/{size}"
        self._head(status, "application/octet-stream", headers)
        if self.command == "HEAD":
            return
        with stored.path.open("rb") as file:
            file.seek(first)
            left = last - first + 1
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                self.wfile.write(chunk)
                left -= len(chunk)

    # The wire

    def _body(self) -> io.BufferedReader:
        """The body without its chunks. A client that waits for a go-ahead was told by the library."""
        source: _Source = self.rfile
        raw: io.RawIOBase
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            raw = _Chunked(source)
        else:
            raw = _Limited(source, int(self.headers.get("content-length") or 0))
        signed = self.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
        if signed or "aws-chunked" in self.headers.get("content-encoding", ""):
            raw = _Chunked(io.BufferedReader(raw))
        return io.BufferedReader(raw)

    def _whole_body(self) -> bytes | None:
        body = self._body()
        data = body.read(MAX_CALL_BYTES + 1)
        if len(data) > MAX_CALL_BYTES:
            self._drain(body)
            return None
        return data

    def _drain(self, body: io.BufferedReader) -> None:
        while body.read(CHUNK_BYTES):
            pass

    def _xml(self, name: str, content: str) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{content}</{name}>'
        self._send(200, text.encode(), XML)

    def _send(self, status: int, content: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self._head(status, content_type, {**(headers or {}), "content-length": str(len(content))})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _head(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
