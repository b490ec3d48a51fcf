"""Writing CocoVID image by image, so that a million frames take no memory, and all at once: no half file stays."""

import json
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flowdet.errors import ConfigError, DataError

__all__ = ["CocoVIDWriter", "Problem", "Written", "problems_path", "replacing", "write_json", "writing_cocovid"]

_SHOWN_PROBLEMS = 3
_dump = json.JSONEncoder(allow_nan=False).encode  # made once: json.dumps would make it for every entry


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of a source that could not be taken over and was left out.

    Attributes:
        kind: What such problems have in common, for counting.
        sentence: Names the file and the entry, and says what is wrong.
    """

    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        path: The file.
        videos: How many.
        images: Frames and stills.
        training_images: Those of them that training draws current frames from.
        empty_images: Those without an object.
        objects: How many.
        objects_per_class: By class name, in the order of the categories.
        remarks: What was left out or changed on purpose, with its count.
        problems: What was left out because it is damaged or missing.
    """

    path: Path
    videos: int
    images: int
    training_images: int
    empty_images: int
    objects: int
    objects_per_class: Mapping[str, int]
    remarks: Mapping[str, int]
    problems: tuple[Problem, ...]


class CocoVIDWriter:
    """Takes images with their objects; `writing_cocovid` makes one.

    Args:
        path: What the file is called in messages.
        document: Takes everything but the annotations; its beginning is written at once.
        annotations: Keeps the annotations until all images are known.
        categories: As in the file, each with id and name.
        videos: As in the file, each with id and name.
    """

    def __init__(
        self,
        path: Path,
        document: IO[str],
        annotations: IO[str],
        categories: Sequence[Mapping[str, Any]],
        videos: Sequence[Mapping[str, Any]],
    ) -> None:
        self._path = path
        self._document = document
        self._annotations = annotations
        self._names = {category["id"]: category["name"] for category in categories}
        self._video_count = len(videos)
        self._images = self._training = self._empty = 0
        self._objects: Counter[int] = Counter()
        self._remarks: Counter[str] = Counter()
        self._problems: list[Problem] = []
        self._put(document, f'{{"categories": {_dump(list(categories))}, ')
        self._put(document, f'"videos": {_dump(list(videos))}, ' if videos else "")
        self._put(document, '"images": [')

    def image(self, image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> None:
        """Adds a frame or still.

        Args:
            image: Its entry.
            objects: The entries of its annotations but for the numbers of annotation, video and image, which are
                given here.
        """
        self._put(self._document, (", " if self._images else "") + _dump(image))
        video = {"video_id": image["video_id"]} if "video_id" in image else {}
        for entry in objects:
            number = self._objects.total() + 1
            numbered = {"id": number, **video, "image_id": image["id"], **entry}
            self._put(self._annotations, (", " if number > 1 else "") + _dump(numbered))
            self._objects[entry["category_id"]] += 1
        self._images += 1
        self._training += image.get("is_vid_train_frame", True)
        self._empty += not objects

    def remark(self, what: str, count: int = 1) -> None:
        """Counts something that was left out or changed on purpose."""
        self._remarks[what] += count

    def problem(self, kind: str, sentence: str) -> None:
        """Takes down something that was left out because it is damaged or missing."""
        self._problems.append(Problem(kind, sentence))

    def written(self) -> Written:
        """What was written so far."""
        return Written(
            path=self._path,
            videos=self._video_count,
            images=self._images,
            training_images=self._training,
            empty_images=self._empty,
            objects=self._objects.total(),
            objects_per_class={name: self._objects[number] for number, name in self._names.items()},
            remarks=dict(self._remarks),
            problems=tuple(self._problems),
        )

    def finish(self) -> None:
        """Completes the document."""
        self._put(self._document, '], "annotations": [')
        self._annotations.seek(0)
        try:
            shutil.copyfileobj(self._annotations, self._document, 1 << 20)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._put(self._document, "]}")

    def _put(self, file: IO[str], text: str) -> None:
        try:
            file.write(text)
        except OSError as error:
            raise _unwritable(self._path, error) from error


@contextmanager
def writing_cocovid(
    path: Path,
    *,
    categories: Sequence[Mapping[str, Any]],
    videos: Sequence[Mapping[str, Any]] = (),
    strict: bool = False,
) -> Iterator[CocoVIDWriter]:
    """Writes a CocoVID file in a `with` statement; it appears or is replaced when that is left without an error.

    If there were problems, they are listed in a file beside it, see `problems_path`.

    Args:
        path: The `.json` file.
        categories: As in the file, each with id and name.
        videos: As in the file, each with id and name.
        strict: Problems are an error, and nothing is written but their list.

    Raises:
        ConfigError: The path does not end with .json.
        DataError: The file cannot be written, no image came, or there were problems and `strict` is set.
    """
    if path.suffix != ".json":
        raise ConfigError(f"a data set is written to a .json file, not to {path}")
    with replacing(path) as document, tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent) as annotations:
        writer = CocoVIDWriter(path, document, annotations, categories, videos)
        yield writer
        writer.finish()
        written = writer.written()
        _write_problems(written)
        if (strict and written.problems) or not written.images:
            raise DataError(_refusal(written))


def problems_path(path: Path) -> Path:
    """The file in which the problems of a data set are listed, one a line: `val.problems.txt` for `val.json`."""
    return path.with_suffix(".problems.txt")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file for people and machines, all at once.

    Raises:
        DataError: It cannot be written.
    """
    with replacing(path) as file:
        try:
            file.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise _unwritable(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Gives a text file that takes the place of `path` when the `with` statement is left without an error.

    Raises:
        DataError: The folder cannot be made or written to.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with file:
            yield file
        try:
            partial.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _write_problems(written: Written) -> None:
    path = problems_path(written.path)
    if written.problems:
        with replacing(path) as file:
            file.writelines(f"{problem.sentence}\n" for problem in written.problems)
    else:
        path.unlink(missing_ok=True)


def _refusal(written: Written) -> str:
    sentences = [problem.sentence for problem in written.problems]
    first = "; ".join(sentences[:_SHOWN_PROBLEMS])
    rest = f"; and {len(sentences) - _SHOWN_PROBLEMS} more" if len(sentences) > _SHOWN_PROBLEMS else ""
    where = f" ({problems_path(written.path)} lists them)" if sentences else ""
    reason = f"there are problems{where}" if written.images else f"there is no image to write{where}"
    return f"{written.path} was not written: {reason}{': ' if sentences else ''}{first}{rest}"


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be written: {error.strerror}")
