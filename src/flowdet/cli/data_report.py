"""The output of `flowdet data`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from flowdet.cli import console
from flowdet.data.check import CheckReport
from flowdet.data.cocovid import Problem
from flowdet.data.cocovid_writer import Written, problems_path
from flowdet.data.summary import Spread, Summary
from flowdet.errors import counted

__all__ = ["print_report", "print_written"]

_SHOWN = 5


def print_written(written: Written, pictures: Path | None) -> None:
    """Prints the counts of a data set that was written, and what was left out.

    Args:
        written: The counts.
        pictures: The folder that its file names lie below, if not its own.
    """
    say = console.out.print
    what = [counted(written.videos, "video")] if written.videos else []
    what += [counted(written.images, "frame" if written.videos else "image")]
    what += [f"{written.training_images} of them for training"] if written.training_images != written.images else []
    what += [f"{written.empty_images} of them without objects", counted(written.objects, "object")]
    say(f"\n{written.path}: {', '.join(what)}")
    _print_classes({name: (str(count),) for name, count in written.objects_per_class.items() if count}, ("objects",))
    _print_others(written.objects_per_class)
    if pictures:
        say(f"its pictures lie below {pictures}")
    for remark, count in written.remarks.items():
        say(f"{remark}: {count}")
    for kind, sentences in _by_kind(written.problems).items():
        _print_sentences(f"left out: {len(sentences)} x {kind}", sentences, _SHOWN)
    if written.problems:
        say(f"all of them are listed in {problems_path(written.path)}")


def print_report(report: CheckReport, *, show_all: bool) -> None:
    """Prints the result of a check.

    Args:
        report: The result.
        show_all: Print every entry, not only the first of a kind.
    """
    shown = None if show_all else _SHOWN
    if report.summary:
        _print_summary(report.summary)
    for warning in report.warnings:
        _print_sentences(f"warning: {warning.what}", warning.where, shown)
    if report.summary and report.pictures is None:
        console.out.print("pictures were not looked for: name their folder with --images")
    elif report.pictures:
        console.out.print(f"pictures: those in {report.pictures} were compared")
    for kind, sentences in _by_kind(report.problems).items():
        _print_sentences(f"error: {len(sentences)} x {kind}", sentences, shown)
    errors, warnings = counted(len(report.problems), "error"), counted(len(report.warnings), "warning")
    console.out.print(f"\n{report.path}: {errors}, {warnings if report.summary else 'not looked at any further'}")


def _print_classes(rows: Mapping[str, Sequence[str]], columns: Sequence[str]) -> None:
    if not rows:
        return
    table = Table("class", box=None)
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console.out.print(table)


def _print_others(counts: Mapping[str, int]) -> None:
    """Counts the classes without an object, which have no row."""
    empty = sum(not count for count in counts.values())
    if empty:
        other = "other " if empty < len(counts) else ""
        console.out.print(f" {counted(empty, f'{other}class', f'{other}classes')}: none")


def _by_kind(problems: Sequence[Problem]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for problem in problems:
        found[problem.kind].append(problem.sentence)
    return found


def _print_sentences(title: str, sentences: Sequence[str], shown: int | None) -> None:
    console.out.print(title, style="yellow")
    for sentence in sentences[:shown]:
        console.out.print(f"  {sentence}")
    if shown is not None and len(sentences) > shown:
        console.out.print(f"  and {len(sentences) - shown} more")


def _print_summary(summary: Summary) -> None:
    say = console.out.print
    say(
        f"{counted(summary.videos, 'video')}, {counted(summary.frames, 'frame')}, {counted(summary.stills, 'still')}, "
        f"{counted(summary.objects, 'object')}, {counted(summary.tracks, 'track')}\n"
    )
    columns = {
        name: (str(count), _share(count, summary.objects), str(summary.images_per_class[name]))
        for name, count in summary.objects_per_class.items()
        if count
    }
    _print_classes(columns, ("objects", "share", "images"))
    _print_others(summary.objects_per_class)
    say("")
    for name, text in _statistics(summary):
        say(f"{name:24} {text}")
    say("")


def _statistics(summary: Summary) -> Iterable[tuple[str, str]]:
    images = summary.frames + summary.stills
    yield "for training", f"{summary.training_images} of {images} images"
    yield "without objects", f"{summary.empty_images} ({_share(summary.empty_images, images)})"
    yield "objects an image", _distribution(summary.images_by_objects, images)
    if summary.crowds:
        yield "crowds", str(summary.crowds)
    if summary.video_length:
        yield "frames a video", _spread(summary.video_length, ".0f")
    if summary.box_size:
        yield "box size", f"{_spread(summary.box_size, '.2f')} (square root of the share of the image)"
    speeds = summary.speeds
    if speeds:
        yield (
            "speed",
            f"slow {speeds.slow:.1%}, medium {speeds.medium:.1%}, fast {speeds.fast:.1%}, median motion IoU "
            f"{speeds.median:.2f} ({counted(speeds.objects, 'object')} with track numbers)",
        )


def _distribution(counts: Sequence[int], images: int) -> str:
    named: Mapping[str, int] = {str(number): count for number, count in enumerate(counts[:4])}
    several = {"4 or more": sum(counts[4:])} if len(counts) > 4 else {}
    shares = ", ".join(f"{name}: {_share(count, images)}" for name, count in {**named, **several}.items())
    return f"{shares}; at most {len(counts) - 1}"


def _spread(spread: Spread, form: str) -> str:
    return (
        f"{spread.percentile_10:{form}} / {spread.median:{form}} / {spread.percentile_90:{form}} at the 10th, 50th and "
        f"90th percentile, {spread.smallest:{form}} to {spread.largest:{form}}"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
