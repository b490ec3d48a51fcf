"""Opening what FFmpeg reads, and what its headers tell."""

from __future__ import annotations

import errno
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from flowdet.errors import VideoError

__all__ = [
    "USUAL_RATE",
    "container_duration",
    "count_gif_pictures",
    "demuxed",
    "frame_rate",
    "has_flag",
    "is_unbroken",
    "open_container",
    "stream_duration",
    "video_stream",
]

StreamT = TypeVar("StreamT", VideoStream, AudioStream)

USUAL_RATE = 25.0  # frames a second where a stream does not tell
_GREATEST_RATE = 500.0  # above it "frames a second" is the container's clock
_GREATEST_DURATION = 1e7  # seconds; a longer one is a damaged tag
_GIF_HEAD = re.compile(rb"\x21\xf9\x04.{4}\x00\x2c", re.DOTALL)  # of a picture of an animation
_GIF_END, _GIF_EXTENSION, _GIF_PICTURE = 0x3B, 0x21, 0x2C
_TRANSPORT_PACKETS = ((188, 0), (192, 4), (204, 0))  # bytes, and where in them the mark stands
_TRANSPORT_MARK = 0x47
_MATROSKA_FOLDERS = frozenset({0x18538067, 0x1F43B675})  # the segment, clusters
_MATROSKA_ELEMENTS = _MATROSKA_FOLDERS | {0xA0, 0xA3, 0xA7, 0xAB, 0xAF, 0xBF, 0xE7, 0xEC, 0x5854}
_MATROSKA_ELEMENTS |= {0x1043A770, 0x114D9B74, 0x1254C367, 0x1549A966, 0x1654AE6B, 0x1941A469, 0x1A45DFA3, 0x1C53BB6B}
_NETWORK_TIMEOUT = (10.0, 30.0)  # seconds to open, to read


def open_container(
    location: str, label: str, *, format_name: str | None = None, network: bool = False
) -> InputContainer:
    """Opens a video, a stream or a device.

    Args:
        location: Path, address or device.
        label: What messages call it.
        format_name: FFmpeg's name of the input; None: FFmpeg finds out.
        network: Give up when the other side is silent.

    Raises:
        VideoError: It cannot be opened, or holds no video.
    """
    began = time.monotonic()
    try:
        container = av.open(
            location,
            "r",
            format=format_name,
            options={"rtsp_transport": "tcp"} if location.startswith("rtsp") else {},
            timeout=_NETWORK_TIMEOUT if network else None,
            metadata_errors="ignore",
        )
    except av.error.FFmpegError as error:
        waited = time.monotonic() - began
        reason = _network_reason(location, error, waited) if network else None
        raise VideoError(f"{label} cannot be opened: {reason or _reason(error)}") from error
    # FFmpeg plays any text file as a terminal session.
    if container.format.name == "tty" or not container.streams.video:
        container.close()
        raise VideoError(f"{label} holds no pictures: expected a video that FFmpeg can read")
    if all(map(_is_cover, container.streams.video)):
        container.close()
        raise VideoError(f"{label} holds no video, only sound with a cover picture")
    return container


def video_stream(container: InputContainer) -> VideoStream:
    """Returns the main video track; a cover picture is none."""
    best = container.streams.best("video")
    if isinstance(best, VideoStream) and not _is_cover(best):
        return best
    return next(stream for stream in container.streams.video if not _is_cover(stream))


def demuxed(container: InputContainer, stream: StreamT) -> Iterator[Packet[StreamT]]:
    """Yields the packets of a stream, the last of them empty."""
    # Where other streams began after the file was opened, PyAV fails when all was read.
    with suppress(IndexError):
        yield from container.demux(stream)


def has_flag(container: InputContainer, flag: Flags) -> bool:
    """Whether the container's format has this property."""
    return bool(container.format.flags & cast("int", flag.value))


def frame_rate(stream: VideoStream) -> float | None:
    """Returns the average number of frames a second; None when unknown."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if 0 < rate <= _GREATEST_RATE else None


def stream_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Returns the seconds that the file announces for this track alone; None when unknown."""
    for key, value in stream.metadata.items():
        if key.startswith("DURATION") and (seconds := _tag_seconds(value)):
            # The tag holds the stamp at which the track ends, however late it begins.
            return max(seconds - max(float((stream.start_time or 0) * (stream.time_base or 0)), 0.0), 0.0)
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # FFmpeg shortens the duration of a cut file
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container_duration(container) if len(container.streams) == 1 else None


def container_duration(container: InputContainer) -> float | None:
    """Returns the seconds that the file announces for its longest track; None when unknown."""
    return container.duration / av.time_base if container.duration else None


def count_gif_pictures(file: Path) -> int | None:
    """Returns the number of pictures in a GIF; None where its blocks break off or swallow a picture."""
    data = file.read_bytes()

    def after_table(place: int, flags: int) -> int:
        return place + (3 << (flags & 7) + 1 if flags & 0x80 else 0)

    def after_parts(place: int) -> int:
        while length := data[place]:
            place += 1 + length
        return place + 1

    pictures = 0
    try:
        place = after_table(13, data[10])
        while data[place] != _GIF_END:
            if data[place] == _GIF_PICTURE:
                pictures += 1
                place = after_parts(after_table(place + 10, data[place + 9]) + 1)
            elif data[place] == _GIF_EXTENSION:
                place = after_parts(place + 2)
            else:
                return None
    except IndexError:
        return None
    return None if len(_GIF_HEAD.findall(data)) > pictures else pictures


def is_unbroken(file: Path, format_name: str) -> bool:
    """Whether the pieces of MPEG streams, Matroska, WebM and AVI follow one another from the first byte to the last.

    Args:
        file: The file.
        format_name: FFmpeg's name of its format; any other is taken for unbroken.
    """
    walk = _WALKS.get(format_name)
    return walk is None or walk(np.memmap(file, np.uint8, "r"))


def _is_unbroken_transport(data: NDArray[np.uint8]) -> bool:
    for size, place in _TRANSPORT_PACKETS:
        if len(data) % size == 0 and (data[place::size] == _TRANSPORT_MARK).all():
            return True
    return False


def _is_unbroken_program(data: NDArray[np.uint8]) -> bool:
    place = 0
    while place < len(data):
        head = data[place : place + 14].tobytes().ljust(14, b"\0")
        if head[:3] != b"\0\0\1":  # sectors of video CDs and the ends of some files are filled up with zeros
            filled = data[place : place + _LONGEST_FILLING].nonzero()[0]
            if len(filled) == 0:
                return not data[place:].any()
            place += int(filled[0]) - 2
            if data[place : place + 3].tolist() != [0, 0, 1]:
                return False
            continue
        match head[3]:
            case 0xBA if head[4] >> 6 == 1:  # a pack of MPEG-2, then one of MPEG-1
                place += 14 + (head[13] & 7)
            case 0xBA:
                place += 12
            case 0xB9:  # the end of the program
                place += 4
            case _:
                place += 6 + int.from_bytes(head[4:6], "big")
    return place == len(data)


def _is_unbroken_matroska(data: NDArray[np.uint8]) -> bool:
    place = 0
    while place < len(data):
        head = data[place : place + 12].tobytes().ljust(12, b"\0")
        name_length = 9 - head[0].bit_length()
        size_length = 9 - head[name_length].bit_length() if name_length <= 4 else 9
        name = int.from_bytes(head[:name_length], "big")
        if size_length > 8 or name not in _MATROSKA_ELEMENTS:
            return False
        place += name_length + size_length
        if name not in _MATROSKA_FOLDERS:  # what these contain is walked through, whatever size they state
            place += int.from_bytes(head[name_length : name_length + size_length], "big") - (1 << 7 * size_length)
    return place == len(data)


def _is_unbroken_avi(data: NDArray[np.uint8]) -> bool:
    place = 0
    while place < len(data):
        head = data[place : place + 8].tobytes()
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if not name.isascii():
            return False
        place += 12 if name in (b"RIFF", b"LIST") else 8 + size + size % 2
    return place == len(data)


_LONGEST_FILLING = 4096  # bytes of zeros between the packs of an MPEG stream; a sector of a video CD has 2324 in all
_WALKS = {
    "mpegts": _is_unbroken_transport,
    "mpeg": _is_unbroken_program,
    "matroska,webm": _is_unbroken_matroska,
    "avi": _is_unbroken_avi,
}


def _is_cover(stream: VideoStream) -> bool:
    return bool(int(stream.disposition) & Disposition.attached_pic.value)


def _tag_seconds(tag: str) -> float | None:
    """Seconds of a Matroska tag such as "00:01:02.500000000"; None if it is damaged."""
    try:
        hours, minutes, seconds = tag.split(":")
        total = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None
    return total if 0 < total < _GREATEST_DURATION else None


def _network_reason(address: str, error: av.error.FFmpegError, waited: float) -> str | None:
    """Why a network source cannot be opened, where FFmpeg's own reason would mislead."""
    if waited >= _NETWORK_TIMEOUT[0]:  # a header that breaks off looks like no video
        return f"no data came for {_NETWORK_TIMEOUT[0]:g} s; the server or the camera hangs"
    host = urlsplit(address).hostname
    if error.errno == errno.EIO and host:
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError):
            return f"there is no host {host}, or the network is down; check the address"
    return None


def _reason(error: av.error.FFmpegError) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "it is no video, or its table of contents is missing, as in an mp4 whose recording never finished"
    if isinstance(error, av.error.EOFError):
        return "it ends before its first frame"
    return error.strerror or str(error)
