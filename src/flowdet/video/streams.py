"""Videos that FFmpeg reads: files, which can be read again, and live sources, which cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import av.error
from av.container import InputContainer
from av.format import Flags
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from flowdet.errors import VideoError
from flowdet.video.containers import (
    USUAL_RATE,
    container_duration,
    count_gif_pictures,
    frame_rate,
    has_flag,
    is_unbroken,
    open_container,
    stream_duration,
    video_stream,
)
from flowdet.video.decoding import Layout, Order, Timeline, decoded, packets, pixel_aspect, report_damage, selected
from flowdet.video.source import LazyFrame, Selection

__all__ = ["FileSource", "LiveSource", "camera_device"]

# Codecs with one picture in each packet: what numbering by stamps needs. VP8, for one, has hidden pictures.
_ONE_TO_ONE = frozenset({"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1", "mjpeg", "prores"})
_PROBED_PACKETS = 60
_ENDLESS = frozenset({"mpjpeg", "v4l2", "video4linux2,v4l2", "dshow", "avfoundation", "rtsp"})
_RETRY_SECONDS = (1.0, 2.0, 4.0)  # before each try to reach a lost live source again
_STEADY_SECONDS = 10.0  # of pictures, after which the tries count anew


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key frame to begin at: its stamp, its number among the pictures, the number of packets before it."""

    stamp: int
    number: int
    packets: int


class FileSource:
    """A video that can be read again: a file, or one behind an address.

    Args:
        location: Path or address.
        label: What messages call it.
        name: A short name for outputs.
        network: Give up when the other side is silent.

    Raises:
        VideoError: It cannot be opened, or not one frame can be decoded.
    """

    is_live = False

    def __init__(self, location: str, label: str, name: str, *, network: bool = False) -> None:
        self.label = label
        self.name = name
        self.location = location
        self._network = network
        with closing(self._open()) as container:
            stream = video_stream(container)
            timeline = Timeline(None, order="arrival", step=0)
            first = next(decoded(container, stream, timeline), None)
            if first is None:
                reason = timeline.damage.stopped or "it is empty, cut short or damaged"
                raise VideoError(f"not one frame of {label} can be decoded: {reason}")
            self._layout = Layout.of(first, stream.sample_aspect_ratio)
            self._order = _order(container, stream, timeline)
            is_one_to_one = stream.codec_context.name in _ONE_TO_ONE and not first.interlaced_frame
            self._one_to_one = is_one_to_one and first.pts is not None
            self._by_stamp = self._one_to_one and self._order == "presentation"
            self._declared = stream.frames if "mp4" in container.format.name else 0
            self._format = "" if network else container.format.name
            self._duration = stream_duration(container, stream)
            self.fps = frame_rate(stream)
            self.total = _total(stream.frames, self._duration or container_duration(container), self.fps)
        self.size: tuple[int, int] | None = self._layout.size

    def frames(self, selection: Selection, problems: list[str]) -> Generator[LazyFrame, None, None]:
        """Yields the selected frames; damaged ones are skipped and leave a gap in the numbers."""
        entry = self._entry(selection.start)
        with closing(self._open()) as container:
            stream = video_stream(container)
            timeline = self._timeline(stream, entry)
            yield from report_damage(
                self._selected(container, stream, timeline, selection, entry), timeline.damage, problems
            )

    def close(self) -> None:
        """Does nothing: only an iteration holds the file open."""

    def _open(self) -> InputContainer:
        return open_container(self.location, self.label, network=self._network)

    def _selected(
        self,
        container: InputContainer,
        stream: VideoStream,
        timeline: Timeline,
        selection: Selection,
        entry: _Entry | None,
    ) -> Generator[LazyFrame, None, None]:
        if self._by_stamp:
            stream.thread_type = "AUTO"
        if entry:
            container.seek(entry.stamp, stream=stream)
        found: Iterator[VideoFrame] = chain(decoded(container, stream, timeline), self._tail(timeline))
        if entry:
            # What is shown before the key frame at which reading begins needs what lies before that.
            found = (picture for picture in found if picture.pts is None or picture.pts >= entry.stamp)
        at_end = yield from selected(found, selection, self._layout, timeline)
        if at_end:
            timeline.finish()
            damage = timeline.damage
            damage.short = self._shortage(timeline, entry.packets if entry else 0) or damage.short
            if self._format and not (damage.sentences() or is_unbroken(self._file, self._format)):
                damage.short = "pieces of the file are damaged, or it begins or ends within one: frames may be missing"

    def _timeline(self, stream: VideoStream, entry: _Entry | None = None) -> Timeline:
        return Timeline(
            stream.time_base,
            order=self._order,
            step=1 / (self.fps or USUAL_RATE),
            origin=None if self._order == "decoding" else stream.start_time,
            one_to_one=self._one_to_one,
            first=entry.number if entry else 0,
            floor=entry.stamp if entry else None,
        )

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
            timeline = self._timeline(stream)
            for read, packet in enumerate(packets(container, stream, timeline)):
                if packet.pts is None or timeline.restarts:
                    return None
                if packet.dts is not None and packet.dts > target:
                    break
                if packet.is_keyframe and packet.pts <= target and not packet.is_discard:
                    key, before = packet.pts, read
                if not packet.is_discard:
                    stamps.append(packet.pts)
            if key is None or before == 0 or not self._lands_on(container, stream, key):
                return None
            return _Entry(key, sum(stamp < key for stamp in stamps), before)

    def _lands_on(self, container: InputContainer, stream: VideoStream, stamp: int) -> bool:
        """Whether seeking to this stamp arrives at exactly the packet that has it."""
        try:
            container.seek(stamp, stream=stream)
        except av.error.FFmpegError:
            return False
        packet = next(packets(container, stream, self._timeline(stream)), None)
        return packet is not None and packet.pts == stamp

    def _tail(self, timeline: Timeline) -> Iterator[VideoFrame]:
        """The pictures missing at the end, decoded in one thread.

        When one packet is damaged, FFmpeg's frame threads drop without a word what the others still hold.
        """
        if not timeline.is_open or timeline.restarts:
            return
        with closing(self._open()) as container:
            stream = video_stream(container)
            if timeline.last is not None:
                with suppress(av.error.FFmpegError):  # without seeking it takes longer
                    container.seek(timeline.last, stream=stream)
            for picture in decoded(container, stream, self._timeline(stream)):
                if timeline.last is None or (picture.pts is not None and picture.pts > timeline.last):
                    yield picture

    @property
    def _file(self) -> Path:
        return Path(self.location.removeprefix("file:"))

    def _shortage(self, timeline: Timeline, skipped: int) -> str:
        packets_read, end = skipped + timeline.packets, timeline.end
        if self._declared:
            if packets_read >= self._declared:
                return ""
            return f"the file is cut short: {packets_read} of {self._declared} frames are there"
        if timeline.restarts:  # the announced duration is a guess from the first and the last stamp
            return ""
        if self._format == "gif":
            return self._gif_shortage(packets_read)
        missing = (self._duration or 0.0) - end
        if self.fps and self._duration and missing * self.fps > 2 and missing > 0.05 * self._duration:
            return f"the file seems to be cut short: it announces {self._duration:.1f} s, {end:.1f} s are there"
        return ""

    def _gif_shortage(self, packets_read: int) -> str:
        pictures = count_gif_pictures(self._file)
        if pictures is None:
            return f"the file is cut short or damaged: it may hold more than these {packets_read} frames"
        return f"{pictures - packets_read} of {pictures} frames are missing" if packets_read < pictures else ""


class LiveSource:
    """A camera or a stream that comes once, at its own pace.

    A source that is lost is opened again after 1, 2 and 4 s; what was missed is reported, and numbers and times go on.
    Sources without stamps of their own, such as MJPEG over HTTP, are timed by the arrival of their pictures.

    Args:
        connect: Opens the source.
        label: What messages call it.
        name: A short name for outputs.
        container: The source, where it is open already.

    Raises:
        VideoError: It cannot be opened.
    """

    is_live = True

    def __init__(
        self, connect: Callable[[], InputContainer], label: str, name: str, container: InputContainer | None = None
    ) -> None:
        self.label = label
        self.name = name
        self._connect = connect
        container = container or connect()
        self._container: InputContainer | None = container
        stream = video_stream(container)
        width, height = stream.codec_context.width, stream.codec_context.height
        layout = Layout(width, height, aspect=pixel_aspect(stream.sample_aspect_ratio))
        self.size: tuple[int, int] | None = layout.size if width and height else None
        self._order: Order = "arrival" if has_flag(container, Flags.no_timestamps) else "presentation"
        self._aspect = stream.sample_aspect_ratio
        self.fps = frame_rate(stream) if self._order == "presentation" else None  # else it is FFmpeg's default
        self.total: int | None = None

    def frames(self, selection: Selection, problems: list[str]) -> Generator[LazyFrame, None, None]:
        """Yields the selected frames until the source ends; works once.

        Raises:
            VideoError: It was read before, or was lost and did not come back.
        """
        container, self._container = self._container, None
        if container is None:
            raise VideoError(f"{self.label} is live and can be read only once: open it again")
        timeline = Timeline(video_stream(container).time_base, order=self._order, step=1 / (self.fps or USUAL_RATE))
        found = self._pictures(container, timeline)
        with closing(found):
            yield from report_damage(
                selected(found, selection, None, timeline, self._aspect), timeline.damage, problems
            )

    def close(self) -> None:
        """Closes the source if it is not being read; an iteration closes it by itself."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _pictures(self, container: InputContainer, timeline: Timeline) -> Generator[VideoFrame, None, None]:
        """Yields the pictures of one connection after the other."""
        tries = 0
        while True:
            with closing(container):
                began = time.monotonic()
                yield from decoded(container, video_stream(container), timeline)
                is_endless = container.format.name in _ENDLESS and container_duration(container) is None
            reason = timeline.damage.stopped or "the other side closed it"
            if not (timeline.damage.stopped or is_endless):
                return
            timeline.damage.stopped = ""
            lost = time.monotonic()
            if lost - began > _STEADY_SECONDS:
                tries = 0
            container, tries = self._reconnected(tries, timeline, reason)
            gap = time.monotonic() - lost
            timeline.damage.interruptions.append(
                f"the connection was lost at {timeline.end:.1f} s and came back after {gap:.1f} s: {reason}"
            )
            timeline.reconnect(video_stream(container).time_base, gap)

    def _reconnected(self, tries: int, timeline: Timeline, reason: str) -> tuple[InputContainer, int]:
        """Returns the source, open again, and the number of tries since it was steady."""
        for number, seconds in enumerate(_RETRY_SECONDS[tries:], start=tries + 1):
            time.sleep(seconds)
            with suppress(VideoError):
                return self._connect(), number
        raise VideoError(
            f"{self.label} was lost at {timeline.end:.1f} s and did not come back "
            f"in {len(_RETRY_SECONDS)} tries: {reason}"
        )


def camera_device(number: int, platform: str) -> tuple[str, str]:
    """Returns FFmpeg's names of a camera and of its input format.

    Raises:
        VideoError: There is no such camera (told here on Windows, elsewhere when it is opened).
    """
    if platform == "darwin":
        return str(number), "avfoundation"
    if platform != "win32":
        return f"/dev/video{number}", "v4l2"
    from av.device import enumerate_input_devices  # noqa: PLC0415  (newer PyAV only)

    cameras = [device for device in enumerate_input_devices("dshow") if "video" in device.media_types]
    if number >= len(cameras):
        raise VideoError(f"there is no camera {number}: {len(cameras)} found")
    return f"video={cameras[number].description}", "dshow"


def _order(container: InputContainer, stream: VideoStream, timeline: Timeline) -> Order:
    """What the stamps of a file tell; reads some more of its packets."""
    if container.format.name == "avi":  # it stores no others; FFmpeg's stamps of presentation jump back and forth
        return "decoding"
    if not stream.codec_context.has_b_frames:
        return "presentation"
    # Some writers stamp pictures in the order of decoding although they are shown in another one.
    for _ in islice(packets(container, stream, timeline), _PROBED_PACKETS):
        if timeline.reorders:
            break
    return "presentation" if timeline.reorders else "shuffled"


def _total(declared: int, duration: float | None, fps: float | None) -> int | None:
    estimate = round(duration * fps) if duration and fps else None
    if not declared:
        return estimate
    # An mp4 that was trimmed without encoding declares its hidden frames too, one in fragments only its first.
    return declared if estimate is None or declared - 1 <= estimate <= 2 * declared else estimate
