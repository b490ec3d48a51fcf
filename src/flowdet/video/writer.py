"""Pictures into a video file that browsers and players show, or into a picture file."""

from __future__ import annotations

import errno
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import av.error
import numpy as np
from av.codec import Codec
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from flowdet.errors import ConfigError, VideoError
from flowdet.files import replacing
from flowdet.video.sound import Sound
from flowdet.video.streams import FileSource

__all__ = ["VideoWriter", "write_picture"]

_CLOCK = 90_000  # ticks a second, as in MPEG streams: fine enough for any camera
_USUAL_RATE = 25.0
_KEY_TICKS = 2 * _CLOCK  # from one key frame to the next; with each of them what came before is safe
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_ENCODERS = ("libx264", "h264")  # the second name stands for any other one
_BT709 = 1  # FFmpeg's number of the colours of HD video, for matrix, primaries and transfer alike
_LIMITED_RANGE = 1


class VideoWriter:
    """Writes an H.264 mp4 with the times of its frames as given; use it in a `with` statement.

    The file appears under its name when the `with` statement ends, also by an exception: what was done stays
    playable. Without a single frame no file is left. Until then it grows as a hidden file beside it, which is
    playable too, but for the last seconds.

    Args:
        path: The file to write, in a folder that exists; a file of that name is replaced at the end.
        size: (height, width) in pixels of the images. An odd side is stored one pixel longer, for H.264
            halves the colour resolution.
        fps: Frames a second; it sets how long the last frame is shown and helps the encoder, the other
            frames are shown by their times. None: unknown.
        sound: The sound that is copied beside the pictures, from the time of the first to the end of the last; it is
            closed with the writer.

    Raises:
        ConfigError: `size` or `fps` is impossible.
        VideoError: The path is a folder, or in one that cannot be written to, or this PyAV has no H.264 encoder.
    """

    def __init__(
        self, path: str | Path, size: tuple[int, int], fps: float | None = None, *, sound: Sound | None = None
    ) -> None:
        if min(size) < 1:
            raise ConfigError(f"size is (height, width) from 1 pixel on, not {size}")
        if fps is not None and not 0 < fps < float("inf"):
            raise ConfigError(f"fps is a number above 0, not {fps}")
        self.path = Path(path)
        self.frame_count = 0
        self._size = size
        self._fps = fps
        self._step = max(1, round(_CLOCK / (fps or _USUAL_RATE)))
        self._origin = 0.0
        self._last = 0
        self._next_key = 0
        self._is_closed = False
        encoder = _encoder()
        self._replacing = replacing(self.path, error=VideoError, keep=True)
        self._partial = self._replacing.__enter__()
        # Fragments while it grows, a plain mp4 when it is closed.
        options = {"movflags": "+hybrid_fragmented", "flush_packets": "1"}
        self._container = av.open(f"file:{self._partial}", "w", format="mp4", options=options)
        self._stream = _add_stream(self._container, encoder, size, Fraction(_CLOCK, self._step))
        self._sound = sound
        if sound:
            sound.add_to(self._container)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(VideoError):  # the first error counts
                self.close()

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Appends one picture.

        Args:
            image: [h, w, 3] uint8 RGB, of the size given to the writer.
            time: Seconds; the first frame's time becomes 0, a time not after the last one is moved behind it.

        Raises:
            VideoError: The image has another size, the writer is closed, or the disk is full; in the last
                case the frames that are safe are left as a playable file.
        """
        if self._is_closed:
            raise VideoError(f"'{self.path}' is finished: nothing can be appended")
        if image.shape != (*self._size, 3):
            height, width = self._size
            raise VideoError(f"expected images of {width}x{height} for '{self.path}', came {list(image.shape)}")
        if not self.frame_count:
            self._origin = time
            if self._sound:
                self._sound.begin(time)
        tick = round((time - self._origin) * _CLOCK)
        if self.frame_count:
            tick = max(tick, self._last + 1)
        picture = VideoFrame.from_ndarray(_even(image), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=_BT709)
        picture.pts = tick
        picture.time_base = Fraction(1, _CLOCK)
        if tick >= self._next_key:
            picture.pict_type = PictureType.I
            self._next_key = tick + _KEY_TICKS
        self._encode(picture)
        self._last = tick
        self.frame_count += 1

    def close(self) -> None:
        """Finishes the file and gives it its name; further calls do nothing.

        Raises:
            VideoError: The disk is full; the frames that are safe are left as a playable file.
        """
        if self._is_closed:
            return
        if self.frame_count > 1 and self._fps is None:
            self._step = max(1, self._last // (self.frame_count - 1))
        if self.frame_count:
            self._encode(None)
        self._is_closed = True
        if self._sound:
            self._sound.close()
        try:
            self._container.close()
        except (OSError, av.error.FFmpegError) as error:
            raise self._failure(error) from error
        if self.frame_count:
            self._publish()
        else:
            self._discard()

    def _encode(self, picture: VideoFrame | None) -> None:
        """Encodes and stores a picture; None: what the encoder holds back."""
        try:
            for packet in self._stream.encode(picture):
                packet.duration = self._step  # players use that of the last one; times tell the others'
                self._container.mux(packet)
            if self._sound:
                end = self._last if picture is None else picture.pts or 0
                self._sound.copy(self._container, (end + self._step) / _CLOCK)
        except (OSError, av.error.FFmpegError) as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError | av.error.FFmpegError) -> VideoError:
        """Ends the file; what is playable of it gets its name."""
        self._is_closed = True
        with suppress(OSError, av.error.FFmpegError):
            self._container.close()
        message = f"{self.path} cannot be written: {error.strerror or error}"
        if error.errno in _NO_ROOM:
            message += "; choose a place with more room"
        try:
            FileSource(f"file:{self._partial}", "", "")
        except VideoError:
            self._discard()
            return VideoError(f"{message}; nothing of it was kept")
        self._publish()
        return VideoError(f"{message}; the video up to about there is kept and playable")

    def _publish(self) -> None:
        self._replacing.__exit__(None, None, None)

    def _discard(self) -> None:
        reason = VideoError("nothing to keep")
        self._replacing.__exit__(VideoError, reason, None)


def write_picture(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Writes one picture whole or not at all.

    Args:
        path: A .png or .jpg file, in a folder that exists.
        image: [h, w, 3] uint8 RGB.

    Raises:
        VideoError: It cannot be written.
    """
    kind = "png" if Path(path).suffix.lower() == ".png" else "jpeg"
    with replacing(Path(path), error=VideoError) as partial:
        Image.fromarray(image).save(partial, kind, quality=95)


def _encoder() -> str:
    """The best H.264 encoder of the FFmpeg at hand.

    Raises:
        VideoError: There is none.
    """
    for name in _ENCODERS:
        try:
            Codec(name, "w")
        except ValueError:
            continue
        return name
    raise VideoError("this PyAV has no H.264 encoder: install the wheel, pip install --force-reinstall av")


def _add_stream(container: OutputContainer, codec: str, size: tuple[int, int], rate: Fraction) -> VideoStream:
    options = {"preset": "veryfast", "crf": "20"} if codec == "libx264" else {}
    stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=options))
    stream.height, stream.width = (side + side % 2 for side in size)
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = Fraction(1, _CLOCK)
    context.max_b_frames = 0  # mp4 counts a track's length in decoding order: with B-frames and varying times too short
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE
    return stream


def _even(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeats the last row and column of an image with odd sides."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return np.ascontiguousarray(image)
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
