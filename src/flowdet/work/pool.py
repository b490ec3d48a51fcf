"""Jobs shared by processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flowdet.errors import FlowdetError
from flowdet.work.jobs import Advanced, Event, Failed, Finished, Make, Tries, Try, guarded

if TYPE_CHECKING:
    import torch

__all__ = ["device_of", "spread"]

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass
class _Worker(Generic[Job]):
    """A process, and what it is doing.

    Attributes:
        number: Its number, from 0; the one that follows a dead one takes over its number.
        process: The process.
        trying: What it has been given to do.
        frames: How far it is.
        is_loaded: Whether it has begun.
    """

    number: int
    process: BaseProcess
    trying: Try[Job]
    frames: int = 0
    is_loaded: bool = False


@dataclass(frozen=True)
class _Loaded:
    """A message of a worker: it can begin; or why it cannot."""

    error: FlowdetError | None = None


@dataclass(frozen=True)
class _Outcome(Generic[Result]):
    """A message of a worker: what came of its job."""

    value: Result | FlowdetError


def spread(
    jobs: Iterable[Job],
    make: Make[Job, Result],
    *,
    processes: int,
    threads: int | None = 1,
) -> Generator[Event[Job, Result], None, None]:
    """Does jobs in spawned processes and yields what happens.

    However this ends, by Ctrl-C too, the processes close their files before they end; they also end with this process.
    A process that dies is replaced, and its job tried again, see `TRIES`.

    Args:
        jobs: The jobs, in the order in which they begin; taken one by one.
        make: What a worker loads; like the jobs and the results it must be picklable.
        processes: The largest number of processes.
        threads: Threads of torch in each process; None for jobs that do without torch.

    Raises:
        FlowdetError: `make` raised it, or the processes die before they can begin.
    """
    yield from _Pool(jobs, make, processes, threads).run()


class _Pool(Generic[Job, Result]):
    """Gives jobs to processes, one to each, and hears of them."""

    def __init__(
        self,
        jobs: Iterable[Job],
        make: Make[Job, Result],
        processes: int,
        threads: int | None,
    ) -> None:
        self._tries = Tries(jobs, processes)
        self._make = make
        self._processes = processes
        self._threads = threads
        self._workers: dict[Connection, _Worker[Job]] = {}

    def run(self) -> Generator[Event[Job, Result], None, None]:
        """Does the jobs."""
        try:
            for number in range(self._processes):
                if first := self._tries.take():
                    self._start(number, first)
            while self._workers:
                for connection in wait(list(self._workers)):
                    assert isinstance(connection, Connection)
                    yield from self._hear(connection, self._workers[connection])
        finally:
            for worker in self._workers.values():
                worker.process.terminate()
            for worker in self._workers.values():
                worker.process.join()

    def _start(self, number: int, trying: Try[Job]) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._make, number, self._threads))
        with _interrupts_ignored():
            process.start()
            self._workers[ours] = _Worker(number, process, trying)
        theirs.close()
        with suppress(ConnectionError):  # a dead one is met when it should answer
            ours.send(trying.job)

    def _hear(self, connection: Connection, worker: _Worker[Job]) -> Iterator[Event[Job, Result]]:
        """Takes a message of a worker, and gives it what comes next."""
        match _received(connection):
            case _Loaded(error):
                if error:
                    raise error
                worker.is_loaded = True
                self._tries.loaded()
            case Advanced(frames) as advanced:
                worker.frames += frames
                yield advanced
            case _Outcome(value):
                job = worker.trying.job
                yield Failed(job, value) if isinstance(value, FlowdetError) else Finished(job, value)
                following = self._tries.take()
                with suppress(ConnectionError):
                    connection.send(following.job if following else None)
                if following:
                    worker.trying, worker.frames = following, 0
                else:
                    self._workers.pop(connection).process.join()
            case _:
                yield from self._bury(connection, worker)

    def _bury(self, connection: Connection, worker: _Worker[Job]) -> Iterator[Event[Job, Result]]:
        worker.process.join()
        del self._workers[connection]
        yield Advanced(-worker.frames)
        reason = f"ended with exit code {worker.process.exitcode} (-9: killed, perhaps for want of memory)"
        if failed := self._tries.died(worker.trying, reason, is_loaded=worker.is_loaded):
            yield failed
        if following := self._tries.take():
            self._start(worker.number, following)


def device_of(device: str | torch.device, number: int) -> torch.device:
    """Returns the device of a worker; the workers of a machine take its GPUs in turn.

    Args:
        device: The device that was asked for; "cuda" stands for all GPUs.
        number: The number of the worker, from 0.
    """
    import torch  # noqa: PLC0415  (takes seconds, and not all jobs use it)

    device = torch.device(device)
    if device == torch.device("cuda") and torch.cuda.is_available():
        device = torch.device("cuda", number % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Lets the processes that are started here ignore Ctrl-C: this process ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _received(connection: Connection) -> object:
    """Returns a message, or None from a dead process."""
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return None


def _work(connection: Connection, make: Make[Any, Any], number: int, threads: int | None) -> None:
    """Runs in a spawned process: does jobs until there are none, it is stopped, or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if threads is not None:
        import torch  # noqa: PLC0415  (as above)

        torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        do = guarded(lambda: make(number))
        if isinstance(do, FlowdetError):
            connection.send(_Loaded(do))
            return
        connection.send(_Loaded())
        while (job := connection.recv()) is not None:
            connection.send(_Outcome(guarded(lambda: do(job, lambda frames: connection.send(Advanced(frames))))))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
