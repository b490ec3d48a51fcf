"""What the command line is told of sources, and what it shows while it goes through one."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from flowdet.cli import console
from flowdet.errors import ConfigError, VideoError
from flowdet.files import IMAGE_SUFFIXES
from flowdet.video.reader import Video, describe_source

__all__ = ["Names", "expanded", "frame_bar", "listed", "make_folder"]

Names = Annotated[tuple[str, ...], Parameter(negative=())]


def listed(names: Names) -> list[str]:
    """What was named by repeating an option or with commas, each once."""
    return sorted({name.strip() for part in names for name in part.split(",")} - {""})


def expanded(sources: Sequence[str]) -> Iterator[str]:
    """The sources, with each video that a pattern matches as a source of its own."""
    for source in sources:
        matches: list[str] = []
        with suppress(VideoError):  # told when its turn comes
            if describe_source(source).pattern:
                matches = sorted(glob(source, recursive=True))
        videos = [match for match in matches if Path(match).suffix.lower() not in IMAGE_SUFFIXES]
        yield from videos or [source]


def make_folder(folder: Path) -> None:
    """Makes the folder of the results.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}; name another with --out") from error


@contextmanager
def frame_bar(video: Video) -> Iterator[Callable[[int], None]]:
    """A bar with frames, frames a second and time left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} frames/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with console.progress(*columns) as bar:
        task = bar.add_task(video.name, total=video.frame_count, rate=0.0)
        yield lambda done: bar.update(task, completed=done, rate=done / max(time.monotonic() - began, 1e-6))
