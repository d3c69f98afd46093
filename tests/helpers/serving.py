"""A loopback HTTP server for tests of downloads: files by path, with and without ranges, and answers that go wrong."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class Answer:
    """How a path is answered.

    Attributes:
        body: the file.
        etag: its entity tag, if any.
        ranges: whether a part of it can be had.
        breaks_after: bytes after which the connection ends, the first `breaks` times.
        status: another status than 200.
        chunked: without a Content-Length.
    """

    body: bytes
    etag: str | None = None
    ranges: bool = True
    breaks_after: int | None = None
    breaks: int = 0
    status: int = 200
    kind: str = "application/octet-stream"
    chunked: bool = False


@dataclass
class Server:
    """Serves `answers` while it is entered; `asked` is every request as (path, Range, status)."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str | None, int]] = field(default_factory=list)
    before: Callable[[str], None] = lambda path: None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def __enter__(self) -> Self:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.before(self.path)
                answer = server.answers.get(self.path, Answer(b"no such file", status=404, kind="text/html"))
                body, status, asked = answer.body, answer.status, self.headers.get("Range")
                same = self.headers.get("If-Range") in (None, answer.etag)
                content_range = None
                if asked and answer.ranges and same and status == 200:
                    begin = int(asked.removeprefix("bytes=").removesuffix("-"))
                    content_range = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                    status = 206
                    if begin >= len(body):
                        status, content_range = 416, f"bytes */{len(body)}"
                    body = body[begin:]
                server.asked.append((self.path, asked, status))
                self.send_response(status)
                self.send_header("Content-Type", answer.kind)
                if not answer.chunked:
                    self.send_header("Content-Length", str(len(body)))
                if content_range:
                    self.send_header("Content-Range", content_range)
                if answer.etag:
                    self.send_header("ETag", answer.etag)
                self.end_headers()
                if answer.breaks > 0:
                    answer.breaks -= 1
                    body = body[: answer.breaks_after]
                with contextlib.suppress(BrokenPipeError):  # a client that has seen enough hangs up
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
