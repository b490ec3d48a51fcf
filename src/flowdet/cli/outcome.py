"""What `flowdet evaluate` shows and writes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from flowdet.cli import console
from flowdet.data.cocovid import CocoVID
from flowdet.errors import ConfigError, DataError
from flowdet.evaluation.pictures import save_mistakes
from flowdet.evaluation.plots import check_plotting, save_curves, save_summary
from flowdet.evaluation.report import Evaluation, headline_rows, to_markdown, write_json, write_text
from flowdet.metrics.curves import precision_recall
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.mistakes import worst_frames

__all__ = ["Move", "bar", "check_outputs", "parse_size", "show", "status", "write_folder"]


class Move(Protocol):
    """Moves a progress bar."""

    def __call__(self, *, advance: float | None = None, completed: float | None = None) -> None:
        """By so much, or to there."""
        ...


@contextmanager
def bar(name: str, total: int | None, unit: str) -> Iterator[Move]:
    """A bar with the share that is done and the time left; gone when it is done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(f"of {total} {unit}" if total else "", markup=False),
        TimeRemainingColumn(),
    )
    with console.progress(*columns) as progress:
        task = progress.add_task(name, total=total)

        def move(*, advance: float | None = None, completed: float | None = None) -> None:
            progress.update(task, advance=advance, completed=completed)

        yield move


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line that says which step is under way; gone when it is done."""
    if not console.err.is_terminal:
        yield lambda step: None
        return
    with console.err.status("") as line:
        yield line.update


def parse_size(text: str | None) -> tuple[int, int] | None:
    """The (height, width) that an option such as 600x1000 names.

    Raises:
        ConfigError: It names none.
    """
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)[xX](\d+)", text)):
        raise ConfigError(f"a size is height x width in pixels, such as 600x1000, not {text!r}")
    return int(match[1]), int(match[2])


def check_outputs(folder: Path | None, json: Path | None) -> None:
    """Finds out before the work whether its outcome can be written.

    Raises:
        ConfigError: It cannot.
    """
    for place in (folder, json.parent if json else None):
        if place:
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"the folder {place} cannot be made: {error.strerror}") from error
    if json and json.is_dir():
        raise ConfigError(f"--json is a file to write, and {json} is a folder")


def show(evaluation: Evaluation) -> None:
    """Prints the figures to quote, each with its protocol."""
    titles, rows = headline_rows(evaluation.judgement)
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    counts = evaluation.counts
    console.out.print(
        f"{evaluation.title}: {counts.videos} videos, {counts.frames} frames, {counts.boxes} boxes, "
        f"{counts.detections} detections"
    )
    for row in (titles, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.out.print("  ".join(cells).rstrip())
    for note in evaluation.notes:
        console.err.print(note, style="yellow")


def write_folder(
    folder: Path, data: CocoVID, detections: DetectionTable, evaluation: Evaluation, *, images: Path, pictures: int
) -> None:
    """Writes the report, the figures, the plots and the pictures; says what cannot be drawn and why.

    Raises:
        ConfigError: A file cannot be written.
    """
    write_json(folder / "evaluation.json", evaluation)
    write_text(folder / "report.md", to_markdown(evaluation))
    try:
        check_plotting()
    except ConfigError as error:
        console.err.print(f"no precision-recall curves: {error}", style="yellow")
    else:
        curves = precision_recall(data, detections)
        save_curves(curves, folder / "precision_recall.png")
        save_summary(curves, folder / "precision_recall_summary.png")
    if pictures:
        _draw(folder / "worst", data, detections, images, pictures)
    console.out.print(f"report.md, and what belongs to it, is in {folder}")


def _draw(folder: Path, data: CocoVID, detections: DetectionTable, images: Path, pictures: int) -> None:
    worst = worst_frames(data, detections, pictures)
    try:
        save_mistakes(data, detections, worst, images, folder)
    except DataError as error:
        console.err.print(f"no pictures of the worst frames: {error}; name the folder with --images", style="yellow")
