import io

import pytest
from rich.console import Console
from rich.table import Table

from flowdet.cli import console
from flowdet.cli.console import progress_bar, status


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 100 columns gets on standard error."""
    written = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, force_terminal=True, width=100))
    return written


def test_a_bar_says_what_is_done_of_what_and_the_rate(screen: io.StringIO) -> None:
    with progress_bar("clip", 10, "frames") as move:
        move(3)
    assert "3 of 10 frames, " in screen.getvalue()
    assert " frames/s" in screen.getvalue()


def test_amounts_of_bytes_and_a_total_that_becomes_known(screen: io.StringIO) -> None:
    with progress_bar("weights", None, "bytes") as move:
        move(1_500_000)
        move(2_000_000, 4_000_000)
    assert "2.0 MB of 4.0 MB, " in screen.getvalue()


def test_names_are_no_markup(screen: io.StringIO) -> None:
    with progress_bar("[red]clip", 2, "frames") as move:
        move(1)
    assert "[red]clip" in screen.getvalue()


def test_nothing_is_shown_where_nobody_watches(monkeypatch: pytest.MonkeyPatch, screen: io.StringIO) -> None:
    with progress_bar("clip", 10, "frames", is_shown=False) as move:
        move(3)
    file = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=file))
    with progress_bar("clip", 10, "frames") as move, status() as tell:
        move(3)
        tell("step")
    assert screen.getvalue() == ""
    assert file.getvalue().strip() == ""


def test_a_status_says_the_step(screen: io.StringIO) -> None:
    with status() as tell:
        tell("comparing")
    assert screen.getvalue()


ODD = ":dog: [red]x[/red]"


@pytest.mark.parametrize("name", ["out", "err"])
def test_what_users_name_is_printed_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    printer = getattr(console, name)
    monkeypatch.setattr(printer, "_file", written)  # `file` would stay set: it is never the standard stream itself
    table = Table(ODD, box=None)
    table.add_row(ODD)
    printer.print(ODD, style="yellow")
    printer.print(table)
    assert written.getvalue().count(ODD) == 3


def test_steps_and_bars_print_names_as_they_are(screen: io.StringIO) -> None:
    with status() as tell:
        tell(ODD)
        console.err.print("")  # draws the line again
    with progress_bar(ODD, 2, "frames") as move:
        move(1)
    assert screen.getvalue().count(ODD) >= 2
    assert "\N{DOG}" not in screen.getvalue()
