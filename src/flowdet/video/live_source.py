"""Cameras and network streams, which come once and at their own pace."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from fractions import Fraction

from av.container import InputContainer

from flowdet.errors import VideoError
from flowdet.types import Frame
from flowdet.video.containers import USUAL_RATE, frame_rate, video_stream
from flowdet.video.decoding import Layout, pictures, pixel_aspect, select
from flowdet.video.source import Selection
from flowdet.video.tally import Clock, Damage, Tally, report_damage

__all__ = ["LiveSource", "camera_device"]


class LiveSource:
    """A camera or a stream that comes once, at its own pace.

    Args:
        container: The open source; it is closed after the iteration, or by `close`.
        label: How messages call it.
        name: A short name for outputs.
    """

    is_live = True

    def __init__(self, container: InputContainer, label: str, name: str) -> None:
        self.label = label
        self.name = name
        self._container: InputContainer | None = container
        stream = video_stream(container)
        width, height = stream.codec_context.width, stream.codec_context.height
        layout = Layout(width, height, aspect=pixel_aspect(stream.sample_aspect_ratio))
        self.size: tuple[int, int] | None = layout.size if width and height else None
        self.fps = frame_rate(stream)
        self.total: int | None = None

    def frames(self, selection: Selection, problems: list[str]) -> Generator[Frame, None, None]:
        """Yields the selected frames until the source ends; works once.

        Raises:
            VideoError: It was read before.
        """
        container, self._container = self._container, None
        if container is None:
            raise VideoError(f"{self.label} is live and can be read only once: open it again")
        damage = Damage()
        with closing(container):
            stream = video_stream(container)
            clock = Clock(stream.time_base or Fraction(1), None, 1 / (self.fps or USUAL_RATE))
            tally = Tally(clock, damage, by_stamp=False)
            frames = select(pictures(container, stream, tally), selection, None, tally, stream.sample_aspect_ratio)
            yield from report_damage(frames, damage, problems)

    def close(self) -> None:
        """Closes the source if it is not being read; an iteration closes it by itself."""
        if self._container is not None:
            self._container.close()
            self._container = None


def camera_device(number: int, platform: str) -> tuple[str, str]:
    """FFmpeg's names of a camera and of the way to it.

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
