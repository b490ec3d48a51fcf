"""The command ends with the codes that docs/commands.md lists."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from flowdet import cli
from flowdet.errors import FlowdetError
from tests.command import exit_code
from tests.pages import ROOT

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def _raise(error: BaseException) -> Callable[..., None]:
    def command(*arguments: object, **options: object) -> None:
        raise error

    return command


def _signal(number: int) -> Callable[..., None]:
    def command(*arguments: object, **options: object) -> None:
        signal.raise_signal(number)

    return command


ARGUMENTS = {0: ["--version"], 1: ["detect"], 2: ["detect", "clip.mp4", "--scroe", "1"]}
ENDINGS = {
    129: _signal(getattr(signal, "SIGHUP", 1)),
    130: _signal(signal.SIGINT),
    141: _raise(BrokenPipeError()),
    143: _signal(signal.SIGTERM),
}


@pytest.mark.parametrize("code", ARGUMENTS)
def test_the_code_says_whether_it_was_done(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*ARGUMENTS[code]) == code
    assert "Traceback" not in capsys.readouterr().err


@POSIX
@pytest.mark.parametrize("code", ENDINGS)
def test_the_code_says_what_ended_it(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", ENDINGS[code])
    assert exit_code() == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [FlowdetError("x"), MemoryError(), OSError(28, "no space", "f"), ImportError("x")])
def test_what_cannot_be_done_ends_with_1(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", _raise(error))
    assert exit_code() == 1


def test_the_page_lists_these_codes() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == [*ARGUMENTS, *ENDINGS]


@POSIX
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_a_reader_that_has_gone_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "flowdet", *arguments]
    with open(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 141
    assert not done.stderr
