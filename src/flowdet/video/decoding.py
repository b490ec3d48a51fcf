"""From the packets of one video stream to numbered, timed, upright pictures."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Literal, cast

import av.error
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from flowdet.errors import counted
from flowdet.video.containers import demuxed, has_flag
from flowdet.video.source import LazyFrame, Selection

__all__ = [
    "Damage",
    "Layout",
    "Order",
    "Sightings",
    "Timeline",
    "decoded",
    "packets",
    "pixel_aspect",
    "report_damage",
    "selected",
]

_READ_FAILURES = 100  # a reader that fails this often in a row will not recover
_WIDEST_PIXEL = 4
_RARE = 0.25  # of the steps of a stream with a constant rate, at most
_SEAM_PACKETS = 4  # before a restart, which the demuxer flags
_LONGEST_GAP = 10.0  # seconds; in a format that may restart its clock, a longer step is a restart


@dataclass(slots=True)
class Sightings:
    """How many frames share a fault, and when the first and the last came; times are seconds."""

    count: int = 0
    first: float = 0.0
    last: float = 0.0

    def add(self, time: float) -> None:
        """Notes one more frame."""
        if not self.count:
            self.first = time
        self.count += 1
        self.last = max(self.last, time)

    def sentence(self, what: str) -> str:
        """Returns for instance "skipped because ...: 3 frames near 4.2 s"; empty when there were none."""
        if self.count <= 0:
            return ""
        spread = self.last - self.first > 1
        where = f"between {self.first:.1f} s and {self.last:.1f} s" if spread else f"near {self.first:.1f} s"
        return f"{what}: {counted(self.count, 'frame')} {where}"


@dataclass(slots=True)
class Damage:
    """What was found broken in one pass over a stream."""

    lost: Sightings = field(default_factory=Sightings)
    flawed: Sightings = field(default_factory=Sightings)
    rescaled: Sightings = field(default_factory=Sightings)
    gaps: dict[int, float] = field(default_factory=dict)  # time by number of the packet
    interruptions: list[str] = field(default_factory=list)
    stopped: str = ""
    short: str = ""

    def sentences(self) -> list[str]:
        """Returns one plain sentence for each kind of damage."""
        found = [
            self.lost.sentence("skipped because it was too damaged to decode"),
            self.flawed.sentence("kept though damaged in part"),
            self.rescaled.sentence("scaled to the size of the first frame"),
            self._gap_sentence(),
            *self.interruptions,
            self.stopped,
            self.short,
        ]
        return [sentence for sentence in found if sentence]

    def _gap_sentence(self) -> str:
        if not self.gaps:
            return ""
        places = counted(len(self.gaps), "place")
        return f"pieces of the stream are missing at {places}, first near {min(self.gaps.values()):.1f} s"


def report_damage(
    frames: Generator[LazyFrame, None, object], damage: Damage, problems: list[str]
) -> Generator[LazyFrame, None, None]:
    """Yields the frames and keeps `problems` at what is found broken meanwhile."""
    try:
        with closing(frames):
            for frame in frames:
                problems[:] = damage.sentences()
                yield frame
    finally:
        problems[:] = damage.sentences()


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
        """Returns the layout of a decoded picture whose pixels have this aspect ratio, when known."""
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
        """Returns the picture as [h, w, 3] uint8 RGB, scaled if it has another size, and turned."""
        width, height = self._square
        converted = picture.to_ndarray(format="rgb24", width=width, height=height)
        image = cast("NDArray[np.uint8]", converted)
        a, b, c, d = self.matrix
        down, right = (b, c) if self._is_turned else (d, a)
        if self._is_turned:
            image = image.transpose(1, 0, 2)
        return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def pixel_aspect(declared: Fraction | None) -> Fraction:
    """Returns the aspect ratio of pixels that a stream declares; 1 where it declares none or nonsense."""
    return declared if declared and 1 / _WIDEST_PIXEL <= declared <= _WIDEST_PIXEL else Fraction(1)


Order = Literal["presentation", "shuffled", "decoding", "arrival"]
"""What the stamps tell: when each picture is shown; the times that there are, but not which picture has which; the
same, in the stamps of decoding; nothing."""


class Timeline:
    """Numbers and times of the pictures of one pass, in the order of showing.

    Times never fall. A picture that the decoder loses leaves a gap in the numbers. Decoders drop pictures in silence
    after a damaged one: where each packet holds one picture and has a stamp of presentation, a picture is lost if one
    with a later stamp comes instead; elsewhere only reported failures count.

    Args:
        time_base: Seconds of one tick of the stream's stamps.
        order: What the stamps tell.
        step: Seconds from one picture to the next where stamps are missing.
        origin: The stamp of time 0; None: that of the first picture.
        one_to_one: Each packet holds one picture.
        first: Number of the first picture to come.
        floor: Stamp of that picture, where reading begins in the middle: pictures that are shown before it are neither
            expected nor lost.

    Attributes:
        damage: What was lost or broken.
        packets: The number of packets read.
        last: Stamp of the last picture.
        restarts: How often the stamps began again.
        reorders: Some packet is shown before one that was decoded earlier.
    """

    def __init__(
        self,
        time_base: Fraction | None,
        *,
        order: Order,
        step: float,
        origin: int | None = None,
        one_to_one: bool = False,
        first: int = 0,
        floor: int | None = None,
    ) -> None:
        self.damage = Damage()
        self.packets = 0
        self.restarts = 0
        self.reorders = False
        self.last: int | None = None
        self._time_base = time_base or Fraction(1)
        self._order = order
        self._step = step
        self._origin = origin
        self._begins_at_0 = origin is not None and floor is None
        self._one_to_one = one_to_one
        self._next = first
        self._floor = floor
        self._time = self._lost_until = -math.inf
        self._is_piecewise = False
        self._regular_steps = self._missing = 0
        self._first_hole: float | None = None
        self._began = 0.0
        self._shift = 0.0
        self._offset = 0  # ticks that undo restarts of the stamps
        self._decoded: int | None = None  # the latest stamp of decoding
        self._highest: float = -math.inf  # stamp of presentation
        self._pending: list[int] = []
        self._gone: set[int] = set()  # stamps of pictures that are taken for lost

    @property
    def is_open(self) -> bool:
        """Some packet has given no picture yet."""
        return self._claims and bool(self._pending)

    @property
    def end(self) -> float:
        """Seconds at which the last picture is over."""
        return max(self._time, self._lost_until, -self._step) + self._step

    @property
    def _is_sorted(self) -> bool:
        return self._order in ("shuffled", "decoding")

    @property
    def _claims(self) -> bool:
        return self._order == "presentation" and self._one_to_one

    def packet(self, packet: Packet[VideoStream], *, may_restart: bool) -> None:
        """Notes a packet, in the order of reading; its stamps are changed where they began again.

        Args:
            packet: A packet that is not empty.
            may_restart: A large step of the stamps is a restart, as well as a step back.
        """
        self.packets += 1
        self._is_piecewise = may_restart
        self._undo_restart(packet, may_restart)
        if packet.pts is not None:
            self.reorders |= packet.pts < self._highest
            self._highest = max(self._highest, packet.pts)
        stamp = packet.dts if self._order == "decoding" else packet.pts
        if stamp is None or packet.is_discard or not (self._is_sorted or self._claims):
            return
        if self._floor is None or stamp >= self._floor:
            heapq.heappush(self._pending, stamp)

    def flagged(self, packet: Packet[VideoStream]) -> None:
        """Notes that pieces are missing near a packet, which may decode all the same."""
        self.damage.gaps[self.packets] = max(0.0, self._seconds(packet.pts))

    def refused(self, packet: Packet[VideoStream]) -> None:
        """Notes that the decoder reports a packet as damaged."""
        if not self._claims and not packet.is_discard:
            self._lose(heapq.heappop(self._pending) if self._pending else packet.pts)

    def picture(self, picture: VideoFrame) -> tuple[int, float]:
        """Returns the number and the time of the next picture; the time is in seconds."""
        stamp = picture.pts
        if self._is_sorted:
            stamp = heapq.heappop(self._pending) if self._pending else None
        elif self._order == "arrival":
            stamp = None
        elif self._claims and stamp is not None:
            if stamp in self._gone:  # it only came late: its stamp was not that of presentation
                self._gone.remove(stamp)
                self.damage.lost.count -= 1
            while self._pending and self._pending[0] < stamp:
                self._gone.add(self._pending[0])
                self._lose(heapq.heappop(self._pending))
            if self._pending and self._pending[0] == stamp:
                heapq.heappop(self._pending)
        self.last = stamp
        self._next += 1
        before, self._time = self._time, self._seconds(stamp)
        self._watch_step(before)
        return self._next - 1, self._time

    def finish(self) -> None:
        """No picture will come any more."""
        while self._one_to_one and self._pending:
            self._lose(heapq.heappop(self._pending))
        # A transport stream may lose a picture before anyone sees a packet of it; only the rate tells.
        missing = self._missing - self.damage.lost.count
        if self._is_piecewise and missing > 0 and self._missing < _RARE * self._regular_steps:
            frames = counted(missing, "frame seems", "frames seem")
            self.damage.short = f"{frames} to be missing from the stream, first near {self._first_hole:.1f} s"

    def reconnect(self, time_base: Fraction | None, gap: float) -> None:
        """Goes on with a new connection to the same source, this many seconds after the last picture."""
        self._time_base = time_base or Fraction(1)
        self._origin = self._decoded = None
        self._offset = 0
        self._pending.clear()
        self._shift = self.end - self._step + gap

    def _watch_step(self, before: float) -> None:
        """Counts the pictures that would fit between the last two, or before the first."""
        if before == -math.inf:
            before = -self._step if self._begins_at_0 else self._time
        fitting = round((self._time - before) / self._step) - 1 if self._step else 0
        if fitting > 0:
            self._missing += fitting
            self._first_hole = max(before, 0.0) if self._first_hole is None else self._first_hole
        else:
            self._regular_steps += 1

    def _undo_restart(self, packet: Packet[VideoStream], may_restart: bool) -> None:
        if packet.dts is None:
            if packet.pts is not None:
                packet.pts += self._offset
            return
        dts = packet.dts + self._offset
        if self._decoded is not None:
            seconds = float((dts - self._decoded) * self._time_base)
            is_back = seconds < 0 and (packet.is_keyframe or seconds < -1)
            if is_back or (may_restart and seconds > _LONGEST_GAP):
                step = max(1, round(self._step / self._time_base))
                self._offset += self._decoded + step - dts
                dts = self._decoded + step
                self.restarts += 1
                for number in range(self.packets - _SEAM_PACKETS, self.packets + 1):  # there nothing is missing
                    self.damage.gaps.pop(number, None)
        self._decoded = dts
        if packet.pts is not None:
            packet.pts += self._offset
        packet.dts = dts

    def _lose(self, stamp: int | None) -> None:
        self._next += 1
        self._lost_until = max(0.0, self._seconds(stamp))
        self.damage.lost.add(self._lost_until)

    def _seconds(self, stamp: int | None) -> float:
        """The time of a stamp; without one, of now or one step after the last picture."""
        if self._order == "arrival":
            if self._time == -math.inf:
                self._began = time.monotonic()
                return 0.0
            return time.monotonic() - self._began
        if stamp is None:
            return self.end
        if self._origin is None:
            self._origin = stamp
        return max(float((stamp - self._origin) * self._time_base) + self._shift, self._time)


def packets(container: InputContainer, stream: VideoStream, timeline: Timeline) -> Iterator[Packet[VideoStream]]:
    """Yields the stream's packets to the end; goes on after damage that the reader reports."""
    failures = 0
    may_restart = has_flag(container, Flags.ts_discont)
    while failures < _READ_FAILURES:
        try:
            for packet in demuxed(container, stream):
                failures = 0
                if packet.size:  # an empty one would tell the decoder that the stream has ended
                    timeline.packet(packet, may_restart=may_restart)
                    yield packet
        except av.error.InvalidDataError:
            failures += 1
        except av.error.ExitError:
            timeline.damage.stopped = "reading stopped because no data came any more"
            return
        except av.error.FFmpegError as error:
            timeline.damage.stopped = f"reading stopped with the error: {error.strerror}"
            return
        else:
            return
    timeline.damage.stopped = "reading stopped because the rest of the file is damaged"


def decoded(container: InputContainer, stream: VideoStream, timeline: Timeline) -> Iterator[VideoFrame]:
    """Decodes packet by packet and yields every picture that the decoder can make."""
    # A transport stream flags what comes near a lost piece or a seam; elsewhere the packet is incomplete.
    is_piecewise = has_flag(container, Flags.ts_discont)
    for packet in packets(container, stream, timeline):
        if packet.is_corrupt and not is_piecewise:
            timeline.refused(packet)
            continue
        if packet.is_corrupt:
            timeline.flagged(packet)
        try:
            found = stream.decode(packet)
        except av.error.FFmpegError:
            timeline.refused(packet)
            continue
        yield from found
    try:
        found = stream.decode(None)
    except av.error.FFmpegError:  # the last packet was damaged, or nothing was ever decoded
        return
    yield from found


def selected(
    found: Iterator[VideoFrame],
    selection: Selection,
    layout: Layout | None,
    timeline: Timeline,
    aspect: Fraction | None = None,
) -> Generator[LazyFrame, None, bool]:
    """Yields the selected ones of decoded pictures.

    Args:
        found: Pictures in the order of showing.
        selection: What is wanted.
        layout: How pictures lie; None: as the first one does.
        timeline: Tells their numbers and times; flawed and rescaled ones are noted in its damage.
        aspect: Aspect ratio of their pixels, when known; only used without a layout.

    Returns:
        Whether the end of `found` was reached.
    """
    first: int | None = None
    for picture in found:
        number, seconds = timeline.picture(picture)
        if selection.is_late(seconds):
            return False
        if selection.is_early(seconds):
            continue
        first = number if first is None else first
        if (number - first) % selection.every:
            continue
        layout = layout or Layout.of(picture, aspect)
        if picture.is_corrupt:
            timeline.damage.flawed.add(seconds)
        if not layout.fits(picture):
            timeline.damage.rescaled.add(seconds)
        yield LazyFrame(number, seconds, partial(layout.upright, picture))
    return True
