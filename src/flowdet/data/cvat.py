"""CVAT's XML files, "CVAT for video 1.1" and "CVAT for images 1.1", read and written."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from flowdet.data.cocovid_writer import CocoVIDWriter, Written, object_entry, writing_cocovid
from flowdet.data.image_files import names_in, picture_size
from flowdet.data.labels import Box, Exported, LabelledVideo, Labels, frame_range, make_folder
from flowdet.data.reading import parse_pixels, read_xml
from flowdet.errors import ConfigError, DataError
from flowdet.files import IMAGE_SUFFIXES, write_text

__all__ = ["export_cvat", "import_cvat"]

_PATTERNS = tuple(f"images/frame_%06d.{suffix}" for suffix in ("png", "PNG", "jpg", "jpeg", "JPG"))
_SUFFIXES = ("", ".png", ".PNG", *(suffix for suffix in sorted(IMAGE_SUFFIXES) if suffix != ".png"))
_NUMBER = re.compile(r"%(?:0([1-9]))?d")
_NOT_SHAPES = {"attribute", "tag"}
_FRAMES_ON_TRUST = 100_000  # a task may have more only if their pictures are there
_MOST_INTERPOLATED = 1_000_000

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _File:
    """One XML file, and the folder of its pictures below the folder of all pictures."""

    path: Path
    root: Element
    prefix: Path

    @property
    def has_tracks(self) -> bool:
        """Whether it is "for video"."""
        return self.root.find("image") is None

    @property
    def is_video(self) -> bool:
        """Whether it is about a video, in either format."""
        return self.has_tracks or self.root.findtext("meta/*/mode") == "interpolation"

    @property
    def labels(self) -> list[str]:
        """The classes of the task, or else those that occur."""
        known = [label.findtext("name", "") for label in self.root.iterfind("meta/*/labels/label")]
        used = [element.get("label", "") for element in self.root.iter() if element.tag in {"track", "box"}]
        return [label for label in known or used if label]


@dataclass(frozen=True, slots=True)
class _VideoTask:
    """The frames of a task about a video.

    Attributes:
        frames: Their numbers in the video file, which the names of the pictures hold too.
        size: (width, height) px; None if the file does not say.
        is_guess: The file does not say how many frames there are; they are taken up to the last box.
    """

    frames: range
    size: tuple[int, int] | None
    is_guess: bool


@dataclass(frozen=True, slots=True)
class _Shape:
    """One box (x1, y1, x2, y2) px.

    Attributes:
        label: The class.
        box: px.
        is_occluded: Whether it is partly hidden.
        track: Number of its track; None for a single picture.
        frame: Number of its frame in the video.
        is_outside: Whether the track leaves the picture there.
        score: That of its attribute "score", if it has one.
    """

    label: str
    box: _Box
    is_occluded: bool
    track: int | None = None
    frame: int = 0
    is_outside: bool = False
    score: float | None = None


@dataclass(slots=True)
class _Tracks:
    """All boxes of a video.

    Attributes:
        shapes: By frame number, within a frame in the order of the file.
        interpolated: Number of boxes computed between two boxes of the file.
        others: Number of shapes left out because they are not upright boxes.
        problems: A sentence for each thing that could not be read.
    """

    shapes: dict[int, list[_Shape]] = field(default_factory=dict)
    interpolated: int = 0
    others: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Target:
    """The writer, the folder of all pictures, the pattern of their names, the ids of the labels, the images so far."""

    writer: CocoVIDWriter
    base: Path
    frames: str | None
    ids: dict[str, int]
    images: int = 0

    def add(self, where: str, image: dict[str, Any], shapes: Sequence[_Shape]) -> None:
        """Adds an image with its shapes; a shape with an unknown label becomes a problem."""
        self.images += 1
        objects = []
        for shape in shapes:
            if shape.label in self.ids:
                x1, y1, x2, y2 = shape.box
                box = (x1, y1, x2 - x1, y2 - y1)
                score = {} if shape.score is None else {"score": shape.score}
                objects.append(
                    object_entry(self.ids[shape.label], box, shape.track, occluded=shape.is_occluded, **score)
                )
            else:
                self.writer.problem("unknown label", f"{where}: the task has no label {shape.label[:40]!r}")
        self.writer.image({**image, "id": self.images}, objects)

    def remark(self, what: str, count: int) -> None:
        """Counts what was left out or changed, if anything."""
        if count:
            self.writer.remark(what, count)


def import_cvat(
    files: Sequence[Path],
    out: Path,
    *,
    images: Path | None = None,
    frames: str | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda files: None,
) -> Written:
    """Imports XML files of CVAT; each file about a video becomes a video, other pictures become stills.

    The frames of a video are pictures whose names hold the frame's number, as CVAT exports them. Where a track has no
    box between two others, boxes are interpolated as CVAT does.

    Args:
        files: The XML files.
        out: The `.json` file to write.
        images: Folder that file names lie below. By default the folder of the XML file, or the common parent of the
            XML files.
        frames: Names of a video's pictures, with "%06d" for the frame's number and "{name}" for the name of the video.
            By default images/frame_%06d.png, or with another suffix that is found beside the XML file.
        strict: Anything that cannot be read is an error.
        progress: Called with the number of files done.

    Raises:
        ConfigError: `frames` is no such pattern, or no file is given.
        DataError: A file is not from CVAT or declares entities, or something cannot be read and `strict` is set.
    """
    if not files or len({path.resolve() for path in files}) != len(files):
        raise ConfigError("name at least one XML file of CVAT, and each of them once")
    if frames is not None and len(_NUMBER.findall(frames)) != 1:
        raise ConfigError(f"the pattern of the frames holds %06d or %d once, for the frame's number, not {frames!r}")
    base = images or Path(os.path.commonpath([path.resolve().parent for path in files]))
    sources = [_read_file(path, base if images is None else None) for path in files]
    labels = dict.fromkeys(label for source in sources for label in source.labels)
    ids = {label: number for number, label in enumerate(labels, start=1)}
    names = _video_names(sources)
    with writing_cocovid(
        out,
        categories=[{"id": number, "name": label} for label, number in ids.items()],
        videos=[{"id": number, "name": name} for number, name in enumerate(names.values(), start=1)],
        strict=strict,
    ) as writer:
        target = _Target(writer, base, frames, ids)
        for done, source in enumerate(sources, start=1):
            name = names.get(source.path)
            video_id = list(names).index(source.path) + 1 if name is not None else None
            if source.has_tracks:
                assert name is not None
                _import_tracks(source, name, video_id, target)
            else:
                _import_images(source, name, video_id, target)
            progress(done)
    return writer.written()


def _read_file(path: Path, base: Path | None) -> _File:
    try:
        root = read_xml(path)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    if root.tag != "annotations":
        raise DataError(f"{path} is not from CVAT: it holds <{root.tag[:40]}> where <annotations> was expected")
    return _File(path, root, path.resolve().parent.relative_to(base.resolve()) if base else Path())


def _video_names(sources: Sequence[_File]) -> dict[Path, str]:
    """Returns a name for each file about a video: that of its task or of the file, numbered where two are the same."""
    names: dict[Path, str] = {}
    for source in sources:
        if source.is_video:
            name = source.root.findtext("meta/task/name") or source.path.stem
            same = sum(re.fullmatch(rf"{re.escape(name)}(-[0-9]+)?", other) is not None for other in names.values())
            names[source.path] = f"{name}-{same + 1}" if same else name
    return names


def _import_tracks(source: _File, name: str, video_id: int | None, target: _Target) -> None:
    try:
        task = _read_video_task(source.root)
        pattern = _pattern(source, target, name, task.frames[0])
        width, height = task.size or _first_size(target.base / _file_name(pattern, task.frames[0]))
        _check_frame_count(task, target.base / _file_name(pattern, task.frames[-1]))
        tracks = _read_tracks(source.root, task)
    except DataError as error:
        raise DataError(f"{source.path} {error}") from error
    missing = 0
    for frame_id, number in enumerate(task.frames):
        file_name = _file_name(pattern, number)
        missing += not os.path.isfile(target.base / file_name)
        entry = {"file_name": file_name, "height": height, "width": width, "frame_id": frame_id, "video_id": video_id}
        target.add(f"{source.path}, frame {number}", entry, tracks.shapes.get(number, []))
    for sentence in tracks.problems:
        target.writer.problem("box that cannot be used", f"{source.path}: {sentence}")
    target.remark("boxes interpolated between those of the file", tracks.interpolated)
    target.remark("shapes that are not upright boxes, left out", tracks.others)
    first = target.base / _file_name(pattern, task.frames[0])
    target.remark(f"frames whose pictures are not there, the first one {first}", missing)
    guess = f"frames in {source.path}, which does not say how many there are: up to the last box"
    target.remark(guess, task.is_guess * len(task.frames))


def _first_size(path: Path) -> tuple[int, int]:
    try:
        return picture_size(path)
    except DataError as error:
        raise DataError(
            f"does not say how large its pictures are, and the first is not there or damaged: {error}"
        ) from error


def _check_frame_count(task: _VideoTask, last: Path) -> None:
    """Refuses a file whose numbers would fill memory and disk with frames that do not exist."""
    count = len(task.frames)
    if count > _FRAMES_ON_TRUST and count > (found := len(names_in(last.parent))):
        raise DataError(f"has {count} frames, but {last.parent} holds only {found} files; extract the frames first")


def _pattern(source: _File, target: _Target, name: str, first: int) -> str:
    """Returns the names of the pictures below the folder of all, with a place for the frame's number."""
    patterns = _PATTERNS if target.frames is None else (target.frames.replace("{name}", name),)
    patterns = tuple((source.prefix / pattern).as_posix() for pattern in patterns)
    return next((p for p in patterns if os.path.isfile(target.base / _file_name(p, first))), patterns[0])


def _file_name(pattern: str, number: int) -> str:
    return _NUMBER.sub(lambda found: f"{number:0{found[1] or 1}d}", pattern)


def _import_images(source: _File, name: str | None, video_id: int | None, target: _Target) -> None:
    others = missing = 0
    absent = ""
    numbers: set[int] = set()
    pattern = None
    if target.frames is not None:
        if name is None:
            raise ConfigError(f"a pattern is for the frames of a video, but {source.path} is about single pictures")
        pattern = (source.prefix / target.frames.replace("{name}", name)).as_posix()
    for image in source.root.iterfind("image"):
        called = image.get("name", "")
        where = f"{source.path}, image {called[:80]!r}"
        width, height = _whole_number(image.get("width")), _whole_number(image.get("height"))
        if not (called and width and height):
            target.writer.problem("image without name or size", f"{where}: name, width and height are needed")
            continue
        number = _frame_number(image)
        if video_id is not None and (number is None or number in numbers):
            sentence = f"{where}: a frame of a video has a number of its own at the end of its name, or as its id"
            target.writer.problem("frame without a number", sentence)
            continue
        file_name = _image_file(called, number, pattern, source, target.base)
        if not os.path.isfile(target.base / file_name):
            missing += 1
            absent = absent or file_name
        entry = {"file_name": file_name, "height": height, "width": width}
        if video_id is not None and number is not None:
            numbers.add(number)
            entry |= {"frame_id": number, "video_id": video_id}
        shapes, left_out = _read_shapes(image, where, target.writer)
        others += left_out
        target.add(where, entry, shapes)
    target.remark("shapes that are not upright boxes, left out", others)
    target.remark(f"images whose pictures are not there, the first one {target.base / absent}", missing)


def _image_file(called: str, number: int | None, pattern: str | None, source: _File, base: Path) -> str:
    """Returns the file of an image below the folder of all pictures; CVAT leaves out the suffix of a video's frames."""
    if pattern is not None:
        return _file_name(pattern, number or 0)
    inside = source.prefix / "images"
    folders = (inside, source.prefix) if (base / inside).is_dir() else (source.prefix,)
    names = [(folder / called).as_posix() + suffix for suffix in _SUFFIXES for folder in folders]
    return next((name for name in names if os.path.isfile(base / name)), names[0])


def _frame_number(image: Element) -> int | None:
    """Returns the number of a frame: the digits at the end of its name, without suffix, or else its id."""
    digits = re.search(r"([0-9]{1,9})(\.[A-Za-z]+)?$", image.get("name", ""))
    return int(digits[1]) if digits else _whole_number(image.get("id"))


def _read_shapes(image: Element, where: str, writer: CocoVIDWriter) -> tuple[list[_Shape], int]:
    """Returns the boxes of an image, and the number of other shapes."""
    shapes = []
    others = 0
    for element in image:
        if not _is_upright_box(element):
            others += element.tag not in _NOT_SHAPES
            continue
        try:
            shapes.append(_shape(element, element))
        except DataError as error:
            writer.problem("box that cannot be used", f"{where}: {error}")
    return shapes, others


def _read_video_task(root: Element) -> _VideoTask:
    """Returns what a file "for video" says of its video.

    Raises:
        DataError: It is the export of a project, or the numbers make no sense; the message does not name the file.
    """
    if root.find("meta/project") is not None:
        raise DataError("is the export of a project: export each of its tasks by itself")
    info = root.find("meta/task")
    info = root.find("meta/job") if info is None else info
    texts = {name: "" if info is None else info.findtext(name, "") for name in ("size", "start_frame", "frame_filter")}
    count = _whole_number(texts["size"])
    start = _whole_number(texts["start_frame"]) or 0
    found = re.fullmatch(r"\s*step\s*=\s*([1-9][0-9]{0,5})\s*", texts["frame_filter"])
    step = int(found[1]) if found else 1
    is_guess = count is None
    if count is None:
        numbers = (_whole_number(box.get("frame")) for box in root.iter("box"))
        count = max(((number - start) // step + 1 for number in numbers if number is not None), default=0)
    if count < 1:
        raise DataError("has no frames")
    width, height = (_whole_number(root.findtext(f"meta//original_size/{side}")) for side in ("width", "height"))
    return _VideoTask(range(start, start + count * step, step), (width, height) if width and height else None, is_guess)


def _read_tracks(root: Element, task: _VideoTask) -> _Tracks:
    """Returns the boxes of all tracks of a file "for video".

    A box counts for its own frame unless it is marked as outside. Frames of the task between a box that is not outside
    and the next one of its track get boxes in between, as CVAT shows them; CVAT's own exports hold every box.
    """
    tracks = _Tracks()
    for position, track in enumerate(root.iterfind("track")):
        keys = _keys(track, f"track {track.get('id', f'at position {position}')}", task, tracks)
        for shape in _filled(keys, task, tracks):
            tracks.shapes.setdefault(shape.frame, []).append(shape)
    return tracks


def _keys(track: Element, where: str, task: _VideoTask, tracks: _Tracks) -> list[_Shape]:
    """Returns the boxes of a track as they stand in the file, by frame."""
    keys = []
    number = _whole_number(track.get("id"))
    for element in track:
        if not _is_upright_box(element):
            tracks.others += element.tag not in _NOT_SHAPES
            continue
        frame = _whole_number(element.get("frame"))
        is_outside = element.get("outside") == "1"
        try:
            if frame is None:
                raise DataError(f"{element.get('frame')!r} is no frame number")
            if frame not in task.frames and not is_outside:
                raise DataError("the video has no such frame")
            keys.append(replace(_shape(element, track), track=number, frame=frame, is_outside=is_outside))
        except DataError as error:
            tracks.problems.append(f"{where}, frame {element.get('frame', '')[:20]}: {error}")
    return sorted(keys, key=lambda key: key.frame)


def _filled(keys: list[_Shape], task: _VideoTask, tracks: _Tracks) -> Iterator[_Shape]:
    """Yields the visible boxes, with those in between."""
    for key, following in pairwise([*keys, None]):
        if key is None or key.is_outside:
            continue
        yield key
        if following is not None:
            end = min(following.frame, task.frames.stop)
            between = range(key.frame + task.frames.step, end, task.frames.step)
            tracks.interpolated += len(between)
            if tracks.interpolated > _MOST_INTERPOLATED:
                raise DataError(
                    f"needs more than {_MOST_INTERPOLATED} boxes between those that it holds; export it from CVAT, "
                    "which writes every box"
                )
            for frame in between:
                share = (frame - key.frame) / (following.frame - key.frame)
                x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(key.box, following.box, strict=True))
                yield replace(key, frame=frame, box=(x1, y1, x2, y2), score=None)


def _is_upright_box(element: Element) -> bool:
    """Whether this is a box whose sides are parallel to those of the picture."""
    if element.tag != "box":
        return False
    try:
        return float(element.get("rotation", "0")) % 360 == 0
    except ValueError:
        return True


def _whole_number(text: str | None) -> int | None:
    """Returns the whole number from 0 that a text states; None if it is something else."""
    return int(text) if text and re.fullmatch("[0-9]{1,9}", text.strip()) else None


def _shape(element: Element, labelled: Element) -> _Shape:
    """Returns the box of an element, with the label of the element or of the track around it.

    Raises:
        DataError: It has no four numbers, or ends before it begins.
    """
    texts = [element.get(name, "") for name in ("xtl", "ytl", "xbr", "ybr")]
    try:
        x1, y1, x2, y2 = map(parse_pixels, texts)
    except DataError:
        raise DataError(f"a box has four numbers xtl, ytl, xbr, ybr, not {', '.join(texts)[:60]!r}") from None
    if not (x1 <= x2 and y1 <= y2):
        raise DataError(f"a box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) ends before it begins")
    return _Shape(labelled.get("label", ""), (x1, y1, x2, y2), element.get("occluded") == "1", score=_score(element))


def _score(element: Element) -> float | None:
    text = element.findtext("attribute[@name='score']")
    try:
        return float(text) if text and 0 <= float(text) <= 1 else None
    except ValueError:
        return None


def export_cvat(labels: Labels, out: Path) -> Exported:
    """Writes annotations.xml, one for each video, to be uploaded to a CVAT task of the same video or pictures.

    A video with tracks becomes "CVAT for video 1.1", in which every object is a track; other videos and stills become
    "CVAT for images 1.1". Scores become the attribute "score". Pictures have their place in `images` beside the file.

    Args:
        labels: What is written.
        out: The folder, new or empty; with several videos it gets a folder for each.

    Raises:
        ConfigError: The folder is not empty.
        DataError: It cannot be written.
    """
    make_folder(out)
    done = Exported(out)
    for video in labels.videos:
        folder = out / video.flat_name if len(labels.videos) > 1 else out
        root = Element("annotations")
        _put(root, version="1.1")
        _put_meta(root, video, labels.class_names)
        if video.has_tracks:
            _put_tracks(root, video, labels.class_names, done)
        for number, picture in enumerate(video.pictures):
            name = picture.stem if picture.frame is None else f"frame_{picture.stem}"
            done.pictures.append((video, picture, folder / "images" / f"{name}{picture.suffix}"))
            if not video.has_tracks:
                place = {"id": str(number if picture.frame is None else picture.frame), "name": name}
                if picture.frame is None:
                    place["name"] += picture.suffix
                size = {"width": str(picture.width), "height": str(picture.height)}
                image = SubElement(root, "image", {**place, **size})
                for box in done.kept(picture):
                    _put_box(image, box, {"label": labels.class_names[box.label], "z_order": "0"})
        folder.mkdir(exist_ok=True)
        indent(root)
        text = tostring(root, encoding="unicode")
        write_text(folder / "annotations.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', error=DataError)
    return done


def _put(parent: Element, **texts: object) -> None:
    for name, text in texts.items():
        SubElement(parent, name).text = str(text)


def _put_meta(root: Element, video: LabelledVideo, class_names: Sequence[str]) -> None:
    task = SubElement(SubElement(root, "meta"), "task")
    if video.name is None:
        _put(task, name="stills", size=len(video.pictures), mode="annotation")
    else:
        frames = frame_range(video)
        _put(task, name=video.name, size=len(frames), mode="interpolation")
        _put(task, start_frame=frames[0], stop_frame=frames[-1])
        _put(task, frame_filter=f"step={frames.step}" if frames.step > 1 else "")
        size = SubElement(task, "original_size")
        _put(size, width=video.pictures[0].width, height=video.pictures[0].height)
    listed = SubElement(task, "labels")
    for name in class_names:
        label = SubElement(listed, "label")
        _put(label, name=name, type="rectangle")
        attributes = SubElement(label, "attributes")
        if video.has_scores:
            attribute = SubElement(attributes, "attribute")
            _put(attribute, name="score", mutable="True", input_type="text", default_value="", values="")


def _put_tracks(root: Element, video: LabelledVideo, class_names: Sequence[str], done: Exported) -> None:
    frames = frame_range(video)
    kept = {id(box) for picture in video.pictures for box in done.kept(picture)}
    for (number, label), boxes in video.tracks().items():
        shown = [(frame, box) for frame, box in boxes if id(box) in kept]
        track = SubElement(root, "track", {"id": str(number), "label": class_names[label], "source": "auto"})
        for (frame, box), following in zip(shown, [*shown[1:], None], strict=True):
            place = {"frame": str(frame), "outside": "0", "keyframe": "1", "z_order": "0"}
            _put_box(track, box, place)
            after = frame + frames.step
            if after in frames and (following is None or following[0] > after):
                _put_box(track, box, {**place, "frame": str(after), "outside": "1"})


def _put_box(parent: Element, box: Box, place: dict[str, str]) -> None:
    names = ("xtl", "ytl", "xbr", "ybr")
    sides = {name: f"{round(side, 3):.10g}" for name, side in zip(names, box.sides, strict=True)}
    element = SubElement(parent, "box", {**place, "occluded": "0", **sides})
    if box.score is not None:
        SubElement(element, "attribute", {"name": "score"}).text = f"{box.score:.6g}"
