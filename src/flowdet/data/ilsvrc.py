"""ImageNet VID and DET as CocoVID: the same entries as mmtracking's converter writes."""

import glob
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from flowdet.class_names import VID_WORDNET_IDS
from flowdet.data.cocovid import Problem
from flowdet.data.cocovid_writer import CocoVIDWriter, Written, object_entry, writing_cocovid
from flowdet.data.image_files import names_in
from flowdet.data.reading import LARGEST_PIXELS, is_whole, parse_pixels, read_text, read_xml
from flowdet.errors import DataError, counted
from flowdet.work.jobs import Do, results
from flowdet.work.pool import spread

__all__ = [
    "LIST_FILES",
    "Frame",
    "FrameObject",
    "FramesJob",
    "ListedSet",
    "ListedVideo",
    "convert_ilsvrc",
    "find_lists",
    "read_det_list",
    "read_frames",
    "read_train_list",
    "read_val_list",
]

LIST_FILES = {
    "imagenet_vid_train": "VID_train_15frames.txt",
    "imagenet_vid_val": "VID_val_videos.txt",
    "imagenet_det_30plus1cls": "DET_train_30classes.txt",
}
"""The list file of each data set, by the name of the file that the data set becomes."""

_LIST_FOLDERS = ("Lists", "ImageSets")
_DET_FOLDERS = ("train/ILSVRC2013_train/*", *(f"train/ILSVRC2014_train_000{number}" for number in range(7)))
_OTHER_CLASSES = "other_categeries"  # DET objects of all other classes; spelt as in the published files
_CATEGORY_IDS = {code: number for number, code in enumerate(VID_WORDNET_IDS.values(), start=1)}
_OTHER_ID = len(VID_WORDNET_IDS) + 1
_STILLS_A_JOB = 1000
_FRAMES_ON_TRUST = 1000  # of a video without XML files, and as many again for each XML file


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """One video of a list.

    Attributes:
        name: Its folder, for example "val/ILSVRC2015_val_00000000".
        frame_count: Number of its frames, which are numbered from 0.
        training_frames: Numbers of the current frames of training, in the order of the list.
    """

    name: str
    frame_count: int
    training_frames: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ListedSet:
    """One data set to be converted.

    Attributes:
        name: Name of the file that the data set becomes, without suffix.
        list_file: The list.
        annotations: Folder of the XML files.
        pictures: Folder of the JPEG files; file names in the result lie below it.
        videos: The videos; empty for stills.
        stills: File names without suffix; empty for videos.
        listed_stills: Training uses the first `listed_stills` stills.
    """

    name: str
    list_file: Path
    annotations: Path
    pictures: Path
    videos: tuple[ListedVideo, ...] = ()
    stills: tuple[str, ...] = ()
    listed_stills: int = 0

    @property
    def frame_count(self) -> int:
        """The number of frames or stills to convert."""
        return len(self.stills) + sum(video.frame_count for video in self.videos)

    def categories(self) -> list[dict[str, Any]]:
        """Returns the entries of the 30 classes; for stills also one that stands for all others."""
        classes: list[tuple[str, str | None]] = list(VID_WORDNET_IDS.items())
        if self.stills:
            classes.append((_OTHER_CLASSES, None))
        return [{"id": i, "name": name, "encode_name": code} for i, (name, code) in enumerate(classes, start=1)]


def find_lists(root: Path, *, shifted_training_frames: bool = False) -> list[ListedSet]:
    """Returns which of VID train, VID val and DET can be converted.

    Args:
        root: Folder with Data, Annotations, and the lists in Lists or ImageSets.
        shifted_training_frames: As `shifted` of `read_train_list`.

    Raises:
        DataError: There is no list, or one cannot be understood.
    """
    found = []
    for name, file_name in LIST_FILES.items():
        paths = [root / folder / file_name for folder in _LIST_FOLDERS]
        path = next((path for path in paths if path.is_file()), None)
        if path:
            found.append(_listed_set(root, name, path, shifted_training_frames))
    if not found:
        raise DataError(
            f"{root} holds none of the lists {', '.join(LIST_FILES.values())}: expected at least one of them in "
            f"{root / 'Lists'} or {root / 'ImageSets'}, beside the folders Data and Annotations"
        )
    return found


def read_train_list(path: Path, *, shifted: bool = False) -> list[ListedVideo]:
    """Reads a list such as VID_train_15frames.txt: a line "folder 1 frame count" for each training frame.

    Args:
        path: The list.
        shifted: Subtract 1 from the frame numbers, as mmtracking does. They count from 0, so each mark moves to the
            frame before, and a 0 marks nothing.

    Raises:
        DataError: It cannot be read, or a line is something else.
    """
    counts: dict[str, int] = {}
    frames: dict[str, list[int]] = {}
    for where, name, (_, frame, count) in _lines(path, 3):
        if counts.setdefault(name, count) != count:
            raise DataError(f"{where}: {name} has {counted(count, 'frame')} here and {counts[name]} in a line before")
        if frame >= count:
            raise DataError(f"{where}: frame {frame} of {name}, whose {count} frames are numbered from 0")
        frames.setdefault(name, []).append(frame - shifted)
    return [ListedVideo(name, count, tuple(frames[name])) for name, count in counts.items()]


def read_val_list(path: Path) -> list[ListedVideo]:
    """Reads a list such as VID_val_videos.txt: a line "folder number 0 count" for each video.

    Raises:
        DataError: It cannot be read, or a line is something else.
    """
    counts: dict[str, int] = {}
    for where, name, (_, _, count) in _lines(path, 3):
        if name in counts:
            raise DataError(f"{where}: {name} is there a second time")
        counts[name] = count
    return [ListedVideo(name, count) for name, count in counts.items()]


def read_det_list(path: Path) -> list[str]:
    """Reads a list such as DET_train_30classes.txt: a line "picture 1" for each picture, without its suffix.

    The published list names some pictures twice; training uses them twice as often, and so they stay.

    Raises:
        DataError: It cannot be read, or a line is something else.
    """
    return [name for _, name, _ in _lines(path, 1)]


def _listed_set(root: Path, name: str, path: Path, shifted: bool) -> ListedSet:
    kind = "DET" if "det" in name else "VID"
    annotations, pictures = root / "Annotations" / kind, root / "Data" / kind
    if not annotations.is_dir():
        raise DataError(f"there is a list {path} but no folder {annotations} with the XML files it speaks of")
    if kind == "DET":
        listed = read_det_list(path)
        known = set(listed)
        others = [still for still in _stills_on_disk(annotations) if still not in known]
        return ListedSet(name, path, annotations, pictures, stills=(*listed, *others), listed_stills=len(listed))
    videos = read_train_list(path, shifted=shifted) if "train" in name else read_val_list(path)
    for video in videos:
        _check_frame_count(video, annotations, path)
    return ListedSet(name, path, annotations, pictures, videos=tuple(videos))


def _check_frame_count(video: ListedVideo, annotations: Path, path: Path) -> None:
    """Refuses a list that would fill memory and disk with missing frames."""
    if video.frame_count <= _FRAMES_ON_TRUST:
        return
    folder = annotations / video.name
    found = sum(name.endswith(".xml") for name in names_in(folder))
    if video.frame_count > _FRAMES_ON_TRUST * (1 + found):
        raise DataError(f"{path}: {video.name} has {video.frame_count} frames, but {folder} holds {found} XML files")


def _stills_on_disk(annotations: Path) -> Iterator[str]:
    """Yields the DET training pictures that have an XML file, in the published order."""
    start = len(str(annotations)) + 1
    for folder in _DET_FOLDERS:
        for path in sorted(glob.glob(f"{glob.escape(str(annotations))}/{folder}/*.xml")):
            yield path[start:].removesuffix(".xml").replace(os.sep, "/")


def _lines(path: Path, numbers: int) -> Iterator[tuple[str, str, list[int]]]:
    """Yields the place of each line, its name and its numbers."""
    lines = read_text(path).split("\n")
    if not any(map(str.strip, lines)):
        raise DataError(f"the list {path} is empty")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, *rest = line.split()
        if len(rest) != numbers or not all(re.fullmatch("[0-9]{1,9}", text) for text in rest):
            what = "number" if numbers == 1 else f"{numbers} whole numbers"
            raise DataError(f"{where}: expected a name and {what}, not {line[:80]!r}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{where}: {name[:80]!r} leads out of the folder")
        yield where, name, [int(text) for text in rest]


class FrameObject(NamedTuple):
    """One object of an XML file.

    Attributes:
        code: WordNet id of the class.
        box: (x, y, width, height) px; the width is xmax - xmin as in the published files, without the last column of
            the object, which is xmax, and likewise the height.
        track: Track number as text; None where there is none.
        occluded: Whether the file says that it is partly hidden.
        generated: Whether the file says that a tracker made the box.
    """

    code: str
    box: tuple[float, float, float, float]
    track: str | None
    occluded: bool
    generated: bool


class Frame(NamedTuple):
    """The content of one XML file.

    Attributes:
        size: (width, height) px; None if the frame cannot be used.
        objects: In the order of the file.
        problems: Everything left out.
    """

    size: tuple[int, int] | None
    objects: list[FrameObject]
    problems: list[Problem]


class FramesJob(NamedTuple):
    """Frames that one process reads in one go.

    Attributes:
        annotations: Folder of the XML files.
        pictures: Folder of the JPEG files, which must be there; None to look for none.
        names: File names without suffix, below both folders.
    """

    annotations: str
    pictures: str | None
    names: Sequence[str]


def read_frames(job: FramesJob) -> list[Frame]:
    """Returns the content of each XML file of a job, in order."""
    return [_frame(job, name) for name in job.names]


def _frame(job: FramesJob, name: str) -> Frame:
    path = f"{job.annotations}/{name}.xml"
    picture = f"{job.pictures}/{name}.JPEG"
    if job.pictures and not os.path.isfile(picture):
        return Frame(None, [], [Problem("missing picture", f"{picture} is not there")])
    try:
        root = read_xml(path)
        size = _size(root)
    except FileNotFoundError:
        return Frame(None, [], [Problem("missing XML file", f"{path} is not there")])
    except DataError as error:
        return Frame(None, [], [Problem("damaged XML file", f"{path} {error}")])
    objects, problems = [], []
    for number, element in enumerate(root.iterfind("object"), start=1):
        try:
            objects.append(_object(element))
        except DataError as error:
            problems.append(Problem("damaged object", f"{path}: object {number} {error}"))
    return Frame(size, objects, problems)


def _size(root: Element) -> tuple[int, int]:
    texts = root.findtext("size/width", ""), root.findtext("size/height", "")
    try:
        width, height = int(texts[0]), int(texts[1])
    except ValueError:
        raise DataError(
            f"states no width and height of the picture, but {texts[0][:20]!r}, {texts[1][:20]!r}"
        ) from None
    if not (is_whole(width, 1, LARGEST_PIXELS) and is_whole(height, 1, LARGEST_PIXELS)):
        raise DataError(f"says that the picture has {width}x{height} pixels")
    return width, height


def _object(element: Element) -> FrameObject:
    code = element.findtext("name")
    if not code:
        raise DataError("has no name")
    box = element.find("bndbox")
    if box is None:
        raise DataError("has no box")
    x1, y1, x2, y2 = (_coordinate(box, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise DataError(f"has a box from ({x1}, {y1}) to ({x2}, {y2}), whose end lies before its beginning")
    return FrameObject(
        code,
        (x1, y1, x2 - x1, y2 - y1),
        element.findtext("trackid"),
        element.findtext("occluded") == "1",
        element.findtext("generated") == "1",
    )


def _coordinate(box: Element, side: str) -> float:
    text = box.findtext(side, "")
    try:
        value = parse_pixels(text)
    except DataError:
        raise DataError(f"has {text[:20]!r} as {side} of its box") from None
    return int(value) if value.is_integer() else value


def convert_ilsvrc(
    listed: ListedSet,
    out: Path,
    *,
    processes: int = 1,
    strict: bool = False,
    progress: Callable[[int], None] = lambda frames: None,
) -> Written:
    """Converts ImageNet VID train, VID val or DET to one CocoVID file.

    Frames without objects are kept. In videos, objects of a class outside the 30 are left out; in stills they get the
    class that stands for all others. A frame without XML file or picture, or with a damaged XML file, is left out,
    and so is an object with a damaged box; the numbers of other frames, videos and images stay the same.
    The result does not depend on the number of processes.

    Args:
        listed: The data set to convert, from `find_lists`.
        out: Folder of the file.
        processes: Number of processes that read XML files. A script that asks for more than one needs
            `if __name__ == "__main__":`.
        strict: Anything damaged or missing is an error.
        progress: Called now and then with the number of frames done.

    Raises:
        DataError: No frame is left, something is damaged or missing and `strict` is set, or `out` cannot be written to.
    """
    categories = listed.categories()
    videos = [
        {"id": number, "name": video.name, "vid_train_frames": list(video.training_frames)}
        for number, video in enumerate(listed.videos, start=1)
    ]
    path = out / f"{listed.name}.json"
    with (
        writing_cocovid(path, categories=categories, videos=videos, strict=strict) as writer,
        closing(_read_in_order(_jobs(listed), processes)) as batches,
    ):
        if not listed.pictures.is_dir():
            remark = f"frames whose pictures were not looked for, as there is no folder {listed.pictures}"
            writer.remark(remark, listed.frame_count)
        if listed.videos:
            _write_videos(listed.videos, batches, writer, progress)
        else:
            _write_stills(listed, batches, writer, progress)
    return writer.written()


def _jobs(listed: ListedSet) -> Iterator[FramesJob]:
    annotations = str(listed.annotations)
    pictures = str(listed.pictures) if listed.pictures.is_dir() else None
    for video in listed.videos:
        names = [f"{video.name}/{number:06d}" for number in range(video.frame_count)]
        yield FramesJob(annotations, pictures, names)
    for start in range(0, len(listed.stills), _STILLS_A_JOB):
        yield FramesJob(annotations, pictures, listed.stills[start : start + _STILLS_A_JOB])


def _read_in_order(jobs: Iterator[FramesJob], processes: int) -> Generator[list[Frame], None, None]:
    if processes == 1:
        yield from map(read_frames, jobs)
        return
    early: dict[int, list[Frame]] = {}
    turn = 0
    with closing(results(spread(enumerate(jobs), _reader, processes=processes, threads=None))) as batches:
        for number, frames in batches:
            early[number] = frames
            while turn in early:
                yield early.pop(turn)
                turn += 1


def _reader(number: int) -> Do[tuple[int, FramesJob], tuple[int, list[Frame]]]:
    del number
    return lambda job, advance: (job[0], read_frames(job[1]))


def _write_videos(
    videos: tuple[ListedVideo, ...],
    batches: Iterator[list[Frame]],
    writer: CocoVIDWriter,
    progress: Callable[[int], None],
) -> None:
    done = instances = 0
    for video_id, (video, frames) in enumerate(zip(videos, batches, strict=True), start=1):
        tracks: dict[str, int] = {}
        marked = set(video.training_frames)
        for number, frame in enumerate(frames):
            done += 1
            objects = []
            for found in _known(frame, writer):
                if found.track is not None and found.track not in tracks:
                    instances += 1
                    tracks[found.track] = instances
                track = None if found.track is None else tracks[found.track]
                marks = {"occluded": found.occluded, "generated": found.generated}
                objects.append(object_entry(_CATEGORY_IDS[found.code], found.box, track, **marks))
            if frame.size:
                numbers = {"id": done, "frame_id": number, "video_id": video_id, "is_vid_train_frame": number in marked}
                writer.image(_picture(f"{video.name}/{number:06d}", frame.size) | numbers, objects)
        progress(done)


def _write_stills(
    listed: ListedSet, batches: Iterator[list[Frame]], writer: CocoVIDWriter, progress: Callable[[int], None]
) -> None:
    done = 0
    repeated = len(listed.stills) - len(set(listed.stills))
    if repeated:
        writer.remark("pictures that the list names again, kept as often as it does", repeated)
    for frames in batches:
        for frame in frames:
            name = listed.stills[done]
            done += 1
            _record_problems(frame, writer)
            if frame.size:
                numbers = {"id": done, "is_vid_train_frame": done <= listed.listed_stills}
                objects = [object_entry(_CATEGORY_IDS.get(found.code, _OTHER_ID), found.box) for found in frame.objects]
                writer.image(_picture(name, frame.size) | numbers, objects)
        progress(done)


def _known(frame: Frame, writer: CocoVIDWriter) -> list[FrameObject]:
    """Returns the frame's objects of the 30 classes and counts the others."""
    _record_problems(frame, writer)
    known = [found for found in frame.objects if found.code in _CATEGORY_IDS]
    if len(known) < len(frame.objects):
        writer.remark("objects of a class outside the 30, left out", len(frame.objects) - len(known))
    return known


def _record_problems(frame: Frame, writer: CocoVIDWriter) -> None:
    for problem in frame.problems:
        writer.problem(problem.kind, problem.sentence)


def _picture(name: str, size: tuple[int, int]) -> dict[str, Any]:
    return {"file_name": f"{name}.JPEG", "height": size[1], "width": size[0]}
