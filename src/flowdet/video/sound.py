"""The sound of a video file, copied into an annotated one without recoding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from flowdet.video.containers import demuxed, video_stream

__all__ = ["Sound"]

_FITS_MP4 = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "mp3float", "opus", "libopus"})

_TOLERANCE = 1e-3  # seconds; Matroska rounds to milliseconds


class Sound:
    """The main sound track of a file.

    Args:
        location: Path of the file, as FFmpeg takes it.

    Attributes:
        problem: Why its sound cannot be kept; empty if it can, or if there is none.
    """

    def __init__(self, location: str) -> None:
        self.problem = ""
        self._source: AudioStream | None = None
        self._target: AudioStream | None = None
        self._packets: Iterator[Packet[AudioStream]] = iter(())
        self._waiting: Packet[AudioStream] | None = None
        self._origin = 0.0
        self._container: InputContainer | None = None
        with suppress(av.error.FFmpegError):  # what cannot be read has no sound
            self._container = av.open(location, "r", metadata_errors="ignore")
            found = self._container.streams.best("audio")
            if isinstance(found, AudioStream) and found.codec_context.name in _FITS_MP4:
                self._source = found
            elif found is not None:
                self.problem = f"the annotated video has no sound: an mp4 cannot hold {found.codec_context.name}"

    def add_to(self, output: OutputContainer) -> None:
        """Adds its track to a video of which nothing is written yet."""
        if self._source is not None:
            self._target = output.add_stream_from_template(self._source)

    def begin(self, time: float) -> None:
        """Begins at this time of the source, in seconds after its first picture."""
        if self._container is None or self._source is None or self._source.time_base is None:
            return
        pictures = video_stream(self._container)
        start = float((pictures.start_time or 0) * (pictures.time_base or 0))
        self._origin = start + time
        if time > 1:
            with suppress(av.error.FFmpegError):  # then it is read from the beginning
                self._container.seek(int((self._origin - 1) * av.time_base))
        self._packets = self._read()
        self._waiting = next(self._packets, None)

    def copy(self, output: OutputContainer, until: float) -> None:
        """Copies what begins before this time, in seconds after that of `begin`."""
        while self._waiting is not None and self._seconds(self._waiting) - self._origin < until:
            packet, self._waiting = self._waiting, next(self._packets, None)
            ticks = round(self._origin / packet.time_base)
            packet.pts = packet.dts = max(0, (packet.pts or 0) - ticks)
            assert self._target is not None
            packet.stream = self._target
            output.mux(packet)

    def close(self) -> None:
        """Closes the file."""
        if self._container is not None:
            self._container.close()

    def _read(self) -> Iterator[Packet[AudioStream]]:
        assert self._container is not None
        assert self._source is not None
        # A packet before the first picture, such as the one that starts an AAC decoder, would delay all pictures.
        first = self._origin - _TOLERANCE
        with suppress(av.error.FFmpegError):  # the sound ends where the file is damaged
            for packet in demuxed(self._container, self._source):
                if packet.size and packet.pts is not None and self._seconds(packet) >= first:
                    yield packet

    @staticmethod
    def _seconds(packet: Packet[AudioStream]) -> float:
        return float((packet.pts or 0) * packet.time_base)
