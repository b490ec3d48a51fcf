"""Measures what a system costs here, alone or in turn with another one."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch

from flowdet.benchmark.clip import moving_images, there_and_back, write_clip
from flowdet.benchmark.doubts import doubts
from flowdet.benchmark.lane import Lane, Stages, frame_costs, mean_cost, open_lane
from flowdet.benchmark.machine import cpu_use, load_before, matrix_rates, others_cores, processor
from flowdet.benchmark.report import Machine, Report, SystemCost, spread
from flowdet.benchmark.start import Start, measure_start
from flowdet.benchmark.subject import Built, Subject, build_subject
from flowdet.errors import ConfigError

__all__ = ["alternate", "benchmark", "ratios"]

_IMAGES = 25
_LEAST_TURNS = 3

T = TypeVar("T")

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Row:
    """A system that is ready to be measured, and how it started."""

    subject: Subject
    size: tuple[int, int]
    built: Built
    start: Start
    lane: Lane


def benchmark(
    subject: Subject,
    versus: Subject | None = None,
    *,
    frames: int = 20,
    threads: int | None = None,
    device: str = "cpu",
    tell: Tell = lambda step: None,
) -> Report:
    """Measures a system on a video of moving photographs.

    Args:
        subject: The system.
        versus: Another one, or the same with other options, measured in alternation. Without a size of its own its
            frames have that of the first.
        frames: So many are measured of each at least; whole key-frame periods of DFF, three at least.
        threads: Of torch; None: as many as it takes by itself.
        device: Where the systems run.
        tell: Told what is under way.

    Raises:
        ConfigError: There is no such system, or an argument cannot work.
        CheckpointError: A named weight file does not fit.
        FlowdetError: There is not memory enough.
    """
    for name, number in (("frames", frames), ("threads", threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is a whole number from 1 on, not {number}")
    with _threads(threads or torch.get_num_threads()) as count, ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        subjects = [subject, versus] if versus else [subject]
        built = [build_subject(each, device) for each in subjects]
        inputs = built[0].system.config.inputs
        size = subject.size or (inputs.short_side, inputs.long_side)
        rows = []
        for number, (wanted, made) in enumerate(zip(subjects, built, strict=True)):
            tell(f"{made.system.config.name}: making the video")
            clip, out = folder / f"{number}.mp4", folder / f"out{number}.mp4"
            shown = wanted.size or size
            images = there_and_back(moving_images(shown, _IMAGES))
            write_clip(clip, images)
            tell(f"{made.system.config.name}: first frame and memory, in a process of its own")
            start = measure_start(wanted, clip, device, count)
            tell(f"{made.system.config.name}: towards the steady state")
            rows.append(
                _Row(wanted, shown, made, start, stack.enter_context(open_lane(made.system, images, clip, out)))
            )
        return _report(rows, frames, count, tell)


@contextmanager
def _threads(count: int) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def _report(rows: Sequence[_Row], frames: int, threads: int, tell: Tell) -> Report:
    lanes = [row.lane for row in rows]
    device, load, before = lanes[0].device, load_before(), cpu_use()
    longest = max(len(lane.kinds) for lane in lanes)
    lengths = [-(-longest // len(lane.kinds)) * len(lane.kinds) for lane in lanes]
    turns = max(-(-frames // longest), _LEAST_TURNS)
    names = " and ".join(lane.system.config.name for lane in lanes)
    peak = matrix_rates(device)
    tell(f"{names}: forward and post-processing, {turns} turns of {longest}")
    forward = alternate([lane.forward for lane in lanes], lengths, turns)
    peak += matrix_rates(device)
    tell(f"{names}: from decoding to encoding")
    stages = alternate([lane.stages for lane in lanes], lengths, max(turns // 2, _LEAST_TURNS))
    tell(f"{names}: part by part")
    costs = [_system_cost(*parts) for parts in zip(rows, forward, stages, strict=True)]
    peak += matrix_rates(device)
    others, cores = others_cores(before, cpu_use()), os.cpu_count() or 1
    machine = Machine(
        device=str(device),
        processor=processor(device),
        cores=cores,
        threads=threads,
        torch=torch.__version__,
        peak=tuple(peak),
        others_cores=others,
        doubts=tuple(doubts(costs, peak, cores=cores, threads=threads, others=others, load=load)),
    )
    if len(rows) == 1:
        return Report(machine, costs[0], None, None, None)
    everything = [[[sum(each.values()) for each in turn] for turn in lane] for lane in stages]
    return Report(machine, costs[0], costs[1], spread(ratios(*forward)), spread(ratios(*everything)))


def alternate(streams: Sequence[Iterator[T]], lengths: Sequence[int], turns: int) -> list[list[list[T]]]:
    """Takes from streams in alternation, so that what disturbs the machine disturbs all of them.

    Args:
        streams: Each is first every other time.
        lengths: How many to take of each in a turn.
        turns: How often.

    Returns:
        For each stream and turn what it gave.
    """
    found: list[list[list[T]]] = [[] for _ in streams]
    for turn in range(turns):
        order = list(zip(found, streams, lengths, strict=True))
        for taken, stream, length in order if turn % 2 == 0 else reversed(order):
            taken.append(list(islice(stream, length)))
    return found


def ratios(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> list[float]:
    """The mean of the second over that of the first, turn by turn."""
    return [mean(theirs) / mean(ours) for ours, theirs in zip(first, second, strict=True)]


def _system_cost(row: _Row, forward: Sequence[Sequence[float]], stages: Sequence[Sequence[Stages]]) -> SystemCost:
    lane = row.lane
    frames = frame_costs(lane, list(chain.from_iterable(forward)), list(chain.from_iterable(stages)))
    return SystemCost(
        system=lane.system.config.name,
        weights=row.built.weights,
        runtime=row.built.system.runtime,
        causal=row.subject.causal,
        mode=row.subject.mode,
        size=row.size,
        padded=lane.padded,
        kinds=lane.kinds,
        frames=frames,
        mean=mean_cost(lane.kinds, frames),
        lookahead=lane.system.method.lookahead,
        first_seconds=row.start.seconds,
        memory=row.start.memory,
        notes=row.built.notes,
    )
