"""Running a system over a whole data set: continued where it was interrupted, spread over processes."""

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from flowdet.backends.choice import with_backend
from flowdet.data.cocovid import CocoVID
from flowdet.errors import ConfigError, FlowdetError
from flowdet.evaluation.jobs import Job, Origin, check_images, finish, is_done, jobs_of, read_found
from flowdet.metrics.detections import DetectionTable, map_labels
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig, config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.weights.native import packed_weights, weights_digest

__all__ = ["DataSetDetections", "detect_data_set", "interrupts_ignored"]


@dataclass(frozen=True, eq=False, slots=True)
class DataSetDetections:
    """What a system found in a data set.

    Attributes:
        table: Every detection of a class that the data set knows; scores and boxes as the system gave them.
        seconds_per_frame: Median over the frames of preparing, network and post-processing, without reading.
        left_out: For each class that only the system knows, how many detections were left out.
    """

    table: DetectionTable
    seconds_per_frame: float
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class _Start:
    """What a spawned process begins with."""

    config: SystemConfig
    weights: bytes
    device: torch.device
    backend: str
    threads: int
    origin: Origin


def detect_data_set(
    system: VideoDetector,
    data: CocoVID,
    images: Path,
    folder: Path,
    *,
    processes: int = 1,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda frames: None,
) -> DataSetDetections:
    """Detects objects in every image of a data set; each video is a stream, each still is one of a single frame.

    A finished video is a file in the folder. A call that was interrupted continues with what is missing, with any
    number of processes; files of other weights, another method or other images are refused. So a training loop
    that validates between epochs names a folder for each epoch. With the same `threads` the result is the same to
    the bit for any number of processes; another number of threads sums in another order, which moves scores in
    their seventh digit.

    Args:
        system: Detects; must be in evaluation mode. On "cuda", several processes take the GPUs in turn.
        data: Says which images there are; classes are matched by name.
        images: The folder that its file names lie below.
        folder: Takes a file for each finished video; made if need be.
        processes: 1: this one does all. More: so many are spawned, which needs the usual
            `if __name__ == "__main__":` in a script. Each holds the system and the window of one video.
        threads: Of torch in each process; a share of this process's threads if not given.
        progress: Told at the start and after every frame how many are done, those of earlier calls included.

    Raises:
        ConfigError: The folder cannot be written to or holds detections of something else; `processes` or `threads`
            is less than 1.
        DataError: An image is missing, cannot be read, or has another size than the data set says; the system and
            the data set have no class in common.
        FlowdetError: A process was killed.
    """
    if system.training:
        raise ValueError("a system detects in evaluation mode: call its eval() first")
    threads = max(1, torch.get_num_threads() // max(1, processes)) if threads is None else threads
    if processes < 1 or threads < 1:
        raise ConfigError(f"processes and threads must be 1 or more, not {processes} and {threads}")
    labels = map_labels(system.config.class_names, data)
    _make_folder(folder)
    record = {
        "weights": weights_digest(system),
        "system": config_to_json(system.config),
        "images": str(images.resolve()),
    }
    if system.backend != "torch":
        record["backend"] = system.backend
    origin = Origin(data.path, images, record)
    jobs = jobs_of(data, folder)
    missing = [job for job in jobs if not is_done(job, origin)]
    check_images(missing, origin)
    done = sum(map(len, jobs)) - sum(map(len, missing))
    if processes == 1:
        ticks = _alone(system, missing, origin, threads)
    else:
        ticks = _spread(system, missing, origin, processes, threads)
    with closing(ticks):
        for frames in accumulate(ticks, initial=done):
            progress(frames)
    return _collected(jobs, labels, system.config.class_names)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}") from error


def _alone(system: VideoDetector, jobs: Sequence[Job], origin: Origin, threads: int) -> Generator[int, None, None]:
    """Does the jobs in this process; yields 1 after every frame."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for job in jobs:
            yield from finish(system.detect, job, origin)
    finally:
        torch.set_num_threads(before)


def _spread(
    system: VideoDetector, jobs: Sequence[Job], origin: Origin, processes: int, threads: int
) -> Generator[int, None, None]:
    """Hands the jobs to spawned processes, the longest first; yields 1 after every frame."""
    todo = deque(sorted(jobs, key=len, reverse=True))
    weights = packed_weights(system)
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    try:
        with interrupts_ignored():
            for device in _devices(system, min(processes, len(jobs))):
                ours, theirs = context.Pipe()
                start = _Start(system.config, weights, device, system.backend, threads, origin)
                workers[ours] = context.Process(target=_work, args=(theirs, start), daemon=True)
                workers[ours].start()
                theirs.close()
        while workers:
            for ready in wait(list(workers)):
                connection = next(connection for connection in workers if connection is ready)
                if _received(connection, workers[connection]) is not None:
                    yield 1
                elif todo:
                    connection.send(todo.popleft())
                else:
                    connection.send(None)
                    workers.pop(connection).join()
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """What is started here leaves Ctrl-C to this process, which then ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _devices(system: VideoDetector, count: int) -> list[torch.device]:
    device = next(system.parameters()).device
    if device.type != "cuda":
        return [device] * count
    return [torch.device("cuda", number % torch.cuda.device_count()) for number in range(count)]


def _received(connection: Connection, process: BaseProcess) -> int | None:
    """1: a frame is done. None: it waits for a job.

    Raises:
        FlowdetError: As in the process; or the process is dead.
    """
    try:
        message: int | FlowdetError | None = connection.recv()
    except (EOFError, ConnectionError) as error:
        process.join()
        raise FlowdetError(
            f"a process of the evaluation ended with exit code {process.exitcode} (-9: killed, for want of memory?); "
            "the finished videos are kept, so the same call continues, perhaps with fewer processes"
        ) from error
    if isinstance(message, FlowdetError):
        raise message
    return message


def _work(connection: Connection, start: _Start) -> None:
    """What a spawned process does: jobs, until there are none or the process that gives them is gone."""
    torch.set_num_threads(start.threads)
    system = build(start.config)
    system.load_state_dict(load(start.weights))
    system = with_backend(system.to(start.device), start.backend)
    with suppress(EOFError, ConnectionError):
        connection.send(None)
        while (job := connection.recv()) is not None:
            try:
                for frame in finish(system.detect, job, start.origin):
                    connection.send(frame)
            except FlowdetError as error:
                connection.send(error)
                return
            connection.send(None)


def _collected(jobs: Sequence[Job], labels: NDArray[np.int64], class_names: Sequence[str]) -> DataSetDetections:
    """All jobs as one table, with the labels of the data set."""
    parts, seconds = [], []
    counts = np.zeros(len(class_names), dtype=np.int64)
    for job in jobs:
        found = read_found(job)
        seconds.append(found.seconds)
        mapped = labels[found.labels]
        known = mapped >= 0
        counts += np.bincount(found.labels, minlength=len(class_names))
        positions = np.array(job.positions, dtype=np.int64)[found.frames]
        parts.append((positions[known], mapped[known], found.boxes[known], found.scores[known]))
    positions, known_labels, boxes, scores = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    table = DetectionTable(positions, known_labels, boxes.astype(np.float64), scores.astype(np.float64))
    known_to_system_only = np.flatnonzero((labels < 0) & (counts > 0)).tolist()
    left_out = {class_names[label]: int(counts[label]) for label in known_to_system_only}
    return DataSetDetections(table, float(np.median(np.concatenate(seconds))), left_out)
