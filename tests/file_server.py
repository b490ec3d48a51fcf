"""A web server on this machine that misbehaves as told."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = bytes(range(256)) * 2000
HALF = len(BODY) // 2

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: "Site"

    def do_GET(self) -> None:
        site = self.server
        with site.lock:
            site.requests.append(Request(self.path, self.headers["Range"], self.headers["If-Range"]))
            answer = site.answers.pop(0) if len(site.answers) > 1 else site.answers[0]
        answer(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


@dataclass
class Request:
    path: str
    range: str | None
    if_range: str | None


class Site(ThreadingHTTPServer):
    """Gives one answer after the other, the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.requests: list[Request] = []
        self.answers: list[Answer] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@dataclass(frozen=True)
class Serve:
    """Answer with a body, the wanted range of it if `ranges`; break off after `until` bytes of the body."""

    body: bytes = BODY
    ranges: bool = True
    until: int | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, handler: Handler) -> None:
        start = 0
        wanted = handler.headers["Range"]
        same = handler.headers["If-Range"] in {None, self.headers.get("ETag"), self.headers.get("Last_Modified")}
        if self.ranges and wanted and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.body):
                handler.head(416, 0, Content_Range=f"bytes */{len(self.body)}")
                return
            span = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
            handler.head(206, len(self.body) - start, Content_Range=span, **self.headers)
        else:
            handler.head(200, len(self.body), **self.headers)
        handler.wfile.write(self.body[start : self.until])


def status(code: int) -> Answer:
    return lambda handler: handler.head(code, 0)


def stall(handler: Handler) -> None:
    handler.head(200, len(BODY))
    handler.wfile.write(BODY[:HALF])
    handler.wfile.flush()
    handler.server.closing.wait(5)


def hang_up(handler: Handler) -> None:
    handler.close_connection = True
