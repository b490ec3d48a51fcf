"""Frames out of video files, image folders, cameras and network streams."""

from __future__ import annotations

import glob
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Self

from flowdet.errors import ConfigError, VideoError
from flowdet.files import IMAGE_SUFFIXES
from flowdet.types import Frame
from flowdet.video.containers import container_duration, open_container
from flowdet.video.description import SourceDescription, describe_source
from flowdet.video.file_source import FileSource
from flowdet.video.images import ImageSource, image_files
from flowdet.video.live_source import LiveSource, camera_device
from flowdet.video.source import Selection, Source

__all__ = ["SourceDescription", "Video", "check_selection", "describe_source", "open_video", "read_ahead"]

_JOIN_SECONDS = 5.0  # a camera that hangs must not hang its reader
_WAKE_SECONDS = 0.2  # on Windows an interrupt is seen only between waits


class Video:
    """A video that is open for reading: iterate over it for its frames, in order and one at a time.

    Reading a file again starts from its beginning; a live source can be read once.
    Damaged frames are skipped and reported in `problems`; the numbers of the others stay true.

    Args:
        source: Where the frames come from.
        selection: Which of them are wanted.

    Attributes:
        name: A short name, fit for the names of output files.
        size: (height, width) in pixels of the upright frames, when known.
        fps: Frames a second of the source, when known; an average where the rate varies.
        frame_count: How many frames an iteration will give, when known; often an estimate.
        is_live: It comes once, at its own pace.
        problems: What the latest iteration has found damaged so far, one plain sentence each.
    """

    def __init__(self, source: Source, selection: Selection) -> None:
        self.name = source.name
        self.size = source.size
        self.fps = source.fps
        self.frame_count = selection.count(source.total, source.fps)
        self.is_live = source.is_live
        self.problems: list[str] = []
        self._source = source
        self._selection = selection
        self._closed = Event()

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames.

        Raises:
            VideoError: There is no frame, or the video was closed, or a live source was read before.
        """
        if self._closed.is_set():
            raise VideoError(f"{self._source.label} was closed: open it again")
        self.problems.clear()
        is_empty = True
        with closing(self._source.frames(self._selection, self.problems)) as frames:
            for frame in frames:
                is_empty = False
                yield frame
                if self._closed.is_set():
                    return
        if is_empty:
            raise VideoError(self._nothing_found())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the video; an iteration that is under way ends before its next frame."""
        self._closed.set()
        self._source.close()

    def _nothing_found(self) -> str:
        message = f"{self._source.label} gave no frame"
        if not self._selection.is_all:
            message += f" {self._selection}"
            if self._source.total and self.fps:
                message += f"; it lasts about {self._source.total / self.fps:.1f} s"
        return "; ".join([message, *self.problems])


def open_video(
    source: str | Path | int,
    *,
    start: float | None = None,
    end: float | None = None,
    every: int = 1,
    frame_rate: float = 25.0,
) -> Video:
    """Opens whatever shows moving pictures.

    Args:
        source: A video file; a folder of images or a pattern such as "shots/*.png", both read in natural
            order; the number of a camera; or an address (rtsp, http, https, rtmp, ...).
        start: Seconds from which on frames are wanted; None: from the beginning.
        end: Seconds at which to stop; None: at the end.
        every: Keep one frame in this many, beginning with the first.
        frame_rate: Images a second of a folder or a pattern; videos know their own.

    Raises:
        ConfigError: `start`, `end`, `every`, `frame_rate` or the number of a camera is impossible.
        VideoError: There is no such source, or no frame can be had from it.
    """
    selection = check_selection(start, end, every)
    if not 0 < frame_rate < float("inf"):
        raise ConfigError(f"frame_rate is a number of images a second above 0, not {frame_rate}")
    return Video(_source(source, describe_source(source), frame_rate), selection)


def check_selection(start: float | None = None, end: float | None = None, every: int = 1) -> Selection:
    """The part of a video that `open_video` would read with these arguments; nothing is opened.

    Raises:
        ConfigError: They are impossible.
    """
    return Selection(start or 0.0, float("inf") if end is None else end, every)


def read_ahead(frames: Iterable[Frame], depth: int = 8, *, drop_oldest: bool = False) -> Generator[Frame, None, None]:
    """Yields the same frames, decoded in a thread of its own while the caller works on earlier ones.

    An error of the source is raised here after the frames before it were given out. The thread ends with
    the frames, or when the generator is closed or dropped.

    Args:
        frames: Where the frames come from; used by the thread only.
        depth: How many frames may wait; memory is bounded by these.
        drop_oldest: When too many wait, leave out the oldest instead of letting the source wait: what
            comes from a camera stays up to date however slow the caller is.

    Raises:
        ConfigError: `depth` is less than 1.
    """
    if depth < 1:
        raise ConfigError(f"depth is 1 or more frames, not {depth}")
    return _read_ahead(frames, Queue(maxsize=depth), drop_oldest)


_Item = Frame | BaseException | None


def _read_ahead(frames: Iterable[Frame], waiting: Queue[_Item], drop_oldest: bool) -> Generator[Frame, None, None]:
    stop = Event()
    arguments = (frames, waiting, stop, drop_oldest)
    thread = Thread(target=_produce, args=arguments, name="flowdet-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := _take(waiting)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        _drain(waiting)  # frees a producer that waits for room; it sees `stop` before it puts anything more
        thread.join(_JOIN_SECONDS)


def _produce(frames: Iterable[Frame], waiting: Queue[_Item], stop: Event, drop_oldest: bool) -> None:
    outcome: BaseException | None = None
    try:
        for frame in frames:
            if drop_oldest:
                _squeeze_in(frame, waiting)
            else:
                waiting.put(frame)
            if stop.is_set():
                break
    except BaseException as error:  # raised again in the thread that waits for the frames
        outcome = error
    if not stop.is_set():
        waiting.put(outcome)


def _squeeze_in(frame: Frame, waiting: Queue[_Item]) -> None:
    """Puts a frame, in place of the oldest one if there is no room."""
    while True:
        try:
            waiting.put_nowait(frame)
        except Full:
            with suppress(Empty):
                waiting.get_nowait()
        else:
            return


def _take(waiting: Queue[_Item]) -> _Item:
    while True:
        with suppress(Empty):
            return waiting.get(timeout=_WAKE_SECONDS)


def _drain(waiting: Queue[_Item]) -> None:
    with suppress(Empty):
        while True:
            waiting.get_nowait()


def _source(source: str | Path | int, described: SourceDescription, frame_rate: float) -> Source:
    text, path, label, name = str(source), described.path, described.label, described.name
    if described.pattern:
        matches = glob.glob(str(Path(text).expanduser()), recursive=True)
        return ImageSource(label, name, image_files(map(Path, matches)), frame_rate)
    if path is None:
        return _stream(text, label, name)
    try:
        if path.is_dir():
            return ImageSource(label, name, image_files(path.iterdir()), frame_rate)
        if path.stat().st_size == 0:
            raise VideoError(f"{label} is empty (0 bytes): copy or download it again")
    except OSError as error:
        raise VideoError(f"{label} cannot be read: {error.strerror}") from error
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource(label, name, [path], frame_rate)
    return FileSource(f"file:{path}", label, name)  # a colon in a bare name would look like an address


def _stream(text: str, label: str, name: str) -> Source:
    """A camera, a device or an address."""
    if text.isdecimal():
        device, format_name = camera_device(int(text), sys.platform)
        return LiveSource(open_container(device, label, format_name=format_name), label, name)
    if "://" not in text:
        return LiveSource(open_container(text, label, format_name="v4l2"), label, name)
    container = open_container(text, label, network=True)
    if text.startswith(("http", "file:")) and container_duration(container) is not None:
        container.close()
        return FileSource(text, label, name, network=True)
    return LiveSource(container, label, name)
