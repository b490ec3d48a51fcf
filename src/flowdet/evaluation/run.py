"""Running a system over a data set, video by video: spread over processes, and continued after an interruption."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from safetensors.torch import load

from flowdet.backends.choice import with_backend
from flowdet.data.cocovid import CocoVID, ImageRecord
from flowdet.data.image_files import read_picture
from flowdet.errors import ConfigError, DataError, FlowdetError, some
from flowdet.files import replacing
from flowdet.metrics.detections import ClassMap, DetectionTable, map_classes
from flowdet.ops.devices import threads as torch_threads
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig, config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.systems.stream import spread_evenly
from flowdet.types import Detections, Frame
from flowdet.video.reader import read_ahead
from flowdet.weights.native import packed_weights, weights_digest
from flowdet.work.cluster import Cluster, spread_over
from flowdet.work.jobs import Advance, Advanced, Do, Event, Failed, hear
from flowdet.work.pool import device_of, spread

__all__ = ["DataSetDetections", "detect_data_set"]

_RECORD_KEY = "flowdet.detections"
_STILLS_IN_A_FILE = 100


@dataclass(frozen=True, eq=False, slots=True)
class DataSetDetections:
    """The detections of a system in a data set.

    Attributes:
        table: All detections of classes that the data set has.
        seconds_per_frame: Median over the frames of preprocessing, network and postprocessing, without reading.
        left_out: For each class that the data set does not have, the number of detections left out.
        renamed: For each class that the data set calls otherwise, its name there.
    """

    table: DetectionTable
    seconds_per_frame: float
    left_out: Mapping[str, int]
    renamed: Mapping[str, str]


@dataclass(frozen=True)
class _Job:
    """A video or a batch of stills, which becomes one file.

    Attributes:
        path: The file.
        streams: A video is one stream; every still is a stream of its own.
        positions: Positions of the frames in the data set's images, stream by stream.
    """

    path: Path
    streams: tuple[tuple[ImageRecord, ...], ...]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class _Origin:
    """Where the detections of a run come from.

    Attributes:
        annotations: The data set's file, for messages.
        images: The folder of the data set's images.
        record: Everything that must be the same for a run to continue an earlier one.
    """

    annotations: Path
    images: Path
    record: Mapping[str, str]

    def record_of(self, job: _Job) -> dict[str, str]:
        """Returns what is saved with the detections of a job, a digest of its frames' names and sizes included."""
        frames = [[(image.file_name, image.height, image.width) for image in stream] for stream in job.streams]
        return {**self.record, "frames": hashlib.sha256(json.dumps(frames).encode()).hexdigest()}


@dataclass(frozen=True)
class _WorkerSystem:
    """What a worker process needs to build the system.

    Attributes:
        config: The configuration of the system.
        weights: Its weights, as safetensors.
        device: Where it runs; "cuda" stands for all GPUs.
        backend: What computes.
        precision: What it computes in.
        origin: Where the detections come from.
    """

    config: SystemConfig
    weights: bytes
    device: torch.device
    backend: str
    precision: str
    origin: _Origin


def detect_data_set(
    system: VideoDetector,
    data: CocoVID,
    images: Path,
    folder: Path,
    *,
    processes: int = 1,
    threads: int | None = None,
    cluster: Cluster | None = None,
    class_map: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda frames: None,
) -> DataSetDetections:
    """Detects objects in every image of a data set; each video is a stream, each still a stream of one frame.

    Each finished video becomes a file in the folder. An interrupted call continues with the videos that are missing,
    with any number of processes; files of other weights, another configuration or other images are refused. With the
    same `threads`, the result is the same to the bit for any number of processes. Another number of threads changes
    the order of sums, and scores in their seventh digit.

    Args:
        system: The system, in evaluation mode. On "cuda", several processes take the GPUs in turn.
        data: The data set; its classes are matched by name, see `map_classes`.
        images: The folder of the data set's images.
        folder: The folder for the files; created if it does not exist.
        processes: With 1, this process does everything. More are spawned, which needs the usual
            `if __name__ == "__main__":` in a script. Each holds the system and the window of one video.
        threads: Threads of torch in each process; by default they share those of this process, and a worker of a
            cluster has one.
        cluster: Its workers do the videos, in place of processes of this machine; they see the same files.
        class_map: Names of the system's classes, and what the data set calls them, where they differ.
        progress: Called at the start and after every frame with the number of finished frames, earlier calls included.

    Raises:
        ConfigError: The folder cannot be written to or holds other detections; `processes` or `threads` is less than 1;
            a name in `class_map` does not exist.
        DataError: An image is missing, cannot be read, or differs in size from the data set; the system and the data
            set have no class in common.
        FlowdetError: The processes or workers of a video died, each time that it was tried; the others are done.
    """
    if system.training:
        raise ValueError("a system detects in evaluation mode: call its eval() first")
    if threads is None:
        threads = 1 if cluster else max(1, torch.get_num_threads() // max(1, processes))
    if processes < 1 or threads < 1:
        raise ConfigError(f"processes and threads must be 1 or more, not {processes} and {threads}")
    classes = map_classes(system.config.class_names, data, class_map)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}") from error
    record = {
        "weights": weights_digest(system),
        "system": config_to_json(system.config),
        "images": str(images.resolve()),
    }
    if system.backend != "torch":
        record["backend"] = system.backend
    if system.precision != "float32":
        record["precision"] = system.precision
    if cluster:
        images, folder = images.absolute(), folder.absolute()
    origin = _Origin(data.path, images, record)
    jobs = _jobs_of(data, folder)
    missing = [job for job in jobs if not _is_done(job, origin)]
    _check_images(missing, origin)
    done = sum(map(len, jobs)) - sum(map(len, missing))
    progress(done)

    def advance(frames: int) -> None:
        nonlocal done
        done += frames
        progress(done)

    if processes == 1 and cluster is None:
        with torch_threads(threads):
            for job in missing:
                _finish(system, origin, job, advance)
    else:
        _share(system, missing, origin, advance, processes=processes, threads=threads, cluster=cluster)
    return _collected(jobs, classes, system.config.class_names)


def _jobs_of(data: CocoVID, folder: Path) -> list[_Job]:
    """Returns the videos that have frames, in the order of the file, then the stills."""
    jobs = [
        _Job(folder / f"video-{video.id}.safetensors", (tuple(data.images[i] for i in video.frames),), video.frames)
        for video in data.videos
        if video.frames
    ]
    stills = [position for position, image in enumerate(data.images) if image.video is None]
    for number, first in enumerate(range(0, len(stills), _STILLS_IN_A_FILE)):
        some = tuple(stills[first : first + _STILLS_IN_A_FILE])
        streams = tuple((data.images[position],) for position in some)
        jobs.append(_Job(folder / f"stills-{number}.safetensors", streams, some))
    return jobs


def _is_done(job: _Job, origin: _Origin) -> bool:
    """Returns whether an earlier run from the same origin finished this job.

    Raises:
        ConfigError: A run from another origin finished it.
    """
    try:
        with safe_open(job.path, framework="numpy") as file:
            before = json.loads((file.metadata() or {})[_RECORD_KEY])
    except (OSError, SafetensorError, KeyError, ValueError):
        return False
    now = origin.record_of(job)
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if differing:
        raise ConfigError(
            f"{job.path} holds detections of an earlier run with other {', '.join(differing)}; "
            "name another folder, or delete this one"
        )
    return True


def _check_images(jobs: Sequence[_Job], origin: _Origin) -> None:
    """Checks that every image is there, before hours of work.

    Raises:
        DataError: Some are missing.
    """
    records = (image for job in jobs for stream in job.streams for image in stream)
    missing = [image for image in records if not (origin.images / image.file_name).is_file()]
    if missing:
        names = some([f"{image.file_name} (image {image.id})" for image in missing])
        raise DataError(
            f"{origin.annotations}: {len(missing)} of its images are not below {origin.images}: {names}; "
            "is this the right folder of images?"
        )


def _share(
    system: VideoDetector,
    jobs: Sequence[_Job],
    origin: _Origin,
    advance: Advance,
    *,
    processes: int,
    threads: int,
    cluster: Cluster | None,
) -> None:
    """Does the jobs in several processes or workers, the longest first.

    Raises:
        FlowdetError: A job cannot be done, whatever the reason. Only after the deaths of workers the others are done.
    """
    device = next(system.parameters()).device
    any_device = torch.device("cuda") if device.type == "cuda" else device
    packed = _WorkerSystem(system.config, packed_weights(system), any_device, system.backend, system.precision, origin)
    lost: list[Failed[_Job]] = []

    def tell(event: Event[_Job, None]) -> None:
        match event:
            case Advanced(frames):
                advance(frames)
            case Failed(_, DataError() | ConfigError() as error):
                raise error
            case Failed() as failed:
                lost.append(failed)

    longest_first = sorted(jobs, key=len, reverse=True)
    make = partial(_worker, packed)
    if cluster:
        hear(spread_over(cluster, longest_first, make, threads=threads), tell)
    else:
        hear(spread(longest_first, make, processes=processes, threads=threads), tell)
    if lost:
        names = some([failed.job.path.stem for failed in lost])
        raise FlowdetError(
            f"{names}: {lost[0].error}; what is finished is kept, so the same call continues, perhaps with fewer "
            "processes or workers"
        )


def _worker(packed: _WorkerSystem, number: int) -> Do[_Job, None]:
    """Builds the system in a worker; returns the function that does a job."""
    system = build(packed.config)
    system.load_state_dict(load(packed.weights))
    system = with_backend(system.to(device_of(packed.device, number)), packed.backend, packed.precision)
    return partial(_finish, system, packed.origin)


def _finish(system: VideoDetector, origin: _Origin, job: _Job, advance: Advance) -> None:
    """Does a job and writes its file.

    Raises:
        DataError: An image cannot be read, or differs in size from the data set.
        ConfigError: The file cannot be written.
    """
    found: list[Detections] = []
    seconds: list[float] = []
    for stream in job.streams:
        pictures = _Pictures(stream, origin)
        with closing(read_ahead(pictures)) as frames:
            for detections, took in _timed(system, _Fed(frames, pictures)):
                found.append(detections)
                seconds.append(took)
                advance(1)
    arrays = {
        "frames": np.repeat(np.arange(len(found)), [len(detections) for detections in found]),
        "labels": np.concatenate([detections.labels for detections in found]),
        "boxes": np.concatenate([detections.boxes for detections in found]),
        "scores": np.concatenate([detections.scores for detections in found]),
        "seconds": np.array(seconds),
    }
    with replacing(job.path) as partial_file:
        partial_file.write_bytes(save(arrays, metadata={_RECORD_KEY: json.dumps(origin.record_of(job))}))


@dataclass(frozen=True)
class _Pictures:
    """The frames of a stream, read when they are wanted."""

    stream: Sequence[ImageRecord]
    origin: _Origin

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: int) -> Frame:
        record = self.stream[index]
        where = f"{self.origin.annotations}: image {record.id}"
        image = read_picture(self.origin.images / record.file_name, (record.height, record.width), where)
        return Frame(index, float(index), image)

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))


@dataclass
class _Fed:
    """The frames of a stream, read ahead, and the seconds for which they were waited for."""

    frames: Iterator[Frame]
    pictures: _Pictures
    waited: float = 0.0

    def __iter__(self) -> Iterator[Frame]:
        while True:
            asked = perf_counter()
            frame = next(self.frames, None)
            self.waited += perf_counter() - asked
            if frame is None:
                return
            yield frame

    def preview(self, count: int) -> list[Frame]:
        """Returns frames spread evenly over the stream; reading them is waiting, too."""
        asked = perf_counter()
        frames = spread_evenly(self.pictures, count)
        self.waited += perf_counter() - asked
        return frames


def _timed(system: VideoDetector, fed: _Fed) -> Iterator[tuple[Detections, float]]:
    """Yields detections with the seconds since the previous ones, without the time that frames took to come."""
    began = perf_counter()
    for outcome in system.detect_many([fed], ahead=True):
        yield outcome.detections, perf_counter() - began - fed.waited
        began, fed.waited = perf_counter(), 0.0


def _collected(jobs: Sequence[_Job], classes: ClassMap, class_names: Sequence[str]) -> DataSetDetections:
    """Returns the detections of all jobs, with the labels of the data set."""
    parts, seconds = [], []
    counts = np.zeros(len(class_names), dtype=np.int64)
    for job in jobs:
        with safe_open(job.path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        seconds.append(found["seconds"])
        mapped = classes.labels[found["labels"]]
        known = mapped >= 0
        counts += np.bincount(found["labels"], minlength=len(class_names))
        positions = np.array(job.positions, dtype=np.int64)[found["frames"]]
        parts.append((positions[known], mapped[known], found["boxes"][known], found["scores"][known]))
    positions, known_labels, boxes, scores = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    table = DetectionTable(positions, known_labels, boxes.astype(np.float64), scores.astype(np.float64))
    only_in_system = np.flatnonzero((classes.labels < 0) & (counts > 0)).tolist()
    left_out = {class_names[label]: int(counts[label]) for label in only_in_system}
    return DataSetDetections(table, float(np.median(np.concatenate(seconds))), left_out, classes.renamed)
