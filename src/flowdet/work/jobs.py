"""Jobs and those who do them: what every engine drives, whether on this machine or on many."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from flowdet.errors import FlowdetError

__all__ = [
    "TRIES",
    "Advance",
    "Advanced",
    "Do",
    "Event",
    "Failed",
    "Finished",
    "Make",
    "Tries",
    "Try",
    "guarded",
    "hear",
    "results",
]

Job = TypeVar("Job")
Result = TypeVar("Result")

TRIES = 2
"""How often a job is begun whose worker dies."""

Advance: TypeAlias = Callable[[int], None]
"""Is called during a job with the number of frames done since the last call."""

Do: TypeAlias = Callable[[Job, Advance], Result]
"""Does a job. What it raises as `FlowdetError` is the failure of this job alone."""

Make: TypeAlias = Callable[[int], Do[Job, Result]]
"""Is called once in each worker with its number from 0, loads what all jobs need, and returns what does a job."""


@dataclass(frozen=True)
class Advanced:
    """Frames were done; a negative number takes back those of a worker that died."""

    frames: int


@dataclass(frozen=True)
class Finished(Generic[Job, Result]):
    """A job is done."""

    job: Job
    result: Result


@dataclass(frozen=True)
class Failed(Generic[Job]):
    """A job cannot be done, or each of its workers died."""

    job: Job
    error: FlowdetError


Event: TypeAlias = Advanced | Finished[Job, Result] | Failed[Job]


def hear(events: Generator[Event[Job, Result], None, None], tell: Callable[[Event[Job, Result]], None]) -> None:
    """Lets an engine do its jobs and tells of every event; what `tell` raises ends the work."""
    with closing(events):
        for event in events:
            tell(event)


def results(events: Generator[Event[Job, Result], None, None]) -> Generator[Result, None, None]:
    """Yields the results of jobs, none of which may fail.

    Raises:
        FlowdetError: One does; the work ends.
    """
    with closing(events):
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                yield event.result


def guarded(call: Callable[[], Result]) -> Result | FlowdetError:
    """Returns what a call returns, or the error that a user can mend."""
    try:
        return call()
    except FlowdetError as error:
        return error
    except (MemoryError, RuntimeError) as error:
        from flowdet.ops.devices import memory_shortage  # noqa: PLC0415  (loads torch, which not all jobs use)

        if (shortage := memory_shortage(error)) is None:
            raise
        return FlowdetError(f"{shortage}; take fewer processes, smaller inputs or a smaller system")


@dataclass(frozen=True)
class Try(Generic[Job]):
    """A job, and how many of its workers have died."""

    job: Job
    deaths: int = 0


class Tries(Generic[Job]):
    """The jobs that wait, and the deaths of workers, which are counted so that nothing is tried for ever.

    Args:
        jobs: The jobs, in the order in which they begin; taken one by one.
        workers: The largest number of workers.
    """

    def __init__(self, jobs: Iterable[Job], workers: int) -> None:
        self._fresh = (Try(job) for job in jobs)
        self._again: deque[Try[Job]] = deque()
        self._starts_left = self._most_starts = TRIES * workers

    def take(self) -> Try[Job] | None:
        """Returns the next job to begin; None: none waits now. A job whose worker died comes after the others."""
        return next(self._fresh, None) or (self._again.popleft() if self._again else None)

    def loaded(self) -> None:
        """A worker has loaded what it needs."""
        self._starts_left = self._most_starts

    def died(self, trying: Try[Job], reason: str, *, is_loaded: bool) -> Failed[Job] | None:
        """A worker died; returns the failure of its job if it was tried often enough.

        Args:
            trying: What it had been given to do.
            reason: How it died: "ended with exit code 1", for instance.
            is_loaded: Whether it had begun; else the job had no part in it.

        Raises:
            FlowdetError: Too many workers died before they could begin.
        """
        if not is_loaded:
            self._starts_left -= 1
            if self._starts_left == 0:
                raise FlowdetError(
                    f"a worker {reason} while it loaded, as others did before; perhaps there is too little memory: "
                    "take fewer workers"
                )
            self._again.append(trying)
        elif trying.deaths + 1 < TRIES:
            self._again.append(Try(trying.job, trying.deaths + 1))
        else:
            return Failed(trying.job, FlowdetError(f"its worker {reason}, in each of {TRIES} tries"))
        return None
