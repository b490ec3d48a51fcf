"""Work without a detector, for the engines: jobs are a text and a file."""

import os
import signal
import time
from pathlib import Path

import torch

from flowdet.errors import DataError
from flowdet.work.jobs import Advance, Advanced, Do, Event, Failed, Finished

__all__ = ["Heard", "Job", "Result", "cannot_start", "dies_at_start", "make"]

Job = tuple[str, Path]
Result = tuple[int, int, str]


def make(number: int) -> Do[Job, Result]:
    """A worker that reads the letters of a job as frames; the result is its number, its threads and the text.

    "w" waits until it is stopped, "k" kills the worker, "o" kills it once, "!" is an error of the job, "m" is too
    large, "?" is an error of the program.
    """

    def do(job: Job, advance: Advance) -> Result:
        text, path = job
        with path.open("w") as file:
            try:
                for letter in text:
                    act(letter, path, advance)
                    advance(1)
            finally:
                file.write("closed")
        return number, torch.get_num_threads(), text

    return do


def act(letter: str, path: Path, advance: Advance) -> None:
    killed = path.with_suffix(".killed")
    if letter == "k" or (letter == "o" and not killed.exists()):
        killed.touch()
        time.sleep(0.2)  # what was told before is heard
        os.kill(os.getpid(), signal.SIGKILL)
    if letter == "w":
        for _ in range(600):
            time.sleep(0.1)
            advance(0)
    if letter == "!":
        raise DataError(f"{path.name} is wrong")
    if letter == "m":
        raise torch.OutOfMemoryError("Tried to allocate 2 GiB")
    if letter == "?":
        raise ZeroDivisionError("one by nothing")


def cannot_start(number: int) -> Do[Job, Result]:
    raise DataError(f"worker {number} has no weights")


def dies_at_start(number: int) -> Do[Job, Result]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Heard:
    """What an engine told."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.errors: dict[str, str] = {}
        self.frames = 0

    def __call__(self, event: Event[Job, Result]) -> None:
        match event:
            case Advanced(frames):
                self.frames += frames
            case Finished(job, result):
                assert result[2] == job[0]
                self.results.append(result)
            case Failed((text, _), error):
                self.errors[text] = str(error)

    @property
    def texts(self) -> list[str]:
        return sorted(text for _, _, text in self.results)
