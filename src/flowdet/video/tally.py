"""The books of one pass over a video stream: times, true numbers, damage."""

from __future__ import annotations

import heapq
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from flowdet.types import Frame

__all__ = ["Clock", "Damage", "Sightings", "Tally", "report_damage"]


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
        self.last = time

    def sentence(self, what: str) -> str:
        """For instance "skipped because ...: 3 frames near 4.2 s"; empty when there were none."""
        if not self.count:
            return ""
        noun = "frame" if self.count == 1 else "frames"
        spread = self.last - self.first > 1
        where = f"between {self.first:.1f} s and {self.last:.1f} s" if spread else f"near {self.first:.1f} s"
        return f"{what}: {self.count} {noun} {where}"


@dataclass(slots=True)
class Damage:
    """What was found broken in one pass over a stream."""

    lost: Sightings = field(default_factory=Sightings)
    flawed: Sightings = field(default_factory=Sightings)
    rescaled: Sightings = field(default_factory=Sightings)
    stopped: str = ""
    short: str = ""

    def sentences(self) -> list[str]:
        """One plain sentence for each kind of damage."""
        found = [
            self.lost.sentence("skipped because it was too damaged to decode"),
            self.flawed.sentence("kept though damaged in part"),
            self.rescaled.sentence("scaled to the size of the first frame"),
            self.stopped,
            self.short,
        ]
        return [sentence for sentence in found if sentence]


def report_damage(
    frames: Generator[Frame, None, object], damage: Damage, problems: list[str]
) -> Generator[Frame, None, None]:
    """Yields the frames and keeps `problems` at what is found broken meanwhile."""
    try:
        with closing(frames):
            for frame in frames:
                problems[:] = damage.sentences()
                yield frame
    finally:
        problems[:] = damage.sentences()


class Clock:
    """Tells the time of pictures, in seconds from the start of the stream.

    Args:
        time_base: Seconds of one tick of the stream's stamps.
        origin: The stamp of time 0; None: that of the first picture.
        step: Seconds from one picture to the next where stamps are missing.
        decoding_order: Use decoding stamps. AVI stores no others; the presentation stamps FFmpeg
            derives for it jump back and forth.
    """

    def __init__(self, time_base: Fraction, origin: int | None, step: float, *, decoding_order: bool = False) -> None:
        self._time_base = time_base
        self._origin = origin
        self._step = step
        self._last = -step
        self._decoding_order = decoding_order

    def stamp(self, item: VideoFrame | Packet[VideoStream]) -> int | None:
        """The stamp that counts, in ticks of the stream."""
        if self._decoding_order or item.pts is None:
            return item.dts
        return item.pts

    def time(self, stamp: int | None) -> float:
        """Seconds; without a stamp, one step after the last time asked for."""
        if stamp is None:
            self._last += self._step
        else:
            if self._origin is None:
                self._origin = stamp
            self._last = float((stamp - self._origin) * self._time_base)
        return self._last

    @property
    def end(self) -> float:
        """Seconds at which the picture that was asked for last is over."""
        return self._last + self._step


class Tally:
    """Numbers the pictures of a stream so that one that is lost leaves a gap.

    Decoders drop pictures in silence. Where each packet holds one picture, a picture's number is the rank
    of its stamp among the packets read; elsewhere pictures and reported failures are counted.

    Args:
        clock: Tells when a lost picture would have been shown.
        damage: Where lost pictures are noted.
        by_stamp: Each packet holds one picture and has a presentation stamp.
        first: Number of the first picture to come.
        floor: Stamp of that picture, where reading begins in the middle: pictures that are shown before it
            are neither expected nor lost.

    Attributes:
        clock, damage: As given.
        packets: How many packets were read.
        last: Stamp of the last picture.
    """

    def __init__(
        self, clock: Clock, damage: Damage, *, by_stamp: bool, first: int = 0, floor: int | None = None
    ) -> None:
        self.clock = clock
        self.damage = damage
        self._by_stamp = by_stamp
        self._next = first
        self._floor = floor
        self._pending: list[int] = []
        self.packets = 0
        self.last: int | None = None

    @property
    def is_open(self) -> bool:
        """Some packet has given no picture yet."""
        return bool(self._pending)

    def packet(self, packet: Packet[VideoStream]) -> None:
        """Notes a packet, in the order of reading."""
        self.packets += 1
        if not self._by_stamp or packet.pts is None or packet.is_discard:
            return
        if self._floor is None or packet.pts >= self._floor:
            heapq.heappush(self._pending, packet.pts)

    def refused(self, packet: Packet[VideoStream]) -> None:
        """Notes that a packet was not decoded."""
        if not self._by_stamp:
            self._lose(self.clock.stamp(packet))

    def picture(self, picture: VideoFrame) -> tuple[int, float]:
        """The number and the time of the next picture."""
        stamp = self.clock.stamp(picture)
        while stamp is not None and self._pending and self._pending[0] < stamp:
            self._lose(heapq.heappop(self._pending))
        if self._pending and self._pending[0] == stamp:
            heapq.heappop(self._pending)
        self.last = stamp
        self._next += 1
        return self._next - 1, self.clock.time(stamp)

    def finish(self) -> None:
        """No picture will come any more."""
        while self._pending:
            self._lose(heapq.heappop(self._pending))

    def _lose(self, stamp: int | None) -> None:
        self._next += 1
        self.damage.lost.add(self.clock.time(stamp))
