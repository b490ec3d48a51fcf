"""Jobs spread over local processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flowdet.errors import FlowdetError

if TYPE_CHECKING:
    import torch

__all__ = ["device_of", "spread"]

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Result(Generic[Result]):
    """A message of a worker process: one result of its job."""

    value: Result


def spread(
    jobs: Iterable[Job],
    make: Callable[[int], Callable[[Job], Iterable[Result]]],
    processes: int,
    *,
    threads: int | None = 1,
) -> Generator[Result, None, None]:
    """Does jobs in spawned processes and yields their results as they come.

    However this ends, by Ctrl-C too, the processes close their files before they end; they also end with this process.

    Args:
        jobs: The jobs, in the order in which they begin; each is taken when a process is free.
        make: Called once in each process, with its number from 0; returns the function that does a job and yields its
            results. Everything must be picklable.
        processes: The largest number of processes.
        threads: Threads of torch in each process; None for jobs that do without torch.

    Raises:
        FlowdetError: A job raised it, or a process was killed.
    """
    waiting = iter(jobs)
    first = list(islice(waiting, processes))
    todo = chain(first, waiting)
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    try:
        with _interrupts_ignored():
            for number in range(len(first)):
                ours, theirs = context.Pipe()
                workers[ours] = context.Process(target=_work, args=(theirs, make, number, threads))
                workers[ours].start()
                theirs.close()
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                message = _received(connection, workers[connection])
                if message is not None:
                    yield message.value
                    continue
                job = next(todo, None)
                with suppress(ConnectionError):  # a dead process is told when it is read from
                    connection.send(job)
                if job is None:
                    workers.pop(connection).join()
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def device_of(device: str | torch.device, number: int) -> torch.device:
    """Returns the device of a worker process; the processes take the GPUs in turn.

    Args:
        device: The device that was asked for; "cuda" stands for all GPUs.
        number: The number of the process, from 0.
    """
    import torch  # noqa: PLC0415  (as in `_work`)

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


def _received(connection: Connection, process: BaseProcess) -> _Result[Any] | None:
    """Returns a result, or None when the process waits for a job.

    Raises:
        FlowdetError: The job raised it, or the process is dead.
    """
    try:
        message: _Result[Any] | FlowdetError | None = connection.recv()
    except (EOFError, ConnectionError) as error:
        process.join()
        raise FlowdetError(
            f"a worker process ended with exit code {process.exitcode} (-9: killed, perhaps for want of memory); run "
            "it again with fewer processes or smaller inputs, and it goes on from what was kept"
        ) from error
    if isinstance(message, FlowdetError):
        raise message
    return message


def _work(
    connection: Connection, make: Callable[[int], Callable[[Any], Iterable[Any]]], number: int, threads: int | None
) -> None:
    """Runs in a spawned process: does jobs until there are none, it is stopped, or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if threads is not None:
        import torch  # noqa: PLC0415  (takes seconds, and not all jobs use it)

        torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        try:
            do = make(number)
            connection.send(None)
            while (job := connection.recv()) is not None:
                for result in do(job):
                    connection.send(_Result(result))
                connection.send(None)
        except FlowdetError as error:
            connection.send(error)
        except (MemoryError, RuntimeError) as error:
            from flowdet.ops.devices import memory_shortage  # noqa: PLC0415  (as above)

            if (shortage := memory_shortage(error)) is None:
                raise
            connection.send(FlowdetError(f"{shortage}; take fewer processes or smaller inputs"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
