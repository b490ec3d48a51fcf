"""The pieces that a run over a data set is made of: a video at a time, each finished one a file."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flowdet.data.cocovid import CocoVID, ImageRecord
from flowdet.data.image_files import read_picture
from flowdet.errors import ConfigError, DataError
from flowdet.types import Detections, Frame
from flowdet.video.reader import read_ahead

__all__ = [
    "Detect",
    "Found",
    "Job",
    "Origin",
    "check_images",
    "finish",
    "is_done",
    "jobs_of",
    "read_found",
]

Detect = Callable[[Iterable[Frame]], Iterator[Detections]]
"""Frames of one video to their detections, as `VideoDetector.detect`."""

_RECORD_KEY = "flowdet.detections"
_STILLS_IN_A_FILE = 100
_SHOWN = 5


@dataclass(frozen=True)
class Job:
    """A video, or a handful of stills: what is detected in one go and becomes one file.

    Attributes:
        path: The file.
        streams: A video is one stream; every still is a stream of its own.
        positions: Of the frames in the data set's images, stream by stream.
    """

    path: Path
    streams: tuple[tuple[ImageRecord, ...], ...]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Origin:
    """Where the detections of a run come from.

    Attributes:
        annotations: The data set's file, for messages.
        images: The folder that its file names lie below.
        record: Whatever must be the same for a run to continue an earlier one.
    """

    annotations: Path
    images: Path
    record: Mapping[str, str]

    def record_of(self, job: Job) -> dict[str, str]:
        """What is saved with the detections of a job; the frames by a digest of their names and sizes."""
        frames = [[(image.file_name, image.height, image.width) for image in stream] for stream in job.streams]
        return {**self.record, "frames": hashlib.sha256(json.dumps(frames).encode()).hexdigest()}


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """The detections of a finished job.

    Attributes:
        frames: [n] int64, positions in the job's frames, ascending.
        labels: [n] int64, those of the system.
        boxes: [n, 4] float32 xyxy px, original image.
        scores: [n] float32.
        seconds: [frames] float64, time that each took, without reading.
    """

    frames: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    seconds: NDArray[np.float64]


def jobs_of(data: CocoVID, folder: Path) -> list[Job]:
    """The videos that have frames, in the order of the file, then the stills."""
    jobs = [
        Job(folder / f"video-{video.id}.safetensors", (tuple(data.images[i] for i in video.frames),), video.frames)
        for video in data.videos
        if video.frames
    ]
    stills = (position for position, image in enumerate(data.images) if image.video is None)
    number = 0
    while some := tuple(islice(stills, _STILLS_IN_A_FILE)):
        streams = tuple((data.images[position],) for position in some)
        jobs.append(Job(folder / f"stills-{number}.safetensors", streams, some))
        number += 1
    return jobs


def is_done(job: Job, origin: Origin) -> bool:
    """Whether an earlier run finished this job, from the same origin.

    Raises:
        ConfigError: It was finished from another.
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


def check_images(jobs: Sequence[Job], origin: Origin) -> None:
    """Looks for every image before the hours of work, not after them.

    Raises:
        DataError: Some are missing.
    """
    records = (image for job in jobs for stream in job.streams for image in stream)
    missing = [image for image in records if not (origin.images / image.file_name).is_file()]
    if missing:
        names = ", ".join(f"{image.file_name} (image {image.id})" for image in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"{origin.annotations}: {len(missing)} of its images are not below {origin.images}: {names}{more}; "
            "is this the right folder of images?"
        )


def finish(detect: Detect, job: Job, origin: Origin) -> Iterator[int]:
    """Does a job and writes its file; yields 1 after every frame.

    Raises:
        DataError: An image cannot be read, or has another size than the data set says.
        ConfigError: The file cannot be written.
    """
    found: list[Detections] = []
    seconds: list[float] = []
    for stream in job.streams:
        with closing(read_ahead(_frames(stream, origin))) as frames:
            for detections, took in _timed(detect, frames):
                found.append(detections)
                seconds.append(took)
                yield 1
    arrays = {
        "frames": np.repeat(np.arange(len(found)), [len(detections) for detections in found]),
        "labels": np.concatenate([detections.labels for detections in found]),
        "boxes": np.concatenate([detections.boxes for detections in found]),
        "scores": np.concatenate([detections.scores for detections in found]),
        "seconds": np.array(seconds),
    }
    partial = job.path.with_name(f".{job.path.name}.{secrets.token_hex(4)}.part")
    try:
        partial.write_bytes(save(arrays, metadata={_RECORD_KEY: json.dumps(origin.record_of(job))}))
        partial.replace(job.path)
    except OSError as error:
        raise ConfigError(f"{job.path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def read_found(job: Job) -> Found:
    """What a finished job found."""
    with safe_open(job.path, framework="numpy") as file:
        return Found(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  (not a mapping)


def _frames(stream: Sequence[ImageRecord], origin: Origin) -> Iterator[Frame]:
    for index, record in enumerate(stream):
        yield Frame(index, float(index), _read(record, origin))


def _read(record: ImageRecord, origin: Origin) -> NDArray[np.uint8]:
    where = f"{origin.annotations}: image {record.id}"
    return read_picture(origin.images / record.file_name, (record.height, record.width), where)


def _timed(detect: Detect, frames: Iterator[Frame]) -> Iterator[tuple[Detections, float]]:
    """Detections with the seconds since the ones before, waiting for frames not counted."""
    waited = 0.0

    def feed() -> Iterator[Frame]:
        nonlocal waited
        while True:
            asked = perf_counter()
            frame = next(frames, None)
            waited += perf_counter() - asked
            if frame is None:
                return
            yield frame

    began = perf_counter()
    for detections in detect(feed()):
        yield detections, perf_counter() - began - waited
        began, waited = perf_counter(), 0.0
