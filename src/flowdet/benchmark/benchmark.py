"""Measures what a system costs here, alone or in turn with another one."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch

from flowdet.benchmark.clip import FRAME_RATE, Clip, write_clip
from flowdet.benchmark.machine import OtherProcesses, clock, matrix_rates, processor, resident_peak
from flowdet.benchmark.meter import Costs, MeteredStream, count_gflop, warm_up
from flowdet.benchmark.report import FirstFrame, FrameCost, Machine, Report, SystemCost, Versus, spread
from flowdet.errors import CheckpointError, ConfigError
from flowdet.ops.devices import threads as torch_threads
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load_random, load_system, weight_file
from flowdet.systems.options import DEFAULT_SYSTEM, SystemOptions
from flowdet.video.writer import VideoWriter
from flowdet.weights.zoo import SHIPPED
from flowdet.work import pool
from flowdet.work.jobs import Do, results

__all__ = ["Contender", "Loaded", "alternate", "average", "benchmark", "ratios"]

_IMAGES = 25
_LEAST_TURNS = 3
_RANDOM_NOTE = (
    "its weights are random: almost no box is dropped for its score, so non-maximum suppression has as much to do as "
    "it ever can, and hardly a box is drawn"
)

T = TypeVar("T")
Turns = list[list[T]]
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A system; where its weights come from ("shipped", the name of a file, or "random"); notes about them."""

    system: VideoDetector
    weights: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """A system and the frames it is measured on.

    Attributes:
        options: Which system, and how it detects.
        size: (height, width) of the frames; None: the largest that the system takes without shrinking them.
    """

    options: SystemOptions
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.size and not all(16 <= side <= 8192 for side in self.size):
            raise ConfigError(f"frames have 16 to 8192 pixels a side, not {self.size[0]}x{self.size[1]}")

    def load(self) -> Loaded:
        """Loads the system; without weights at hand they are random, the same ones each time.

        Raises:
            ConfigError: There is no such system, device or backend, or an option has no effect on the system.
            CheckpointError: The named weight file does not fit.
        """
        weights, name = self.options.weights, self.options.system or DEFAULT_SYSTEM
        try:
            system = load_system(self.options)
            is_shipped = not weights and name in SHIPPED
            return Loaded(system, "shipped" if is_shipped else weight_file(self.options).name)
        except CheckpointError as error:
            if weights:
                raise
            return Loaded(load_random(self.options), "random", (f"{_RANDOM_NOTE} ({error})",))


@dataclass(frozen=True, eq=False)
class _Entry:
    """A contender in its steady state, and what was measured while the other did not run."""

    contender: Contender
    loaded: Loaded
    clip: Clip
    first: FirstFrame
    gflop: list[Costs]
    stream: MeteredStream


def benchmark(
    contender: Contender,
    versus: Contender | None = None,
    *,
    frames: int = 20,
    threads: int | None = None,
    tell: Tell = lambda step: None,
) -> Report:
    """Measures a system on a video of moving photographs.

    Args:
        contender: The system.
        versus: Another one on the same device, measured in alternation. Without a size of its own its frames have that
            of the first.
        frames: The least number of frames that are measured; whole turns of the kinds of frames, three at least.
        threads: Of torch; None: as many as it takes by itself.
        tell: Is told what is under way.

    Raises:
        ConfigError: There is no such system, or an argument cannot work.
        CheckpointError: A named weight file does not fit.
        FlowdetError: There is not memory enough.
    """
    for name, number in (("frames", frames), ("threads", threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is a whole number from 1 on, not {number}")
    count = threads or torch.get_num_threads()
    with torch_threads(count), TemporaryDirectory() as temporary:
        folder = Path(temporary)
        contenders = [contender, versus] if versus else [contender]
        loaded = [each.load() for each in contenders]
        inputs = loaded[0].system.config.inputs
        size = contender.size or (inputs.short_side, inputs.long_side)
        entries = []
        for number, (each, ready) in enumerate(zip(contenders, loaded, strict=True)):
            name, path = ready.system.config.name, folder / f"{number}.mp4"
            tell(f"{name}: making the video")
            clip = write_clip(path, each.size or size, _IMAGES)
            tell(f"{name}: first frame and memory, in a process of its own")
            first = _measure_first_frame(each, ready.system.config, path, count)
            tell(f"{name}: counting its arithmetic")
            gflop = count_gflop(ready.system, clip)
            tell(f"{name}: towards the steady state")
            entries.append(_Entry(each, ready, clip, first, gflop, MeteredStream(ready.system, clip)))
        return _report(entries, folder, frames, count, tell)


def _report(entries: Sequence[_Entry], folder: Path, frames: int, threads: int, tell: Tell) -> Report:
    streams = [each.stream for each in entries]
    kinds = [len(each.loaded.system.config.method.kinds) for each in entries]
    lengths = [-(-max(kinds) // count) * count for count in kinds]
    turns = max(-(-frames // max(kinds)), _LEAST_TURNS)
    fewer = max(turns // 2, _LEAST_TURNS)
    device = next(entries[0].loaded.system.parameters()).device
    others, peak = OtherProcesses(), matrix_rates(device)
    tell(f"forward and post-processing, {turns} turns of {max(kinds)}")
    forward = alternate([each.frames() for each in streams], lengths, turns)
    peak += matrix_rates(device)
    tell("from decoding to encoding")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(VideoWriter(folder / f"out{number}.mp4", each.clip.size, FRAME_RATE))
            for number, each in enumerate(entries)
        ]
        whole = [each.frames(writer=writer) for each, writer in zip(streams, writers, strict=True)]
        everything = alternate(whole, lengths, fewer)
    tell("part by part")
    parts = alternate([each.frames(by_part=True) for each in streams], lengths, fewer)
    peak += matrix_rates(device)
    machine = Machine(
        device=str(device),
        processor=processor(device),
        cores=os.cpu_count() or 1,
        threads=threads,
        torch=torch.__version__,
        peak=tuple(peak),
        others_cores=others.cores(),
    )
    costs = [_system_cost(*each) for each in zip(entries, forward, everything, parts, strict=True)]
    if len(costs) == 1:
        return Report(machine, costs[0])
    ratio = ratios(*([[each.get("forward", 0.0) for each in turn] for turn in found] for found in forward))
    ratio_everything = ratios(*([[sum(each.values()) for each in turn] for turn in found] for found in everything))
    return Report(machine, costs[0], Versus(costs[1], spread(ratio), spread(ratio_everything)))


def alternate(streams: Sequence[Iterator[T]], lengths: Sequence[int], turns: int) -> list[Turns[T]]:
    """Takes from streams in alternation, so that what disturbs the machine disturbs all of them.

    Args:
        streams: Each is first every other time.
        lengths: How many to take of each in a turn.
        turns: The number of turns, after one that warms up.

    Returns:
        For each stream and turn what came.
    """
    found: list[Turns[T]] = [[] for _ in streams]
    for turn in range(turns + 1):
        order = list(zip(found, streams, lengths, strict=True))
        for taken, stream, length in order if turn % 2 else reversed(order):
            taken.append(list(islice(stream, length)))
    return [taken[1:] for taken in found]


def ratios(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> list[float]:
    """Returns the mean of the second over that of the first, turn by turn."""
    return [mean(theirs) / mean(ours) for ours, theirs in zip(first, second, strict=True)]


def _system_cost(entry: _Entry, forward: Turns[Costs], everything: Turns[Costs], parts: Turns[Costs]) -> SystemCost:
    system = entry.loaded.system
    config, kinds = system.config, system.config.method.kinds
    passes = [list(chain.from_iterable(turns)) for turns in (forward, everything, parts)]

    def cost_of(kind: str) -> FrameCost:
        places = [place for place, each in enumerate(kinds) if each == kind]
        if len(places) == len(kinds):  # they may be computed together
            return mean_cost
        frames = ([each for number, each in enumerate(costs) if number % len(kinds) in places] for costs in passes)
        return FrameCost.of(*frames, gflop=average([entry.gflop[place] for place in places]))

    means = ([average(costs[at : at + len(kinds)]) for at in range(0, len(costs), len(kinds))] for costs in passes)
    mean_cost = FrameCost.of(*means, gflop=average(entry.gflop))
    return SystemCost(
        system=config.name,
        weights=entry.loaded.weights,
        backend=system.backend,
        options=entry.contender.options,
        size=entry.clip.size,
        padded=entry.stream.padded,
        kinds=kinds,
        frames={kind: cost_of(kind) for kind in dict.fromkeys(kinds)},
        mean=mean_cost,
        lookahead=system.method.lookahead,
        first=entry.first,
        notes=entry.loaded.notes,
    )


def average(costs: Sequence[Costs]) -> Costs:
    """Returns the mean of each part; a part that a frame does not have costs it nothing."""
    names = dict.fromkeys(name for each in costs for name in each)
    return {name: mean(each.get(name, 0.0) for each in costs) for name in names}


def _measure_first_frame(contender: Contender, config: SystemConfig, clip: Path, threads: int) -> FirstFrame:
    """Runs the system on a video in a new process, which ends with it.

    The configuration brings the modules that define method and detector to the process.
    """
    with closing(
        results(pool.spread([clip], partial(_first_frame, contender, config), processes=1, threads=threads))
    ) as found:
        return next(found)


def _first_frame(contender: Contender, config: SystemConfig, number: int) -> Do[Path, FirstFrame]:
    del number
    return lambda clip, advance: _seen_first(contender, config, clip)


def _seen_first(contender: Contender, config: SystemConfig, clip: Path) -> FirstFrame:
    device = torch.device(contender.options.device)
    before = resident_peak(device)
    system = contender.load().system
    began = clock(device)
    outcomes = system.detect_many([Clip(clip)])
    next(outcomes)
    seconds = clock(device) - began
    for _ in islice(outcomes, warm_up(config.method)):
        pass
    return FirstFrame(seconds, before, resident_peak(device))
