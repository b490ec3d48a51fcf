"""CVAT's XML files, "CVAT for video 1.1" and "CVAT for images 1.1", read and written."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from flowdet.data.cocovid_writer import CocoVIDWriter, Written, writing_cocovid
from flowdet.data.labels import Box, Exported, LabelledVideo, Labels, frame_range, make_folder
from flowdet.data.reading import parse_pixels, read_xml
from flowdet.data.shapes import Shape, Shapes, Target, check_pattern, frame_file, numbered
from flowdet.errors import ConfigError, DataError
from flowdet.files import IMAGE_SUFFIXES, write_text

__all__ = ["export_cvat", "import_cvat"]

_PATTERNS = tuple(f"images/frame_%06d.{suffix}" for suffix in ("png", "PNG", "jpg", "jpeg", "JPG"))
_SUFFIXES = ("", ".png", ".PNG", *(suffix for suffix in sorted(IMAGE_SUFFIXES) if suffix != ".png"))
_NOT_SHAPES = {"attribute", "tag"}


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
    if frames is not None:
        check_pattern(frames)
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
        target = Target(writer, base, ids)
        for done, source in enumerate(sources, start=1):
            name = names.get(source.path)
            video_id = list(names).index(source.path) + 1 if name is not None else None
            if source.has_tracks:
                assert name is not None
                assert video_id is not None
                _import_tracks(source, name, video_id, target, frames)
            else:
                _import_images(source, name, video_id, target, frames)
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
    videos = [source for source in sources if source.is_video]
    names = numbered(source.root.findtext("meta/task/name") or source.path.stem for source in videos)
    return {source.path: name for source, name in zip(videos, names, strict=True)}


def _import_tracks(source: _File, name: str, video_id: int, target: Target, frames: str | None) -> None:
    try:
        task = _read_video_task(source.root)
        pattern = _pattern(source, target, name, task.frames[0], frames)
        width, height = target.size_of(task.size, pattern, task.frames)
        shapes = _read_tracks(source.root, task)
    except DataError as error:
        raise DataError(f"{source.path} {error}") from error
    numbers = {number: frame_id for frame_id, number in enumerate(task.frames)}
    video = {"height": height, "width": width, "video_id": video_id}
    target.add_video(str(source.path), video, pattern, numbers, shapes)
    guess = f"frames in {source.path}, which does not say how many there are: up to the last box"
    target.remark(guess, task.is_guess * len(task.frames))


def _pattern(source: _File, target: Target, name: str, first: int, frames: str | None) -> str:
    """Returns the names of the pictures below the folder of all, with a place for the frame's number."""
    patterns = _PATTERNS if frames is None else (frames.replace("{name}", name),)
    patterns = tuple((source.prefix / pattern).as_posix() for pattern in patterns)
    return next((p for p in patterns if os.path.isfile(target.base / frame_file(p, first))), patterns[0])


def _import_images(source: _File, name: str | None, video_id: int | None, target: Target, frames: str | None) -> None:
    others = missing = 0
    absent = ""
    numbers: set[int] = set()
    pattern = None
    if frames is not None:
        if name is None:
            raise ConfigError(f"a pattern is for the frames of a video, but {source.path} is about single pictures")
        pattern = (source.prefix / frames.replace("{name}", name)).as_posix()
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
        return frame_file(pattern, number or 0)
    inside = source.prefix / "images"
    folders = (inside, source.prefix) if (base / inside).is_dir() else (source.prefix,)
    names = [(folder / called).as_posix() + suffix for suffix in _SUFFIXES for folder in folders]
    return next((name for name in names if os.path.isfile(base / name)), names[0])


def _frame_number(image: Element) -> int | None:
    """Returns the number of a frame: the digits at the end of its name, without suffix, or else its id."""
    digits = re.search(r"([0-9]{1,9})(\.[A-Za-z]+)?$", image.get("name", ""))
    return int(digits[1]) if digits else _whole_number(image.get("id"))


def _read_shapes(image: Element, where: str, writer: CocoVIDWriter) -> tuple[list[Shape], int]:
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


def _read_tracks(root: Element, task: _VideoTask) -> Shapes:
    """Returns the boxes of all tracks of a file "for video".

    A box counts for its own frame unless it is marked as outside. Frames of the task between a box that is not outside
    and the next one of its track get boxes in between, as CVAT shows them; CVAT's own exports hold every box.
    """
    shapes = Shapes()
    for position, track in enumerate(root.iterfind("track")):
        keys = _keys(track, f"track {track.get('id', f'at position {position}')}", task, shapes)
        shapes.fill(keys, task.frames)
    return shapes


def _keys(track: Element, where: str, task: _VideoTask, shapes: Shapes) -> list[Shape]:
    """Returns the boxes of a track as they stand in the file, by frame."""
    keys = []
    number = _whole_number(track.get("id"))
    for element in track:
        if not _is_upright_box(element):
            shapes.others += element.tag not in _NOT_SHAPES
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
            shapes.problems.append(f"{where}, frame {element.get('frame', '')[:20]}: {error}")
    return sorted(keys, key=lambda key: key.frame)


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


def _shape(element: Element, labelled: Element) -> Shape:
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
    return Shape(labelled.get("label", ""), (x1, y1, x2, y2), element.get("occluded") == "1", score=_score(element))


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
