"""The way of a frame is short: how many of our files it passes in the steady state, from `detect` to its boxes."""

import sys
import threading
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import flowdet
from flowdet.benchmark.clip import moving_images
from tests.tiny import frames_of

_ROOT = str(Path(flowdet.__file__).parent)
_MOST_FILES = 14


@dataclass
class Way:
    """What of our code has run.

    Attributes:
        files: Paths in the package.
        functions: File and name of each.
        lines: File and number of each.
    """

    files: set[str] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    lines: set[tuple[str, int]] = field(default_factory=set)

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """As `sys.settrace` wants it."""
        file = frame.f_code.co_filename
        if not file.startswith(_ROOT):
            return None
        if event == "call":
            self.files.add(file.removeprefix(_ROOT))
            self.functions.add((file, frame.f_code.co_qualname))
        elif event == "line":
            self.lines.add((file, frame.f_lineno))
        return self.trace


def way_of(system: flowdet.VideoDetector, before: int) -> Way:
    """The way of one frame after n others."""
    way, found = Way(), system.detect(frames_of(moving_images((64, 96), before + 6)))
    for _ in islice(found, before):
        pass
    sys.settrace(way.trace)
    threading.settrace(way.trace)
    try:
        next(found)
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return way


@pytest.mark.parametrize("name", ["fgfa-lite", "dff-lite", "single-lite"])
def test_the_way_of_a_frame_passes_few_files(name: str, record_property: Any) -> None:
    way = way_of(flowdet.load(name, backend="optimised"), before=11)
    record_property("way", f"{len(way.files)} files, {len(way.lines)} lines, {len(way.functions)} functions")
    assert "/systems/detector.py" in way.files
    assert "/systems/stream.py" in way.files
    assert len(way.files) <= _MOST_FILES, sorted(way.files)
