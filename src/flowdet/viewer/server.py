"""The page from a server: a clip is uploaded or chosen, and when it is done its page opens."""

import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from flowdet.viewer.jobs import BusyError, Job, Jobs
from flowdet.viewer.page import fill_template

__all__ = ["is_own_name", "make_app"]

_MAGIC: Final = {".mp4": (4, b"ftyp"), ".webm": (0, b"\x1a\x45\xdf\xa3"), ".avi": (8, b"AVI ")}
"""The beginnings of uploads: other formats, such as playlists, could make FFmpeg read other files or addresses."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def is_own_name(name: str, host: str) -> bool:
    """Whether a request for this host name is meant for a server at `host`.

    A page of a foreign name that is made to point here (DNS rebinding) is not: only addresses and own names pass.
    """
    name = name.removeprefix("[").removesuffix("]")
    if name in {host, "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return not _is_loopback(host) and name == socket.gethostname().lower()
    return address.is_loopback or not _is_loopback(host)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def make_app(jobs: Jobs, *, host: str, clips: Sequence[Path] = (), largest_upload: int = 500 << 20) -> FastAPI:
    """Returns the server's application.

    Args:
        jobs: The queue.
        host: The address that it listens at.
        clips: The clips that can be chosen.
        largest_upload: Bytes.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, host)

    @app.get("/")
    async def home() -> HTMLResponse:
        room = files("flowdet.viewer")
        data = {"clips": [clip.name for clip in clips], "largest": largest_upload}
        return HTMLResponse(fill_template((room / "server.html").read_text(encoding="utf-8"), "server.js", data))

    @app.post("/jobs")
    async def upload(request: Request) -> Response:
        if request.headers.get("content-type") != "application/octet-stream":
            return _refusal(415, "a clip is sent as application/octet-stream")
        if int(request.headers.get("content-length", "0")) > largest_upload:
            return _too_large(largest_upload)
        try:
            job = jobs.reserve("clip")
        except BusyError:
            return _refusal(429, "other clips are waiting; try again when one is done")
        try:
            refusal = await _receive(request.stream(), job, largest_upload)
        except BaseException:  # the sender went away
            jobs.drop(job)
            raise
        if refusal:
            jobs.drop(job)
            return refusal
        jobs.start(job)
        return JSONResponse({"id": job.id}, 201)

    @app.post("/clips/{number}")
    async def choose(number: int) -> Response:
        if not 0 <= number < len(clips):
            return _refusal(404, "there is no such clip")
        try:
            job = jobs.reserve("clip", clips[number])
        except BusyError:
            return _refusal(429, "other clips are waiting; try again when one is done")
        jobs.start(job)
        return JSONResponse({"id": job.id}, 201)

    @app.get("/jobs/{number}")
    async def progress(number: str) -> Response:
        if not (job := jobs.get(number)):
            return _refusal(404, "there is no such job; the server keeps only the last ones")
        return JSONResponse({"state": job.state, "done": job.done, "total": job.total, "message": job.message})

    @app.delete("/jobs/{number}")
    async def cancel(number: str) -> Response:
        if job := jobs.get(number):
            await run_in_threadpool(jobs.drop, job)
        return Response(status_code=204)

    @app.get("/jobs/{number}/page")
    async def page(number: str) -> Response:
        job = jobs.get(number)
        return FileResponse(job.page) if job and job.state == "done" else _refusal(404, "there is no such page")

    @app.get("/jobs/{number}/video")
    async def video(number: str) -> Response:
        job = jobs.get(number)
        return FileResponse(job.shown) if job and job.shown else _refusal(404, "there is no such video")

    return app


def _guard(app: FastAPI, host: str) -> None:
    """Refuses requests that another site made, and sets the headers of every answer."""

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        own = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if not is_own_name(urlsplit(f"//{own}").hostname or "", host):
            response: Response = _refusal(403, "this server answers only to its own address")
        elif origin is not None and origin != f"{request.url.scheme}://{own}":
            response = _refusal(403, "this server takes no requests from other sites")
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response


async def _receive(stream: AsyncIterator[bytes], job: Job, largest: int) -> Response | None:
    """Writes an upload into the folder of its job; returns why it is refused."""
    size = 0
    with job.source.open("xb") as file:
        async for piece in stream:
            size += len(piece)
            if size > largest:
                return _too_large(largest)
            await run_in_threadpool(file.write, piece)
    with job.source.open("rb") as file:
        start = file.read(16)
    for suffix, (place, magic) in _MAGIC.items():
        if start[place : place + len(magic)] == magic:
            job.source = job.source.rename(job.source.with_suffix(suffix))
            return None
    return _refusal(415, "this is no video in MP4, MOV, WebM, Matroska or AVI")


def _too_large(largest: int) -> Response:
    return _refusal(413, f"a clip has at most {largest >> 20} MB here; --largest raises it")


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"message": message}, status)
