"""Writes CocoVID files image by image, in constant memory, whole or not at all."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flowdet.data.cocovid import Problem, annotation_problems, header_problems, image_problems
from flowdet.errors import ConfigError, DataError
from flowdet.files import replacing, write_text

__all__ = ["CocoVIDWriter", "Written", "object_entry", "problems_path", "writing_cocovid"]

_SHOWN_PROBLEMS = 3
_DECIMALS = 3
_dump = json.JSONEncoder(allow_nan=False).encode  # made once: json.dumps would make it for every entry


@dataclass(frozen=True, slots=True)
class Written:
    """Counts of a file that was written.

    Attributes:
        path: The file.
        videos: Number of videos.
        images: Number of frames and stills.
        training_images: Number of images that training uses as current frames.
        empty_images: Number of images without objects.
        objects: Number of objects.
        objects_per_class: Number of objects by class name, in the order of the categories.
        remarks: What was left out or changed on purpose, with its count.
        problems: What was left out because it is damaged, missing or implausible.
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
        path: What messages call the file.
        document: Receives everything but the annotations; its beginning is written at once.
        annotations: Holds the annotations until all images are known.
        categories: Their entries, each with id and name.
        videos: Their entries, each with id and name.
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
        document.write(f'{{"categories": {_dump(list(categories))}, ')
        document.write(f'"videos": {_dump(list(videos))}, ' if videos else "")
        document.write('"images": [')

    def image(self, image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> None:
        """Adds a frame or still; an image or object that a reader would refuse becomes a problem instead.

        Args:
            image: Its entry.
            objects: The entries of its annotations, without the ids of annotation, video and image.
        """
        wrong = list(image_problems(image, f"image {image['file_name']!r}"))
        self._problems += wrong
        if wrong:
            return
        self._document.write((", " if self._images else "") + _dump(image))
        video = {"video_id": image["video_id"]} if "video_id" in image else {}
        before = self._objects.total()
        for entry in objects:
            number = self._objects.total() + 1
            numbered = {"id": number, **video, "image_id": image["id"], **entry}
            wrong = list(annotation_problems(numbered, f"an object of {image['file_name']!r}"))
            self._problems += wrong
            if wrong:
                continue
            self._annotations.write((", " if number > 1 else "") + _dump(numbered))
            self._objects[entry["category_id"]] += 1
        self._images += 1
        self._training += image.get("is_vid_train_frame", True)
        self._empty += self._objects.total() == before

    def remark(self, what: str, count: int = 1) -> None:
        """Counts something that was left out or changed on purpose."""
        self._remarks[what] += count

    def problem(self, kind: str, sentence: str) -> None:
        """Records something that was left out because it is damaged or missing."""
        self._problems.append(Problem(kind, sentence))

    def written(self) -> Written:
        """Returns the counts so far."""
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
        self._document.write('], "annotations": [')
        self._annotations.seek(0)
        shutil.copyfileobj(self._annotations, self._document, 1 << 20)
        self._document.write("]}")


def object_entry(category: int, box: Sequence[float], track: int | None = None, **more: Any) -> dict[str, Any]:
    """Returns the entry of an object for `CocoVIDWriter.image`, rounded to thousandths of a pixel.

    Args:
        category: The id of its category.
        box: (x, y, width, height) px.
        track: Number of the instance within its video; None if it is not known.
        more: Further members of the entry.
    """
    instance = {} if track is None else {"instance_id": track}
    sides = [round(side, _DECIMALS) for side in box]
    area = round(sides[2] * sides[3], _DECIMALS)
    return {"category_id": category, **instance, "bbox": sides, "area": area, "iscrowd": False, **more}


@contextmanager
def writing_cocovid(
    path: Path,
    *,
    categories: Sequence[Mapping[str, Any]],
    videos: Sequence[Mapping[str, Any]] = (),
    strict: bool = False,
) -> Iterator[CocoVIDWriter]:
    """Yields the writer of a file that appears, or is replaced, when the block ends without an error.

    Problems are listed in a file beside it, see `problems_path`.

    Args:
        path: The `.json` file; its folder is made.
        categories: Their entries, each with id and name.
        videos: Their entries, each with id and name.
        strict: Problems are an error, and nothing is written but their list.

    Raises:
        ConfigError: The path does not end with .json.
        DataError: The file cannot be written, there is no class or no image, or there were problems and `strict` is
            set.
    """
    if path.suffix != ".json":
        raise ConfigError(f"a data set is written to a .json file, not to {path}")
    wrong = [problem.sentence for problem in header_problems(categories, videos)]
    if wrong:
        raise DataError(f"{path} was not written: {'; '.join(wrong[:_SHOWN_PROBLEMS])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error
    with (
        replacing(path, error=DataError) as partial,
        partial.open("w", encoding="utf-8") as document,
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent) as annotations,
    ):
        writer = CocoVIDWriter(path, document, annotations, categories, videos)
        yield writer
        writer.finish()
        written = writer.written()
        _write_problems(written)
        if (strict and written.problems) or not written.images:
            raise DataError(_refusal(written))


def problems_path(path: Path) -> Path:
    """Returns the file that lists the problems of a data set, one a line: `val.problems.txt` for `val.json`."""
    return path.with_suffix(".problems.txt")


def _write_problems(written: Written) -> None:
    path = problems_path(written.path)
    if written.problems:
        lines = "".join(f"{problem.sentence}\n" for problem in written.problems)
        write_text(path, lines.encode("utf-8", "backslashreplace").decode(), error=DataError)
    else:
        path.unlink(missing_ok=True)


def _refusal(written: Written) -> str:
    sentences = [problem.sentence for problem in written.problems]
    first = "; ".join(sentences[:_SHOWN_PROBLEMS])
    rest = f"; and {len(sentences) - _SHOWN_PROBLEMS} more" if len(sentences) > _SHOWN_PROBLEMS else ""
    where = f" ({problems_path(written.path)} lists them)" if sentences else ""
    reason = f"there are problems{where}" if written.images else f"there is no image to write{where}"
    return f"{written.path} was not written: {reason}{': ' if sentences else ''}{first}{rest}"
