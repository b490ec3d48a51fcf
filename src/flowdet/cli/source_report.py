"""How a command that works on many sources tells what happens to them."""

import json
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flowdet.cli import console
from flowdet.errors import FlowdetError, counted
from flowdet.work.detection import Detected, SourceJob
from flowdet.work.jobs import Advanced, Event, Failed, Finished
from flowdet.work.manifest import Manifest
from flowdet.work.segments import Segment

__all__ = ["SourceReport"]

_JSON_SECONDS = 1.0


class SourceReport:
    """Prints a line for each source, or JSON lines; shows one bar over all; keeps the manifest. Use it with `with`.

    Args:
        total: The number of sources.
        manifest: Where the state of every source is kept; None for one process, which also shows a bar of its own for
            each source and complains at once, not at the end.
        as_json: Print JSON lines and no bar.
    """

    def __init__(self, total: int, manifest: Manifest | None, *, as_json: bool) -> None:
        self._total = total
        self._manifest = manifest
        self._as_json = as_json
        self._counts = {"done": 0, "skipped": 0, "failed": 0}
        self._frames = 0
        self._failures: list[FlowdetError] = []
        self._began = self._told = time.monotonic()
        self._shown = ExitStack()
        self._bar: tuple[Progress, TaskID] | None = None

    @property
    def failures(self) -> int:
        """The number of sources that failed so far."""
        return self._counts["failed"]

    def __enter__(self) -> Self:
        if self._manifest and not self._as_json:
            columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeRemainingColumn())
            bar = self._shown.enter_context(console.progress(*columns))
            self._bar = bar, bar.add_task("", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()
        if self._as_json:
            self._tell_progress("end")
        if self._failures:
            console.complain(f"{len(self._failures)} of {counted(self._total, 'source')} failed:")
            for failure in self._failures:
                console.complain(failure)

    def tell(self, event: Event[SourceJob, Detected]) -> None:
        """Takes what an engine tells."""
        match event:
            case Advanced(frames):
                self._frames += frames
                self._move()
            case Finished(job, done):
                self._finished(job, done)
            case Failed(job, error):
                label = job.described.label
                self.failed(job.name, error if label in str(error) else FlowdetError(f"{label}: {error}"))

    def tell_segment(self, event: Event[Segment, None]) -> None:
        """Takes what an engine tells of segments; one that failed is told when its source is done as a whole."""
        if isinstance(event, Advanced):
            self.tell(event)

    def skipped(self, job: SourceJob, frames: int) -> None:
        """Takes a source that was finished before, with so many frames."""
        about = {"results": job.results.name, "frames": frames}
        if self._manifest:
            self._manifest.add(job.name, "done", **about)
        self._count("skipped", job.name, about)
        if not self._as_json:
            console.out.print(f"{job.name}: finished before, skipped ({job.results})")

    def failed(self, source: str, error: FlowdetError) -> None:
        """Takes a source that cannot be done."""
        if self._manifest:
            self._manifest.add(source, "failed", reason=str(error))
            self._failures.append(error)
        else:
            console.complain(error)
        self._count("failed", source, {"reason": str(error)})

    def _finished(self, job: SourceJob, done: Detected) -> None:
        about = {
            "results": job.results.name,
            "frames": done.frames,
            "detections": done.detections,
            "seconds": round(done.seconds, 3),
            "problems": list(done.problems),
        }
        if self._manifest:
            self._manifest.add(job.name, "done", **about)
        self._count("done", job.name, about)
        if self._as_json:
            return
        label = job.described.label
        for problem in done.problems:
            console.err.print(f"{label}: {problem}", style="yellow")
        files = " and ".join(str(path) for path in (job.video, job.results) if path)
        rate = done.frames / max(done.seconds, 1e-6)
        found = f"{counted(done.detections, 'detection')} in {counted(done.frames, 'frame')}"
        console.out.print(f"{label}: {found}, {rate:.1f} frames/s, in {files}")

    def _count(self, state: str, source: str, about: dict[str, Any]) -> None:
        self._counts[state] += 1
        if self._as_json:
            self._print({"event": "source", "source": source, "state": state, **about})
        self._move()

    def _move(self) -> None:
        if self._as_json and time.monotonic() - self._told >= _JSON_SECONDS:
            self._tell_progress("progress")
        if self._bar:
            bar, task = self._bar
            over = sum(self._counts.values())
            frames = counted(self._frames, "frame")
            state = f"{over} of {counted(self._total, 'source')}, {frames}, {self._rate:.1f} frames/s"
            bar.update(task, completed=over, description=state)

    @property
    def _rate(self) -> float:
        return self._frames / max(time.monotonic() - self._began, 1e-6)

    def _tell_progress(self, event: str) -> None:
        self._told = time.monotonic()
        worked = self._counts["done"] + self._counts["failed"]
        left = self._total - sum(self._counts.values())
        self._print(
            {
                "event": event,
                "sources": self._total,
                **self._counts,
                "frames": self._frames,
                "frames_per_second": round(self._rate, 2),
                "seconds_left": round((self._told - self._began) / worked * left, 1) if worked else None,
            }
        )

    @staticmethod
    def _print(record: dict[str, Any]) -> None:
        console.out.print(json.dumps(record))
