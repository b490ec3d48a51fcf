"""Labels from results of `flowdet detect` and from CocoVID files, and the pictures that belong to them."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from flowdet.data.cocovid import cocovid_of, find_problems
from flowdet.data.labels import Box, Exported, LabelledVideo, Labels, Picture
from flowdet.data.reading import is_pixels, is_whole, read_json
from flowdet.data.result_lines import read_lines, refuse_table
from flowdet.errors import ConfigError, DataError
from flowdet.files import natural_key
from flowdet.video.reader import open_video
from flowdet.video.results import annotation_entries, image_entries
from flowdet.video.writer import write_picture

__all__ = ["read_labels", "write_pictures"]


def read_labels(paths: Sequence[Path], *, score: float = 0.0) -> Labels:
    """Reads results of `flowdet detect`, .json or .jsonl, and CocoVID or COCO annotations.

    Args:
        paths: The files; classes of one name are one class.
        score: Detections below it are left out.

    Raises:
        DataError: A file cannot be read or used; the message names the first problem.
    """
    classes: dict[str, int] = {}
    videos: list[LabelledVideo] = []
    for path in paths:
        refuse_table(path)
        document = _document_of_lines(path) if path.suffix == ".jsonl" else read_json(path)
        problem = next(find_problems(document), None)
        if problem:
            more = "" if path.suffix == ".jsonl" else f"; `flowdet data check {path}` lists all"
            raise DataError(f"{path}: {problem.sentence}{more}")
        videos += _videos(path, document, classes, score)
    taken: set[str] = set()
    for place, video in enumerate(videos):
        if video.name is None:
            continue
        own, number = video, 1
        while own.folder.casefold() in taken:
            number += 1
            own = replace(video, name=f"{video.name}-{number}")
        taken.add(own.folder.casefold())
        videos[place] = own
    return Labels(tuple(classes), tuple(videos))


def _document_of_lines(path: Path) -> dict[str, Any]:
    header, *lines = read_lines(path)
    frames = [line for line in lines if "boxes" in line]
    return {
        "info": {"settings": header["settings"]},
        "videos": [{"id": 1, **header["video"]}],
        "categories": header["categories"],
        "images": list(image_entries(frames, header["video"]["name"])),
        "annotations": list(annotation_entries(frames)),
    }


def _videos(path: Path, document: dict[str, Any], classes: dict[str, int], score: float) -> list[LabelledVideo]:
    """Returns the videos of a document; classes that are new are added to `classes`."""
    data = cocovid_of(path, document)
    labels = [classes.setdefault(name, len(classes)) for name in data.class_names]
    objects, entries = data.objects, document["annotations"]
    pictures = []
    for image, entry, places in zip(data.images, document["images"], data.objects_by_image(), strict=True):
        boxes = []
        for place in places.tolist():
            found, track = entries[place].get("score"), int(objects.tracks[place])
            if track < 0 and is_whole(entries[place].get("track_id"), 0):
                track = entries[place]["track_id"]
            is_score = is_pixels(found)
            if is_score and found < score:
                continue
            x1, y1, x2, y2 = objects.boxes[place].tolist()
            label, is_crowd = labels[objects.labels[place]], bool(objects.crowds[place])
            area = float(objects.areas[place])
            boxes.append(
                Box(label, (x1, y1, x2, y2), None if track < 0 else track, found if is_score else None, is_crowd, area)
            )
        time = entry.get("time") if is_pixels(entry.get("time")) else None
        pictures.append(Picture(image.file_name, image.width, image.height, tuple(boxes), image.frame, time))
    info = document.get("info")
    settings = info.get("settings") if isinstance(info, dict) else None
    source = settings.get("source") if isinstance(settings, dict) else None
    name = Path(source).name if isinstance(source, str) else None
    videos = [
        LabelledVideo(video.name, tuple(pictures[frame] for frame in video.frames), _fps(entry.get("fps")), name)
        for video, entry in zip(data.videos, document.get("videos", []), strict=True)
        if video.frames
    ]
    stills = tuple(picture for picture in pictures if picture.frame is None)
    return videos + ([LabelledVideo(None, stills)] if stills else [])


def _fps(value: object) -> float | None:
    return float(value) if is_pixels(value, 1e-3) else None  # type: ignore[arg-type]


def write_pictures(exported: Exported, images: Path, progress: Callable[[int], None] = lambda pictures: None) -> int:
    """Puts pictures in their places: copies of files, or JPEGs (quality 95) of the frames of a video.

    Args:
        exported: What was written, with the places of its pictures.
        images: Folder that the file names lie below; or the video, or the folder of frames, that was detected in.
        progress: Called with the number of pictures done.

    Returns:
        The number of pictures.

    Raises:
        ConfigError: There are several videos, and `images` is only one.
        DataError: A picture is missing or cannot be written.
        VideoError: The video cannot be read.
    """
    places = {id(picture): place for _, picture, place in exported.pictures}
    if len(set(places.values())) < len(places):
        twice = sorted((str(place) for place in places.values()), key=natural_key)
        first = next(a for a, b in pairwise(twice) if a == b)
        raise DataError(f"two pictures would become {first}; rename one of them")
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    if images.is_dir() and any((images / picture.file_name).is_file() for _, picture, _ in exported.pictures):
        for done, (_, picture, place) in enumerate(exported.pictures, start=1):
            try:
                shutil.copyfile(images / picture.file_name, place)
            except OSError as error:
                raise DataError(f"{images / picture.file_name} cannot be copied: {error.strerror}") from error
            progress(done)
        return len(exported.pictures)
    videos = {id(video): video for video, _, _ in exported.pictures}
    if len(videos) > 1:
        raise ConfigError(f"{images} holds none of the pictures, and these are {len(videos)} videos: export one by one")
    wanted = {picture.frame or 0: picture for _, picture, _ in exported.pictures}
    done = 0
    with open_video(images) as video, closing(iter(video)) as frames:  # type: ignore[type-var]
        for frame in frames:
            if (found := wanted.get(frame.index)) is None:
                continue
            if frame.image.shape[:2] != (found.height, found.width):
                raise DataError(
                    f"frame {frame.index} of {images} has {frame.image.shape[1]}x{frame.image.shape[0]} px, the labels "
                    f"say {found.width}x{found.height}; name the video that they are of with --images"
                )
            write_picture(places[id(found)], frame.image)
            done += 1
            progress(done)
            if done == len(wanted):
                break
    if done < len(wanted):
        raise DataError(f"{images} has {done} of {len(wanted)} frames; name the video that the labels are of")
    return done
