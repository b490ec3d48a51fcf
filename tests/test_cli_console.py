import io

import pytest
from rich.console import Console

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
