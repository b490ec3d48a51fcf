"""Results read for a page: the frames of each clip, and on them the detections of each run and the annotations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.data.reading import LARGEST_FRAME, is_pixels, is_whole
from flowdet.errors import ConfigError, DataError
from flowdet.evaluation.results_file import (
    ResultFile,
    ResultFrame,
    is_result_list,
    match_frames,
    read_result_file,
    read_results,
    results_files,
)
from flowdet.evaluation.worst_frames import worst_frames
from flowdet.metrics.detections import DetectionTable, map_classes

__all__ = ["Clip", "Layer", "WorstFrame", "frame_times", "read_clips"]

_FPS: Final = 25.0  # where neither the results nor the data set say when a frame was
_WORST: Final = 20
_LARGEST_FRAMES: Final = 20_000
_LARGEST_BOXES: Final = 1_000_000


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """The boxes of one run, or of the annotations, on the frames of a clip.

    Attributes:
        name: What the page calls it.
        is_truth: Whether these are annotations.
        numbers: [f] int64, the numbers of the frames that were looked at, in increasing order.
        frames: [n] int64, for each box the number of its frame.
        boxes: [n, 4] float64 xyxy px, original image.
        scores: [n] float64; 1 for annotations.
        labels: [n] int64, positions in `class_names`.
        tracks: [n] int64, -1 where there is none.
        class_names: The classes.
        settings: What made it.
    """

    name: str
    is_truth: bool
    numbers: NDArray[np.int64]
    frames: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    tracks: NDArray[np.int64]
    class_names: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorstFrame:
    """A frame of an evaluation with many mistakes: the position of the run's layer, the frame, and the numbers."""

    layer: int
    number: int
    cost: float
    missed: int
    false: int


@dataclass(eq=False, slots=True)
class Clip:
    """One video and everything that is shown on it.

    Attributes:
        name: As in the results.
        path: The results file that named it first.
        frames: Its frames by number.
        layers: The runs in the order in which they were named, then the annotations.
        worst: The worst frames of each run.
    """

    name: str
    path: Path
    frames: dict[int, ResultFrame]
    layers: list[Layer] = field(default_factory=list)
    worst: list[WorstFrame] = field(default_factory=list)


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    """The results of one run on one video, and the position in the data set of each frame, -1 where it has none."""

    video: str
    frames: list[ResultFrame]
    images: list[int]
    layer: Layer


def read_clips(paths: Sequence[Path], *, truth: Path | None = None, score: float = 0.05) -> list[Clip]:
    """Reads results, those of the same video as layers of one clip.

    Args:
        paths: Files of `flowdet detect`, folders of them, or, with `truth`, COCO results of `flowdet evaluate`.
        truth: A CocoVID or COCO file; its annotations become a layer, and the worst frames of each run are found.
        score: Detections below it are left out.

    Raises:
        ConfigError: COCO results came without `truth`, or there are more boxes than a page can show.
        DataError: A file cannot be read, or does not fit the annotations.
    """
    data = read_cocovid(truth) if truth else None
    clips: dict[str, Clip] = {}
    runs: dict[int, list[Path]] = {}  # the files of every first, every second ... layer
    images: dict[str, dict[int, int]] = {}  # of each clip, by the number of the frame
    for file in (file for path in paths for file in results_files(path)):
        for part in _parts(file, data, score):
            clip = clips.setdefault(part.video, Clip(part.video, file, {}))
            files = runs.setdefault(len(clip.layers), [])
            files += [file] if file not in files else []
            clip.frames = {_number(frame): frame for frame in part.frames} | clip.frames
            places = zip(map(_number, part.frames), part.images, strict=False)
            images.setdefault(part.video, {}).update((number, image) for number, image in places if image >= 0)
            clip.layers.append(part.layer)
    boxes = sum(len(layer.frames) for clip in clips.values() for layer in clip.layers)
    if boxes > _LARGEST_BOXES:
        raise ConfigError(
            f"{boxes} detections are more than a page can show ({_LARGEST_BOXES}); name fewer results, or raise --score"
        )
    for clip in clips.values():
        clip.layers = _with_own_names(clip.layers)
        clip.frames = dict(sorted(clip.frames.items()))
    if data:
        _add_worst(clips, runs, images, data)
        for clip in clips.values():
            clip.layers.append(_truth(clip, images[clip.name], data))
    return list(clips.values())


def _parts(path: Path, data: CocoVID | None, score: float) -> Iterator[_Part]:
    """Yields the results of a file, a part for each video."""
    if is_result_list(path):
        if data is None:
            raise ConfigError(f"{path} is a COCO results file, which names no videos: add --truth with the data set")
        yield from _parts_of_list(path, data, score)
        return
    found = read_result_file(path)
    videos = {frame.video for frame in found.frames}
    if len(videos) != 1 or None in videos:
        raise DataError(f"{path} is no result of one video by `flowdet detect`: its frames belong to {len(videos)}")
    for frame in found.frames:
        if not (is_whole(frame.number, 0, LARGEST_FRAME) and (frame.time is None or is_pixels(frame.time, 0))):
            raise DataError(
                f"{path}: a frame has a whole number and a time in seconds, both from 0 on, "
                f"not {frame.number!s:.40} and {frame.time!s:.40}"
            )
    images = match_frames(path, found.frames, data) if data else []
    yield _Part(str(videos.pop()), found.frames, images, _layer(path, found, score))


def _layer(path: Path, found: ResultFile, score: float) -> Layer:
    numbers = np.array([frame.number for frame in found.frames], dtype=np.int64)
    settings = found.settings if isinstance(found.settings, dict) else {}
    rows = np.flatnonzero(found.table.scores >= score)
    table = found.table.select(rows)
    name = str(settings.get("system") or path.stem)
    return Layer(
        name=" ".join([name, *([str(settings["variant"])] if settings.get("variant") else [])]),
        is_truth=False,
        numbers=np.unique(numbers),
        frames=numbers[table.images],
        boxes=table.boxes,
        scores=table.scores,
        labels=table.labels,
        tracks=found.tracks[rows],
        class_names=found.class_names,
        settings={"result": str(path), **settings},
    )


def _parts_of_list(path: Path, data: CocoVID, score: float) -> Iterator[_Part]:
    """Yields the videos of a COCO results file, those with the worst frames first, as many as a page can show."""
    table = read_results(path, data).table
    order = {data.images[one.image].video: None for one in worst_frames(data, table, len(data.images))}
    videos = list(order) + [video for video in range(len(data.videos)) if video not in order]
    is_of = np.array([-1 if image.video is None else image.video for image in data.images], dtype=np.int64)
    count = 0
    for video in videos:
        places = np.flatnonzero(is_of == (-1 if video is None else video))
        count += len(places)
        if count > _LARGEST_FRAMES and count > len(places):
            return
        yield _part_of_list(path, data, table, places.tolist(), score)


def _part_of_list(path: Path, data: CocoVID, table: DetectionTable, places: list[int], score: float) -> _Part:
    records = [data.images[place] for place in places]
    video = records[0].video
    name = "stills" if video is None else data.videos[video].name
    frames = [
        ResultFrame(name, place if one.frame is None else one.frame, one.file_name, (one.height, one.width), None)
        for place, one in enumerate(records)
    ]
    numbers = np.full(len(data.images), -1, dtype=np.int64)
    numbers[places] = [_number(frame) for frame in frames]
    kept = table.select((table.scores >= score) & (numbers[table.images] >= 0))
    layer = Layer(
        name=path.parent.resolve().name or path.stem,
        is_truth=False,
        numbers=np.unique(numbers[places]),
        frames=numbers[kept.images],
        boxes=kept.boxes,
        scores=kept.scores,
        labels=kept.labels,
        tracks=np.full(len(kept), -1, dtype=np.int64),
        class_names=data.class_names,
        settings={"result": str(path)},
    )
    return _Part(name, frames, places, layer)


def _with_own_names(layers: Sequence[Layer]) -> list[Layer]:
    """Returns the layers, each with a name that no other has."""
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        names = [f"{layer.name} ({Path(layer.settings['result']).parent.name or '.'})" for layer in layers]
    if len(set(names)) < len(names):
        names = [f"{number}. {name}" for number, name in enumerate(names, start=1)]
    return [replace(layer, name=name) for layer, name in zip(layers, names, strict=True)]


def _number(frame: ResultFrame) -> int:
    return frame.number or 0


def _add_worst(
    clips: dict[str, Clip], runs: dict[int, list[Path]], images: dict[str, dict[int, int]], data: CocoVID
) -> None:
    where = {image: (name, number) for name, places in images.items() for number, image in places.items()}
    for layer, files in runs.items():
        for one in worst_frames(data, read_results(files, data).table, _WORST, per_video=_WORST):
            if one.image in where:
                name, number = where[one.image]
                found = WorstFrame(layer, number, round(one.cost, 3), len(one.missed), len(one.false))
                clips[name].worst.append(found)


def _truth(clip: Clip, images: dict[int, int], data: CocoVID) -> Layer:
    """Returns the annotations of a clip's frames, with the names that its runs have for the classes."""
    renamed = {theirs: ours for ours, theirs in map_classes(clip.layers[0].class_names, data).renamed.items()}
    number_of = np.full(len(data.images), -1, dtype=np.int64)
    number_of[list(images.values())] = list(images)
    objects = data.objects
    rows = np.flatnonzero((number_of[objects.images] >= 0) & ~objects.crowds)
    return Layer(
        name="Ground truth",
        is_truth=True,
        numbers=np.array(sorted(images), dtype=np.int64),
        frames=number_of[objects.images[rows]],
        boxes=objects.boxes[rows],
        scores=np.ones(len(rows)),
        labels=objects.labels[rows],
        tracks=objects.tracks[rows],
        class_names=tuple(renamed.get(name, name) for name in data.class_names),
    )


def frame_times(clip: Clip) -> list[float]:
    """Returns the seconds of each frame of a clip; 25 frames a second where the results do not say."""
    return [number / _FPS if frame.time is None else frame.time for number, frame in clip.frames.items()]
