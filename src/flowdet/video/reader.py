"""Frames out of video files, image folders, cameras and network streams."""

from __future__ import annotations

import glob
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
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
from flowdet.video.images import ImageSource, PageSource, image_files
from flowdet.video.pictures import page_count
from flowdet.video.remote import RemoteSource, is_remote
from flowdet.video.sound import Sound
from flowdet.video.source import Selection, Source
from flowdet.video.streams import FileSource, LiveSource, camera_device

__all__ = ["Video", "check_selection", "open_video", "read_ahead"]

_PAGED_SUFFIXES = frozenset({".apng", ".mpo"})  # pictures that FFmpeg would read, too

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
        frame_count: The number of frames of an iteration, when known; often an estimate.
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
            for lazy in frames:
                image = lazy.image()
                if image is None:
                    continue
                is_empty = False
                yield Frame(lazy.index, lazy.time, image)
                if self._closed.is_set():
                    return
        if is_empty:
            raise VideoError(self._nothing_found())

    def preview(self, count: int) -> list[Frame]:
        """Returns frames spread evenly over the whole selection, read in a pass of their own.

        They are the frames round(i (n - 1) / (count - 1)) of the n selected ones, for i from 0 to count - 1: the first,
        the last, and a frame several times if there are fewer. A frame that cannot be read is replaced by the next one.

        Args:
            count: The number of frames, from 1 on; 1 is the first frame.

        Raises:
            ConfigError: `count` is less than 1.
            VideoError: The source is live and can be read only once, was closed, or holds no frame.
        """
        if count < 1:
            raise ConfigError(f"a preview has 1 or more frames, not {count}")
        if self.is_live:
            raise VideoError(f"{self._source.label} is live and can be read only once: there is no preview of it")
        if self._closed.is_set():
            raise VideoError(f"{self._source.label} was closed: open it again")
        with closing(self._source.frames(self._selection, [])) as frames:
            total = sum(1 for _ in frames)  # decoded, but not converted: headers only tell estimates
        places = [round(i * (total - 1) / max(1, count - 1)) for i in range(count)]
        found: list[Frame] = []
        with closing(self._source.frames(self._selection, [])) as frames:
            for place, lazy in enumerate(frames):
                due = sum(wanted <= place for wanted in places) - len(found)
                if due and (image := lazy.image()) is not None:
                    found += [Frame(lazy.index, lazy.time, image)] * due
        if not found:
            raise VideoError(self._nothing_found())
        return found + found[-1:] * (count - len(found))

    def open_sound(self) -> Sound | None:
        """Returns the sound of a video file; None for other sources, which have none that could be read again."""
        return Sound(self._source.location) if isinstance(self._source, FileSource) else None

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
    """Opens a video, a folder of images, a camera or a stream.

    Args:
        source: A video file; a folder of images or a pattern such as "shots/*.png", both read in natural
            order; an image with one or several pages; the number of a camera; or an address: rtsp, http and others
            that FFmpeg reads, or s3, gs and others that fsspec knows, whose videos are copied first.
        start: Seconds at which to begin; None: at the beginning.
        end: Seconds at which to stop; None: at the end.
        every: Keep every n-th frame, beginning with the first.
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
    """Returns the part of a video that `open_video` would read with these arguments; opens nothing.

    Raises:
        ConfigError: They are impossible.
    """
    return Selection(start or 0.0, float("inf") if end is None else end, every)


def read_ahead(frames: Iterable[Frame], depth: int = 8, *, drop_oldest: bool = False) -> Generator[Frame, None, None]:
    """Yields the same frames; a thread decodes them while the caller works on earlier ones.

    An error of the source is raised after the frames before it were yielded. The thread ends with
    the frames, or when the generator is closed or dropped.

    Args:
        frames: The frames; only the thread uses them.
        depth: The most frames that wait, which bounds the memory.
        drop_oldest: When too many wait, leave out the oldest instead of letting the source wait, so that
            frames of a camera stay up to date however slow the caller is.

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
        return _pattern(text, label, name, frame_rate)
    if path is None:
        return _stream(text, label, name)
    try:
        if path.is_dir():
            return ImageSource(label, name, image_files(path.iterdir()), frame_rate)
        if path.stat().st_size == 0:
            raise VideoError(f"{label} is empty (0 bytes): copy or download it again")
    except OSError as error:
        raise VideoError(f"{label} cannot be read: {error.strerror}") from error
    if path.suffix.lower() in IMAGE_SUFFIXES | _PAGED_SUFFIXES:
        with suppress(VideoError):  # told below
            if page_count(path) > 1:
                return PageSource(label, name, path, frame_rate)
        return ImageSource(label, name, [path], frame_rate)
    return FileSource(f"file:{path}", label, name)  # a colon in a bare name would look like an address


def _pattern(text: str, label: str, name: str, frame_rate: float) -> ImageSource:
    matches = glob.glob(str(Path(text).expanduser()), recursive=True)
    suffix = Path(text).suffix.lower()
    if not matches and suffix and not glob.has_magic(suffix) and suffix not in IMAGE_SUFFIXES:
        raise VideoError(f"{label} matches no file")
    return ImageSource(label, name, image_files(map(Path, matches)), frame_rate)


def _stream(text: str, label: str, name: str) -> Source:
    """A camera, a device or an address."""
    if text.isdecimal():
        device, format_name = camera_device(int(text), sys.platform)
        return LiveSource(partial(open_container, device, label, format_name=format_name), label, name)
    if is_remote(text):
        return RemoteSource(text, label, name)
    if "://" not in text:
        return LiveSource(partial(open_container, text, label, format_name="v4l2"), label, name)
    connect = partial(open_container, text, label, network=True)
    container = connect()
    if text.startswith(("http", "file:")) and container_duration(container) is not None:
        container.close()
        return FileSource(text, label, name, network=True)
    return LiveSource(connect, label, name, container)
