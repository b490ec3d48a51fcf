"""Sources as the command line names them."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowdet.data.reading import read_text
from flowdet.errors import ConfigError, FlowdetError, VideoError
from flowdet.files import IMAGE_SUFFIXES
from flowdet.video.description import VIDEO_SUFFIXES, SourceDescription, describe_source
from flowdet.video.parquet import need_parquet
from flowdet.video.pictures import page_count
from flowdet.video.remote import is_remote, remote_matches

__all__ = ["Names", "each_once", "expanded", "is_still", "listed", "make_folder", "output_name", "sources_in"]

Names = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]


def listed(names: Names) -> list[str]:
    """Returns what was named by repeating an option or with commas, each once."""
    return sorted({name.strip() for part in names for name in part.split(",")} - {""})


def expanded(sources: Sequence[str]) -> Iterator[str]:
    """Yields the sources; each video of a folder or a pattern is one of its own, its pictures are one together."""
    for source in sources:
        if is_remote(source) and "*" in source:
            yield from _matches(source)
            continue
        files = _files(source)
        pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        videos = [str(file) for file in files if file not in pictures]
        yield from videos
        if pictures or not videos:
            yield source


def each_once(sources: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the sources without repetitions, in order, and those that were named again.

    Two paths of one place are one source, such as "clip.mp4" and "./clip.mp4".
    """
    seen: set[str] = set()
    kept: list[str] = []
    again: list[str] = []
    for source in sources:
        key = source if "://" in source else os.path.abspath(os.path.expanduser(source))
        (again if key in seen else kept).append(source)
        seen.add(key)
    return kept, again


def sources_in(file: Path) -> list[str]:
    """Returns the sources that a file lists: a line each in a text, or those of a column in a .csv or .parquet file.

    The column is "source". In a text, blank lines and those that begin with # are left out.

    Raises:
        DataError: The text cannot be read.
        ConfigError: The table cannot be read, or has no such column.
    """
    if file.suffix.lower() == ".parquet":
        return _in_parquet(file)
    lines = read_text(file).splitlines()
    if file.suffix.lower() == ".csv":
        rows = csv.DictReader(lines)
        column = _source_column(rows.fieldnames or (), file)
        return [row[column] for row in rows if row[column]]
    texts = map(str.strip, lines)
    return [text for text in texts if text and not text.startswith("#")]


def _in_parquet(file: Path) -> list[str]:
    need_parquet()
    from pyarrow import ArrowException, parquet  # noqa: PLC0415  (an extra)

    try:
        column = _source_column(parquet.read_schema(file).names, file)
        return [str(source) for source in parquet.read_table(file, columns=[column])[column].to_pylist() if source]
    except (OSError, ArrowException) as error:
        raise ConfigError(f"--list: {file} cannot be read: {error}") from error


def _source_column(names: Sequence[str], file: Path) -> str:
    if "source" in names:
        return "source"
    found = ", ".join(names) or "none"
    raise ConfigError(f"--list: {file} has no column named source; its columns are: {found}")


def output_name(described: SourceDescription, source: str) -> str:
    """Returns the name of a source's results; a pattern has another one than its folder."""
    if not described.pattern:
        return described.name
    words = re.sub(r"\W+", "-", Path(source).name).strip("-") or "all"
    return f"{described.name}-{words}"


def is_still(path: Path) -> bool:
    """Whether a file is a picture of one page; a damaged one counts, too."""
    if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
        return False
    try:
        return page_count(path) == 1
    except VideoError:
        return True


def _matches(source: str) -> list[str]:
    try:
        return remote_matches(source) or [source]
    except FlowdetError:  # told when its turn comes
        return [source]


def _files(source: str) -> list[Path]:
    """What a pattern matches, or the pictures and videos in a folder."""
    try:
        described = describe_source(source)
        if described.pattern:
            return sorted(map(Path, glob(str(Path(source).expanduser()), recursive=True)))
        if described.path and described.path.is_dir():
            files = sorted(file for file in Path(source).expanduser().iterdir() if not file.name.startswith("."))
            return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and file.is_file()]
    except (FlowdetError, OSError):  # told when its turn comes
        pass
    return []


def make_folder(folder: Path) -> None:
    """Makes the folder of the results.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}; name another with --out") from error
