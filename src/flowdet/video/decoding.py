"""From the packets of one video stream to upright pictures."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from flowdet.types import Frame
from flowdet.video.source import Selection
from flowdet.video.tally import Damage, Tally

__all__ = ["Layout", "packets", "pictures", "pixel_aspect", "select"]

_READ_FAILURES = 100  # a reader that fails this often in a row will not recover
_WIDEST_PIXEL = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pictures of a stream lie in memory and how they are to be turned.

    Attributes:
        width: Stored width in pixels.
        height: Stored height in pixels.
        matrix: The terms (a, b, c, d) of the display matrix: a stored point (x, y) is shown at
            (a x + c y, b x + d y), up to scale and shift.
        aspect: Width of a stored pixel over its height. The upright image has square pixels, no fewer than
            are stored.
    """

    width: int
    height: int
    matrix: tuple[int, int, int, int] = (1, 0, 0, 1)
    aspect: Fraction = Fraction(1)

    @classmethod
    def of(cls, picture: VideoFrame, aspect: Fraction | None) -> Layout:
        """The layout of a decoded picture whose pixels have this aspect ratio, when known."""
        side_data = picture.side_data.get("DISPLAYMATRIX")
        if side_data is None:
            return cls(picture.width, picture.height, aspect=pixel_aspect(aspect))
        a, b, _, c, d = (int(term) for term in np.frombuffer(bytes(cast("SideData", side_data)), np.int32)[:5])
        return cls(picture.width, picture.height, (a, b, c, d), pixel_aspect(aspect))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright image."""
        width, height = self._square
        return (width, height) if self._is_turned else (height, width)

    @property
    def _square(self) -> tuple[int, int]:
        """(width, height) with square pixels, not yet turned."""
        if self.aspect > 1:
            return round(self.width * self.aspect), self.height
        return self.width, round(self.height / self.aspect)

    @property
    def _is_turned(self) -> bool:
        a, b, _, _ = self.matrix
        return abs(b) > abs(a)

    def fits(self, picture: VideoFrame) -> bool:
        """Whether the picture has the stored size."""
        return (picture.width, picture.height) == (self.width, self.height)

    def upright(self, picture: VideoFrame) -> NDArray[np.uint8]:
        """The picture as [h, w, 3] uint8 RGB, scaled if it has another size, and turned."""
        width, height = self._square
        converted = picture.to_ndarray(format="rgb24", width=width, height=height)
        image = cast("NDArray[np.uint8]", converted)
        a, b, c, d = self.matrix
        down, right = (b, c) if self._is_turned else (d, a)
        if self._is_turned:
            image = image.transpose(1, 0, 2)
        return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def pixel_aspect(declared: Fraction | None) -> Fraction:
    """The aspect ratio of pixels that a stream declares; 1 where it declares none or nonsense."""
    return declared if declared and 1 / _WIDEST_PIXEL <= declared <= _WIDEST_PIXEL else Fraction(1)


def packets(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[Packet[VideoStream]]:
    """Yields the stream's packets to the end; goes on after damage that the reader reports."""
    failures = 0
    while failures < _READ_FAILURES:
        try:
            for packet in container.demux(stream):
                failures = 0
                if packet.size:  # an empty one would tell the decoder that the stream has ended
                    yield packet
        except av.error.InvalidDataError:
            failures += 1
        except av.error.ExitError:
            damage.stopped = "reading stopped because no data came any more"
            return
        except av.error.FFmpegError as error:
            damage.stopped = f"reading stopped with the error: {error.strerror}"
            return
        else:
            return
    damage.stopped = "reading stopped because the rest of the file is damaged"


def pictures(container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator[VideoFrame]:
    """Decodes packet by packet and yields every picture that the decoder can make."""
    for packet in packets(container, stream, tally.damage):
        tally.packet(packet)
        if packet.is_corrupt:
            tally.refused(packet)
            continue
        try:
            decoded = stream.decode(packet)
        except av.error.FFmpegError:
            tally.refused(packet)
            continue
        yield from decoded
    try:
        decoded = stream.decode(None)
    except av.error.FFmpegError:  # the last packet was damaged, or nothing was ever decoded
        return
    yield from decoded


def select(
    found: Iterable[VideoFrame],
    selection: Selection,
    layout: Layout | None,
    tally: Tally,
    aspect: Fraction | None = None,
) -> Generator[Frame, None, bool]:
    """Yields the selected ones of decoded pictures as frames; only these are converted to RGB.

    Args:
        found: Pictures in the order of showing.
        selection: What is wanted.
        layout: How pictures lie; None: as the first one does.
        tally: Tells their numbers and times, notes flawed and rescaled ones.
        aspect: Aspect ratio of their pixels, when known; only used without a layout.

    Returns:
        Whether the end of `found` was reached.
    """
    first: int | None = None
    for picture in found:
        number, time = tally.picture(picture)
        if selection.is_late(time):
            return False
        if selection.is_early(time):
            continue
        first = number if first is None else first
        if (number - first) % selection.every:
            continue
        layout = layout or Layout.of(picture, aspect)
        if picture.is_corrupt:
            tally.damage.flawed.add(time)
        if not layout.fits(picture):
            tally.damage.rescaled.add(time)
        yield Frame(number, time, layout.upright(picture))
    return True
