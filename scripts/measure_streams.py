"""Throughput against the number of streams: docs/evidence/streams.png and streams.json.

    python scripts/measure_streams.py fgfa-lite --streams 1 2 4 8
    python scripts/measure_streams.py fgfa-lite --device cuda --streams 1 4 16 64

Batched: one process, the frames of all streams together. Processes: one for each stream, with a thread each.
"""

import json
import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from matplotlib.figure import Figure

from flowdet.benchmark.clip import moving_images
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load
from flowdet.types import Frame

app = App(help=__doc__)

_OUT = Path(__file__).parents[1] / "docs" / "evidence"
_SIZE = (192, 320)


def _video(frames: int) -> list[Frame]:
    return [Frame(number, number / 25, image) for number, image in enumerate(moving_images(_SIZE, frames))]


@dataclass(frozen=True)
class Run:
    """What is run on each stream."""

    system: str
    variant: str | None
    device: str
    frames: int

    def prepared(self, threads: int) -> tuple[VideoDetector, list[Frame]]:
        """The system and a video, with so many threads."""
        torch.set_num_threads(threads)
        return load(self.system, device=self.device, variant=self.variant), _video(self.frames)


def batched(run: Run, streams: int, threads: int) -> float:
    """Frames a second of all streams together, through one model in one process."""
    detector, video = run.prepared(threads)
    for _ in detector.detect_many([video[:2]] * streams):
        pass
    began = time.perf_counter()
    count = sum(1 for _ in detector.detect_many([video] * streams))
    return count / (time.perf_counter() - began)


def _one_of_many(run: Run, start: Any, seconds: Any) -> None:
    detector, video = run.prepared(1)
    for _ in detector.detect(video[:2]):
        pass
    start.wait()
    began = time.perf_counter()
    for _ in detector.detect(video):
        pass
    seconds.put((began, time.perf_counter()))


def in_processes(run: Run, streams: int) -> float:
    """Frames a second of all streams together, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    start, seconds = context.Barrier(streams), context.Queue()
    workers = [context.Process(target=_one_of_many, args=(run, start, seconds)) for _ in range(streams)]
    for worker in workers:
        worker.start()
    times = [seconds.get() for _ in workers]
    for worker in workers:
        worker.join()
    return streams * run.frames / (max(end for _, end in times) - min(began for began, _ in times))


@app.default
def measure(
    system: str = "fgfa-lite",
    *,
    variant: str | None = None,
    device: str = "cpu",
    streams: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 2, 4, 8),
    frames: int = 24,
    rounds: int = 3,
) -> None:
    """Measures in alternation and draws medians.

    Args:
        system: Its weights have to be there.
        variant: As for `flowdet.load`.
        device: Where it runs.
        streams: The numbers of streams.
        frames: Of each stream.
        rounds: How often.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    run = Run(system, variant, device, frames)
    found: dict[str, dict[int, list[float]]] = {way: {n: [] for n in streams} for way in ("batched", "processes")}
    for _ in range(rounds):
        for count in streams:
            found["batched"][count].append(batched(run, count, threads))
            found["processes"][count].append(in_processes(run, count))
    medians = {way: {n: statistics.median(rates) for n, rates in each.items()} for way, each in found.items()}
    settings = {"system": system, "variant": variant, "device": device, "cores": cores, "threads": threads}
    _OUT.mkdir(exist_ok=True)
    (_OUT / "streams.json").write_text(json.dumps({**settings, "rates": found}, indent=1) + "\n")
    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    for way, marker in (("batched", "o-"), ("processes", "s--")):
        axes.plot(list(medians[way]), list(medians[way].values()), marker, label=way)
    axes.set(xlabel="streams", ylabel="frames a second, all streams", title=f"{system}, {device}, {cores} cores")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(_OUT / "streams.png", dpi=120)


if __name__ == "__main__":
    app()
