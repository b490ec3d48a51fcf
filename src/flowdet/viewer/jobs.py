"""Jobs of the server: one clip after the other through the detector, in a thread, each in a folder of its own."""

import logging
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Final, Literal

from flowdet.errors import FlowdetError
from flowdet.files import write_text
from flowdet.ops.devices import memory_shortage
from flowdet.systems.detector import VideoDetector
from flowdet.video.reader import open_video
from flowdet.viewer.clips import read_clips
from flowdet.viewer.page import converted, page_of, unplayable, video_media
from flowdet.work.annotate import Shown, annotate

__all__ = ["BusyError", "Job", "Jobs", "Work", "detecting"]

_KEPT: Final = 8
State = Literal["uploading", "waiting", "running", "done", "failed", "cancelled"]


class BusyError(Exception):
    """As many clips wait as may."""


class _CancelledError(Exception):
    """The job is wanted no more."""


@dataclass(eq=False)
class Job:
    """One clip.

    Attributes:
        id: Made here, so that it can be part of a path.
        name: What the page calls the clip.
        folder: Everything that the job writes is in it.
        source: The clip.
        state: How far it is.
        done: The number of frames detected.
        total: The number of frames; None where the clip does not tell.
        message: Why it failed.
        shown: The video that the page plays.
    """

    id: str
    name: str
    folder: Path
    source: Path
    state: State = "waiting"
    done: int = 0
    total: int | None = None
    message: str = ""
    shown: Path | None = None
    is_cancelled: bool = False

    @property
    def page(self) -> Path:
        """The page, once the job is done."""
        return self.folder / "page.html"


Work = Callable[[Job, Callable[[int], None]], None]
"""Does a job, calling the second argument with the number of frames done."""


class Jobs:
    """A queue of bounded length and the thread that works on it; close it at the end.

    Args:
        folder: The folders of the jobs are made in it.
        work: Does one job.
        most: The largest number of jobs that wait or are uploaded.
    """

    def __init__(self, folder: Path, work: Work, most: int) -> None:
        self._folder, self._work, self._most = folder, work, most
        self._jobs: dict[str, Job] = {}
        self._waiting: Queue[Job | None] = Queue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="flowdet-jobs", daemon=True)
        self._thread.start()

    def reserve(self, name: str, source: Path | None = None) -> Job:
        """Returns a new job that holds a place in the queue; `start` or `drop` it.

        Args:
            name: What the page calls the clip.
            source: The clip; None: it will be uploaded into the job's folder.

        Raises:
            BusyError: There is no place.
        """
        with self._lock:
            if sum(job.state in ("uploading", "waiting") for job in self._jobs.values()) >= self._most:
                raise BusyError
            number = secrets.token_hex(16)
            folder = self._folder / number
            folder.mkdir()
            job = Job(number, name, folder, source or folder / "clip", "uploading")
            self._jobs[number] = job
            ended = [one for one in self._jobs.values() if one.state in ("done", "failed", "cancelled")]
        for old in ended[:-_KEPT]:
            self.drop(old)
        return job

    def start(self, job: Job) -> None:
        """Puts a job into the queue."""
        job.state = "waiting"
        self._waiting.put(job)

    def get(self, number: str) -> Job | None:
        """Returns the job of this id."""
        return self._jobs.get(number)

    def drop(self, job: Job) -> None:
        """Forgets a job and removes its folder; one that runs ends first."""
        job.is_cancelled = True
        with self._lock:
            self._jobs.pop(job.id, None)
        if job.state != "running":
            shutil.rmtree(job.folder, ignore_errors=True)

    def close(self) -> None:
        """Ends the thread and removes all folders."""
        for job in list(self._jobs.values()):
            self.drop(job)
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while job := self._waiting.get():
            if not job.is_cancelled:
                self._do(job)
            if job.is_cancelled:
                job.state = "cancelled"
                shutil.rmtree(job.folder, ignore_errors=True)

    def _do(self, job: Job) -> None:
        def progress(frames: int) -> None:
            job.done = frames
            if job.is_cancelled:
                raise _CancelledError

        job.state = "running"
        try:
            self._work(job, progress)
            job.state = "done"
        except _CancelledError:
            job.state = "cancelled"
        except FlowdetError as error:
            job.message = str(error).replace(str(job.source), job.name).replace(str(job.folder), "")
            job.state = "failed"
        except Exception as error:  # one clip must not end the server
            logging.getLogger("flowdet").exception("a job failed")
            job.message = memory_shortage(error) or f"an error that flowdet did not expect: {type(error).__name__}"
            job.state = "failed"


def detecting(detector: VideoDetector, shown: Shown) -> Work:
    """Returns the work of a job: detect, and write the page.

    Args:
        detector: Finds the objects.
        shown: Which detections the page shows.
    """

    def work(job: Job, progress: Callable[[int], None]) -> None:
        results = job.folder / f"{job.name}.json"
        settings = {"system": detector.config.name, "backend": detector.backend, "score": shown.score}
        with open_video(job.source) as video:
            job.total = video.frame_count
            annotate(
                detector, video, results=results, video_path=None, settings=settings, shown=shown, progress=progress
            )
        job.shown = converted(job.source, job.folder) if unplayable(job.source) else job.source
        (clip,) = read_clips([results], score=0)
        clip.name = job.name
        del clip.layers[0].settings["result"]
        media = {**video_media(job.shown, job.name), "sources": ["video"]}
        write_text(job.page, page_of([clip], [media], home="/"))

    return work
