"""Opening what FFmpeg reads, and what its headers tell."""

from __future__ import annotations

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from flowdet.errors import VideoError

__all__ = ["USUAL_RATE", "container_duration", "frame_rate", "open_container", "stream_duration", "video_stream"]

USUAL_RATE = 25.0  # frames a second where a stream does not tell
_GREATEST_RATE = 500.0  # above it "frames a second" is the container's clock
_NETWORK_TIMEOUT = (10.0, 30.0)  # seconds to open, to read


def open_container(
    location: str, label: str, *, format_name: str | None = None, network: bool = False
) -> InputContainer:
    """Opens what FFmpeg can read.

    Args:
        location: Path, address or device.
        label: How messages call it.
        format_name: FFmpeg's name of the input; None: it finds out.
        network: Give up when the other side is silent.

    Raises:
        VideoError: It cannot be opened, or has no pictures.
    """
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
        raise VideoError(f"{label} cannot be opened: {_reason(error)}") from error
    # FFmpeg plays any text file as a terminal session.
    if container.format.name == "tty" or not container.streams.video:
        container.close()
        raise VideoError(f"{label} holds no pictures: expected a video that FFmpeg can read")
    return container


def video_stream(container: InputContainer) -> VideoStream:
    """The main picture track."""
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) else container.streams.video[0]


def frame_rate(stream: VideoStream) -> float | None:
    """Frames a second, on the average; None when unknown."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if 0 < rate <= _GREATEST_RATE else None


def stream_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds that the file announces for this stream alone."""
    for key, value in stream.metadata.items():
        if key.startswith("DURATION") and value.count(":") == 2:  # Matroska: "00:01:02.500000000"
            hours, minutes, seconds = value.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # FFmpeg shortens the duration of a cut file
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container_duration(container) if len(container.streams) == 1 else None


def container_duration(container: InputContainer) -> float | None:
    """Seconds that the file announces for its longest stream."""
    return container.duration / av.time_base if container.duration else None


def _reason(error: av.error.FFmpegError) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "it is no video, or its table of contents is missing, as in an mp4 whose recording never finished"
    if isinstance(error, av.error.EOFError):
        return "it ends before its first frame"
    if isinstance(error, av.error.ExitError):
        return f"there was no answer within {_NETWORK_TIMEOUT[0]:g} s"
    return error.strerror or str(error)
