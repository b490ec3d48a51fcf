"""Videos that can be read again: files, on disk or behind an address."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from flowdet.errors import VideoError
from flowdet.types import Frame
from flowdet.video.containers import (
    USUAL_RATE,
    container_duration,
    frame_rate,
    open_container,
    stream_duration,
    video_stream,
)
from flowdet.video.decoding import Layout, packets, pictures, select
from flowdet.video.source import Selection
from flowdet.video.tally import Clock, Damage, Tally, report_damage

__all__ = ["FileSource"]

# Codecs with one picture in each packet: what numbering by stamps needs. VP8, for one, has hidden pictures.
_ONE_TO_ONE = frozenset({"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1", "mjpeg", "prores"})


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key frame to begin at: its stamp, its number among the pictures, the packets before it."""

    stamp: int
    number: int
    packets: int


class FileSource:
    """A video that can be read again: a file, or one behind an address.

    Args:
        location: Path or address.
        label: How messages call it.
        name: A short name for outputs.
        network: Give up when the other side is silent.

    Raises:
        VideoError: It cannot be opened, or not one frame can be decoded.
    """

    is_live = False

    def __init__(self, location: str, label: str, name: str, *, network: bool = False) -> None:
        self.label = label
        self.name = name
        self._location = location
        self._network = network
        with closing(self._open()) as container:
            stream = video_stream(container)
            first = self._first_picture(container, stream)
            self._layout = Layout.of(first, stream.sample_aspect_ratio)
            self._is_avi = container.format.name == "avi"
            is_one_to_one = stream.codec_context.name in _ONE_TO_ONE and not first.interlaced_frame
            self._by_stamp = is_one_to_one and not self._is_avi and first.pts is not None
            self._declared = stream.frames if "mp4" in container.format.name else 0
            self._duration = stream_duration(container, stream)
            self.fps = frame_rate(stream)
            self.total = _total(stream.frames, self._duration or container_duration(container), self.fps)
        self.size: tuple[int, int] | None = self._layout.size

    def frames(self, selection: Selection, problems: list[str]) -> Generator[Frame, None, None]:
        """The selected frames; damaged ones are skipped and leave a gap in the numbers."""
        damage = Damage()
        return report_damage(self._frames(selection, damage), damage, problems)

    def close(self) -> None:
        """Does nothing: only an iteration holds the file open."""

    def _open(self) -> InputContainer:
        return open_container(self._location, self.label, network=self._network)

    def _first_picture(self, container: InputContainer, stream: VideoStream) -> VideoFrame:
        tally = Tally(Clock(Fraction(1), None, 0.0), Damage(), by_stamp=False)
        for picture in pictures(container, stream, tally):
            return picture
        raise VideoError(f"not one frame of {self.label} can be decoded: it is empty, cut short or damaged")

    def _frames(self, selection: Selection, damage: Damage) -> Generator[Frame, None, None]:
        entry = self._entry(selection.start)
        with closing(self._open()) as container:
            stream = video_stream(container)
            if self._by_stamp:
                stream.thread_type = "AUTO"
            if entry:
                container.seek(entry.stamp, stream=stream)
            clock = self._clock(stream)
            floor, first = (entry.stamp, entry.number) if entry else (None, 0)
            tally = Tally(clock, damage, by_stamp=self._by_stamp, first=first, floor=floor)
            with closing(self._pictures(container, stream, tally, floor)) as found:
                at_end = yield from select(found, selection, self._layout, tally)
        if at_end:
            tally.finish()
            damage.short = self._shortage(tally.packets + (entry.packets if entry else 0), clock.end)

    def _pictures(
        self, container: InputContainer, stream: VideoStream, tally: Tally, floor: int | None
    ) -> Generator[VideoFrame, None, None]:
        for picture in chain(pictures(container, stream, tally), self._tail(tally)):
            # What is shown before the key frame at which reading begins needs what lies before that.
            if floor is None or picture.pts is None or picture.pts >= floor:
                yield picture

    def _clock(self, stream: VideoStream) -> Clock:
        origin = None if self._is_avi else stream.start_time
        step = 1 / (self.fps or USUAL_RATE)
        return Clock(stream.time_base or Fraction(1), origin, step, decoding_order=self._is_avi)

    def _entry(self, start: float) -> _Entry | None:
        """The last key frame up to `start`, numbered by reading all packets before it without decoding.

        None when there is nothing to skip, or when its number cannot be known.
        """
        if not self._by_stamp or start == 0:
            return None
        with closing(self._open()) as container:
            stream = video_stream(container)
            if stream.start_time is None or stream.time_base is None:
                return None
            target = stream.start_time + start / stream.time_base
            key: int | None = None
            before = 0
            stamps: list[int] = []
            for read, packet in enumerate(packets(container, stream, Damage())):
                if packet.pts is None:
                    return None
                if packet.dts is not None and packet.dts > target:
                    break
                if packet.is_keyframe and packet.pts <= target and not packet.is_discard:
                    key, before = packet.pts, read
                if not packet.is_discard:
                    stamps.append(packet.pts)
            if key is None or before == 0 or not _lands_on(container, stream, key):
                return None
            return _Entry(key, sum(stamp < key for stamp in stamps), before)

    def _tail(self, tally: Tally) -> Iterator[VideoFrame]:
        """The pictures missing at the end, decoded in one thread.

        When one packet is damaged, FFmpeg's frame threads drop without a word what the others still hold.
        """
        if not tally.is_open:
            return
        with closing(self._open()) as container:
            stream = video_stream(container)
            if tally.last is not None:
                with suppress(av.error.FFmpegError):  # without seeking it takes longer
                    container.seek(tally.last, stream=stream)
            unused = Tally(self._clock(stream), Damage(), by_stamp=False)
            for picture in pictures(container, stream, unused):
                if tally.last is None or (picture.pts is not None and picture.pts > tally.last):
                    yield picture

    def _shortage(self, packets_read: int, end: float) -> str:
        if self._declared:
            if packets_read >= self._declared:
                return ""
            return f"the file is cut short: {packets_read} of {self._declared} frames are there"
        missing = (self._duration or 0.0) - end
        if self.fps and self._duration and missing * self.fps > 2 and missing > 0.05 * self._duration:
            return f"the file seems to be cut short: it announces {self._duration:.1f} s, {end:.1f} s are there"
        return ""


def _total(declared: int, duration: float | None, fps: float | None) -> int | None:
    estimate = round(duration * fps) if duration and fps else None
    if not declared:
        return estimate
    # An mp4 that was trimmed without encoding declares its hidden frames too, one in fragments only its first.
    return declared if estimate is None or declared - 1 <= estimate <= 2 * declared else estimate


def _lands_on(container: InputContainer, stream: VideoStream, stamp: int) -> bool:
    """Whether seeking to this stamp arrives at exactly the packet that has it."""
    try:
        container.seek(stamp, stream=stream)
    except av.error.FFmpegError:
        return False
    packet = next(packets(container, stream, Damage()), None)
    return packet is not None and packet.pts == stamp
