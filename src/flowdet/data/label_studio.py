"""Label Studio's JSON: tasks about videos with rectangles that have key frames ("videorectangle"), read and written."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from flowdet.data.cocovid_writer import Written, writing_cocovid
from flowdet.data.labels import Box, Exported, LabelledVideo, Labels, begin_videos, frame_range
from flowdet.data.reading import LARGEST_FRAME, LARGEST_PIXELS, is_pixels, is_whole, read_json
from flowdet.data.shapes import Shape, Shapes, Target, check_pattern, frame_file, numbered
from flowdet.errors import ConfigError, DataError
from flowdet.files import write_text

__all__ = ["export_label_studio", "import_label_studio"]

_PATTERNS = tuple(f"images/{{name}}/%06d.{suffix}" for suffix in ("jpg", "png"))
_USUAL_FPS = 25.0  # where a video does not say
_SIDES = ("x", "y", "width", "height")  # percent of the frame
_ALONE = "object-"  # begins the id of a rectangle without a track


@dataclass(frozen=True, slots=True)
class _Task:
    """One task about a video.

    Attributes:
        where: The file and the task, for messages.
        name: That of the video.
        regions: The results of the annotation that counts.
        left_out: Number of other annotations.
        others: Number of results of other types.
        info: What `export_label_studio` has noted of the video; empty for tasks that were made elsewhere.
    """

    where: str
    name: str
    regions: list[dict[str, Any]]
    left_out: int
    others: int
    info: dict[str, Any]

    def frames(self) -> range:
        """Returns the numbers of the frames that there are, from 0.

        Raises:
            DataError: The task does not say how many there are.
        """
        numbers: list[Any] = [self.info.get(name) for name in ("first_frame", "frames", "step")]
        first, count, step = numbers
        if is_whole(first, 0, LARGEST_FRAME) and is_whole(count, 1, LARGEST_FRAME) and is_whole(step, 1, LARGEST_FRAME):
            return range(first, first + count * step, step)
        counts = [region["value"].get("framesCount") for region in self.regions]
        count = max((count for count in counts if is_whole(count, 1, LARGEST_FRAME)), default=None)
        if count is None:
            raise DataError("does not say how many frames its video has: draw at least one rectangle, or remove it")
        return range(count)

    def size(self) -> tuple[int, int] | None:
        """Returns (width, height) px of the video; None if the task does not say."""
        sides: list[Any] = [self.info.get("width"), self.info.get("height")]
        width, height = sides
        if is_whole(width, 1, LARGEST_PIXELS) and is_whole(height, 1, LARGEST_PIXELS):
            return width, height
        return None


def import_label_studio(
    files: Sequence[Path],
    out: Path,
    *,
    images: Path | None = None,
    frames: str | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda tasks: None,
) -> Written:
    """Imports JSON files of Label Studio; each task about a video becomes a video.

    Of a task the newest annotation counts, or else the newest prediction. Between two key frames boxes are interpolated
    as Label Studio does. Its frames count from 1, those of the result from 0.

    Args:
        files: The files, exported as "JSON".
        out: The `.json` file to write.
        images: Folder that file names lie below; by default that of the first file.
        frames: Names of a video's pictures, with "%06d" for the frame's number, from 0, and "{name}" for the name of
            the video. By default images/{name}/%06d.jpg, or .png.
        strict: Anything that cannot be read is an error.
        progress: Called with the number of tasks done.

    Raises:
        ConfigError: `frames` is no such pattern, or no file is given.
        DataError: A file is not from Label Studio, or something cannot be read and `strict` is set.
    """
    if not files:
        raise ConfigError("name at least one JSON file of Label Studio")
    if frames is not None:
        check_pattern(frames)
    tasks = [task for path in files for task in _tasks(path)]
    labels: dict[str, None] = {}
    for task in tasks:
        names = task.info.get("classes")
        labels |= dict.fromkeys(name for name in (names if isinstance(names, list) else ()) if isinstance(name, str))
        labels |= dict.fromkeys(label for region in task.regions if (label := _label(region)))
    if not labels:
        raise DataError(f"no rectangle in {', '.join(map(str, files))} has a label, so there is no class to write")
    ids = {label: number for number, label in enumerate(labels, start=1)}
    videos = [
        {"id": number, "name": name, **({"fps": task.info["fps"]} if is_pixels(task.info.get("fps"), 1e-3) else {})}
        for number, (task, name) in enumerate(zip(tasks, numbered(task.name for task in tasks), strict=True), start=1)
    ]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    with writing_cocovid(out, categories=categories, videos=videos, strict=strict) as writer:
        target = Target(writer, images or files[0].parent, ids)
        for task, video in zip(tasks, videos, strict=True):
            _import_task(task, video, target, frames)
            progress(video["id"])
    return writer.written()


def _tasks(path: Path) -> Iterator[_Task]:
    document = read_json(path)
    if not isinstance(document, list):
        raise DataError(f'{path} is not from Label Studio: a list of tasks was expected; export as "JSON"')
    for number, entry in enumerate(document, start=1):
        task = entry if isinstance(entry, dict) else {}
        where = f"{path}, task {str(task.get('id', number))[:40]}"
        data, annotations = task.get("data"), _annotations(task)
        if not isinstance(data, dict) or not isinstance(data.get("video"), str):
            raise DataError(f'{where}: "data" with the address of a "video" was expected; "JSON-MIN" is not read')
        info: dict[str, Any] = data["flowdet"] if isinstance(data.get("flowdet"), dict) else {}
        name = info.get("name")
        if not isinstance(name, str) or not name:
            name = Path(unquote(data["video"].rpartition("?d=")[2].partition("?")[0])).stem
        found = annotations[-1].get("result") if annotations else []
        results = found if isinstance(found, list) else []
        known = [one for one in results if _is_rectangle(one)]
        yield _Task(where, name or "video", known, max(len(annotations) - 1, 0), len(results) - len(known), info)


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the annotations that were not cancelled, oldest first, or else the predictions."""
    for kind in ("annotations", "predictions"):
        found = task.get(kind)
        entries = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        if kept := [one for one in entries if not one.get("was_cancelled")]:
            return sorted(kept, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
    return []


def _is_rectangle(region: object) -> bool:
    return (
        isinstance(region, dict)
        and region.get("type") == "videorectangle"
        and isinstance(region.get("value"), dict)
        and isinstance(region["value"].get("sequence"), list)
    )


def _label(region: dict[str, Any]) -> str:
    """Returns the first label of a rectangle, or nothing."""
    labels = region["value"].get("labels")
    return labels[0] if isinstance(labels, list) and labels and isinstance(labels[0], str) else ""


def _import_task(task: _Task, video: dict[str, Any], target: Target, pattern: str | None) -> None:
    try:
        frames = task.frames()
        patterns = [each.replace("{name}", _folder(task)) for each in ((pattern,) if pattern else _PATTERNS)]
        is_there = (each for each in patterns if os.path.isfile(target.base / frame_file(each, frames[0])))
        names = next(is_there, patterns[0])
        width, height = target.size_of(task.size(), names, frames)
        shapes = Shapes()
        numbers = _track_numbers(task.regions)
        for region, track in zip(task.regions, numbers, strict=True):
            keys, others = _keys(region, track, frames, (width, height), shapes.problems)
            shapes.others += others
            shapes.fill(keys, frames)
    except DataError as error:
        raise DataError(f"{task.where} {error}") from error
    place = {"height": height, "width": width, "video_id": video["id"]}
    target.add_video(task.where, place, names, {number: number for number in frames}, shapes)
    target.remark("annotations of a task beside its newest one, left out", task.left_out)
    target.remark("results that are no rectangles in a video, left out", task.others)


def _folder(task: _Task) -> str:
    folder = task.info.get("folder")
    return folder if isinstance(folder, str) else task.name


def _track_numbers(regions: Sequence[dict[str, Any]]) -> list[int | None]:
    """Returns the track of each rectangle: the number in its id where that is free, else one of its own."""
    numbers: list[int | None] = []
    for region in regions:
        name = str(region.get("id", ""))
        is_alone = name.startswith(_ALONE) and len(region["value"]["sequence"]) == 1
        found = re.fullmatch(r"track-([0-9]{1,9})", name)
        number = int(found[1]) if found else -1
        numbers.append(None if is_alone else -1 if number in numbers else number)
    following = max((taken for taken in numbers if taken is not None), default=-1) + 1
    for place, taken in enumerate(numbers):
        if taken == -1:
            numbers[place], following = following, following + 1
    return numbers


def _keys(
    region: dict[str, Any], track: int | None, frames: range, size: tuple[int, int], problems: list[str]
) -> tuple[list[Shape], int]:
    """Returns the boxes of a rectangle at its key frames, and the number of those that are not upright.

    Label Studio shows a rectangle at each of its key frames, and after one that is enabled up to the next one or to the
    end of the video.
    """
    keys, others = [], 0
    sequence = [key for key in region["value"]["sequence"] if isinstance(key, dict)]
    sequence = sorted(sequence, key=lambda key: key["frame"] if is_whole(key.get("frame")) else 0)
    for key, following in pairwise([*sequence, None]):
        assert key is not None
        values: list[Any] = [key.get("frame"), key.get("rotation", 0), *(key.get(side) for side in _SIDES)]
        number, rotation, *sides = values
        where = f"rectangle {str(region.get('id'))[:40]}, frame {str(number)[:20]}"
        if not is_whole(number, 1, LARGEST_FRAME) or not all(map(is_pixels, (*sides, rotation))) or min(sides[2:]) < 0:
            problems.append(f"{where}: a frame from 1 on, x, y, and a width and height of 0 or more were expected")
        elif rotation % 360:
            others += 1
        elif not frames[0] < number <= frames[-1] + 1:
            problems.append(f"{where}: the video has no such frame")
        else:
            x, y, w, h = (side * length / 100 for side, length in zip(sides, size * 2, strict=True))
            score = key["score"] if is_pixels(key.get("score"), 0) and key["score"] <= 1 else None
            shape = Shape(_label(region), (x, y, x + w, y + h), track=track, frame=number - 1, score=score)
            keys.append(shape)
            # The box before leads to the one after, so a rectangle that is hidden stays where it was.
            end = number if not key.get("enabled", True) else frames.stop if following is None else None
            if end is not None:
                keys.append(replace(shape, frame=end, is_outside=True))
    return keys, others


def export_label_studio(labels: Labels, out: Path) -> Exported:
    """Writes tasks.json to be imported, and labels.xml, the labelling configuration of the project.

    Each video is a task, each track a rectangle with a key frame wherever it was seen. Detections become predictions,
    annotations become annotations. Pictures, which Label Studio does not need, have their place in images/VIDEO.

    Args:
        labels: What is written; stills are left out.
        out: The folder, new or empty.

    Raises:
        ConfigError: The folder is not empty.
        DataError: It cannot be written, or there is no video.
    """
    clips, done = begin_videos(labels, out, "tasks about videos")
    tasks = []
    for clip in clips:
        for picture in clip.pictures:
            done.pictures.append((clip, picture, out / "images" / clip.folder / f"{picture.stem}{picture.suffix}"))
        tasks.append(_task(clip, labels.class_names, done))
    write_text(out / "tasks.json", json.dumps(tasks, indent=1, allow_nan=False) + "\n", error=DataError)
    write_text(out / "labels.xml", _labelling_configuration(labels.class_names), error=DataError)
    return done


def _task(clip: LabelledVideo, class_names: Sequence[str], done: Exported) -> dict[str, Any]:
    frames, fps = frame_range(clip), clip.fps or _USUAL_FPS
    kept = {id(box) for picture in clip.pictures for box in done.kept(picture)}
    size = clip.pictures[0].width, clip.pictures[0].height
    results = []
    for (number, label), boxes in clip.tracks().items():
        shown = [(frame, box) for frame, box in boxes if id(box) in kept]
        if not shown:
            continue
        keys = [
            _key(frame, box, size, fps, is_enabled=following is not None and following[0] == frame + frames.step)
            for (frame, box), following in zip(shown, [*shown[1:], None], strict=True)
        ]
        scores = [box.score for _, box in shown if box.score is not None]
        results.append(
            {
                "id": f"{_ALONE if shown[0][1].track is None else 'track-'}{number}",
                "type": "videorectangle",
                "from_name": "box",
                "to_name": "video",
                "value": {
                    "framesCount": frames[-1] + 1,
                    "duration": round((frames[-1] + 1) / fps, 6),
                    "sequence": keys,
                    "labels": [class_names[label]],
                },
                **({"score": round(sum(scores) / len(scores), 6)} if scores else {}),
            }
        )
    info = {
        "name": clip.name,
        "folder": clip.folder,
        "classes": [*class_names],
        "width": size[0],
        "height": size[1],
        "first_frame": frames[0],
        "frames": len(frames),
        "step": frames.step,
        **({"fps": clip.fps} if clip.fps else {}),
    }
    # The address of a file below the folder that Label Studio serves.
    data = {"video": f"/data/local-files/?d={quote(clip.source or clip.flat_name)}", "fps": fps, "flowdet": info}
    found = {"model_version": "flowdet", "result": results} if clip.has_scores else {"result": results}
    return {"data": data, "predictions" if clip.has_scores else "annotations": [found]}


def _key(frame: int, box: Box, size: tuple[int, int], fps: float, *, is_enabled: bool) -> dict[str, Any]:
    """Returns a key frame; one that is not enabled is the last before the object is out of sight."""
    x1, y1, x2, y2 = box.sides
    sides = (100 * side / length for side, length in zip((x1, y1, x2 - x1, y2 - y1), size * 2, strict=True))
    return {
        "frame": frame + 1,
        "enabled": is_enabled,
        "rotation": 0,
        **{name: round(side, 8) for name, side in zip(_SIDES, sides, strict=True)},
        "time": round((frame + 1) / fps, 6),
        **({} if box.score is None else {"score": round(box.score, 6)}),
    }


def _labelling_configuration(class_names: Sequence[str]) -> str:
    root = Element("View")
    listed = SubElement(root, "Labels", {"name": "labels", "toName": "video"})
    for name in class_names:
        SubElement(listed, "Label", {"value": name})
    SubElement(root, "Video", {"name": "video", "value": "$video", "frameRate": "$fps"})
    SubElement(root, "VideoRectangle", {"name": "box", "toName": "video"})
    indent(root)
    return tostring(root, encoding="unicode") + "\n"
