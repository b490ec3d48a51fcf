"""Jobs spread over processes, each with a system of its own and one thread."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from flowdet.errors import FlowdetError
from flowdet.evaluation.run import interrupts_ignored

__all__ = ["spread"]

Job = TypeVar("Job")
Worker = Callable[[Job], None]


def spread(jobs: Sequence[Job], make: Callable[[], Worker[Job]], processes: int) -> Iterator[FlowdetError | None]:
    """Does jobs in so many spawned processes; gives for each that has ended its error, or None.

    However this ends, by Ctrl-C too, a process that is at work closes its files before it is gone.

    Args:
        jobs: In the order in which they begin.
        make: Called once in each process; gives what does a job.
        processes: At most.

    Raises:
        FlowdetError: A process was killed.
    """
    todo = deque(jobs)
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, BaseProcess] = {}
    try:
        with interrupts_ignored():
            for _ in range(min(processes, len(jobs))):
                ours, theirs = context.Pipe()
                workers[ours] = context.Process(target=_work, args=(theirs, make))
                workers[ours].start()
                theirs.close()
        for connection in workers:
            connection.send(todo.popleft())
        while workers:
            for ready in wait(list(workers)):
                connection = next(each for each in workers if each is ready)
                yield _received(connection, workers[connection])
                if todo:
                    connection.send(todo.popleft())
                else:
                    connection.send(None)
                    workers.pop(connection).join()
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _received(connection: Connection, process: BaseProcess) -> FlowdetError | None:
    try:
        message: FlowdetError | None = connection.recv()
    except (EOFError, ConnectionError) as error:
        process.join()
        raise FlowdetError(
            f"a process ended with exit code {process.exitcode} (-9: killed, for want of memory?); the finished "
            "sources are kept, so the same command continues, perhaps with fewer --processes"
        ) from error
    return message


def _work(connection: Connection, make: Callable[[], Worker[Any]]) -> None:
    """What a spawned process does: jobs, until there are none, it is stopped, or who gives them is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        do = make()
        while (job := connection.recv()) is not None:
            try:
                do(job)
            except FlowdetError as error:
                connection.send(error)
            else:
                connection.send(None)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
