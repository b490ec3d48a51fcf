"""Jobs shared by the machines of a Ray cluster, or by the processes of one machine without any server."""

import logging
import os
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from flowdet.errors import ConfigError, FlowdetError
from flowdet.work.jobs import Advanced, Do, Event, Failed, Finished, Make, Tries, Try, guarded

__all__ = ["Cluster", "spread_over"]

Job = TypeVar("Job")
Result = TypeVar("Result")

_POLL_SECONDS = 0.5  # the driver asks the workers how far they are; nothing is sent unasked
_STOP_SECONDS = 10.0  # for closing files when the work is interrupted
_LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where Ray finds its workers, and what each of them takes.

    Attributes:
        address: The head of a running cluster, or "auto" on one of its machines; None: that of RAY_ADDRESS, or else
            this machine alone, where nothing needs to run.
        workers: The number of workers; None: as many as fit into the cluster as it is.
        gpus_per_worker: The share of a GPU that each takes; several of them share one GPU with 0.5 and less.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"the number of workers is 1 or more, not {self.workers}")
        if not 0 <= self.gpus_per_worker < float("inf"):
            raise ConfigError(f"the GPUs of a worker are a number from 0 on, not {self.gpus_per_worker}")


class _StoppedError(Exception):
    """The driver wants no more; files are closed as by Ctrl-C."""


class _Actor:
    """Runs in a process of its own: what Ray calls there. `do` works in one thread, `frames` answers in another."""

    def __init__(self) -> None:
        self._frames = 0
        self._is_stopped = False
        self._do: Do[Any, Any] | None = None

    def load(self, make: Make[Any, Any], number: int, threads: int) -> FlowdetError | None:
        """Loads; returns why it cannot."""
        torch.set_num_threads(threads)
        do = guarded(lambda: make(number))
        if isinstance(do, FlowdetError):
            return FlowdetError(f"worker {number} on {socket.gethostname()}: {do}")
        self._do = do
        return None

    def do(self, job: Any, threads: int) -> tuple[Any, int]:
        """Returns the result of a job, or the error that ended it, and how many frames were done."""
        torch.set_num_threads(threads)  # this may be another thread than that which loaded
        do = self._do
        assert do is not None
        try:
            return guarded(lambda: do(job, self._advance)), self._frames
        except _StoppedError:
            return FlowdetError("the work was stopped"), self._frames
        except Exception as error:  # a fault of flowdet in one job must not end the others
            traceback.print_exc()  # into Ray's log of this worker
            return FlowdetError(f"flowdet failed: {type(error).__name__}: {error}"), self._frames
        finally:
            self._frames = 0

    def frames(self) -> int:
        """Returns how far the job is."""
        return self._frames

    def stop(self) -> None:
        """Ends the job at its next frame."""
        self._is_stopped = True

    def _advance(self, frames: int) -> None:
        self._frames += frames
        if self._is_stopped:
            raise _StoppedError


@dataclass(eq=False)
class _Worker(Generic[Job]):
    """An actor, and what it is doing; see `pool`.

    Attributes:
        number: Its number, from 0.
        actor: Its handle.
        trying: What it has been given to do, or will be when it has loaded.
        frames: How far it is.
        is_loaded: Whether it has begun.
        poll: The answer to come about how far it is.
    """

    number: int
    actor: Any
    trying: Try[Job]
    frames: int = 0
    is_loaded: bool = False
    poll: Any = None


def spread_over(
    cluster: Cluster,
    jobs: Iterable[Job],
    make: Make[Job, Result],
    *,
    threads: int = 1,
) -> Generator[Event[Job, Result], None, None]:
    """Does jobs in the workers of a cluster and yields what happens, as `pool.spread` does on this machine.

    Jobs and results travel, frames do not. A worker that dies, alone or with its machine, is replaced.

    Args:
        cluster: Where.
        jobs: The jobs, in the order in which they begin; taken one by one. Paths in them hold on every machine.
        make: What a worker loads; like the jobs and the results it must be picklable.
        threads: Threads of torch, and CPUs, that each worker takes.

    Raises:
        ConfigError: There is no Ray, no such cluster, or it is too small for one worker.
        FlowdetError: `make` raised it, or the workers die before they can begin.
    """
    with _connected(cluster, threads) as count:
        yield from _Driver(cluster, count, make, threads).run(jobs)


@contextmanager
def _connected(cluster: Cluster, threads: int) -> Iterator[int]:
    """Connects to the cluster; yields the number of workers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError("the engine ray needs Ray: pip install ray") from error
    if ray.is_initialized():  # by whoever calls this; it stays
        yield _fitting(cluster, threads)
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS") or _LOCAL
    own: dict[str, Any] = {}
    if address == _LOCAL:
        own = {"num_cpus": max(os.cpu_count() or 1, (cluster.workers or 1) * threads), "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    ray._private.worker._worker_logs_enabled = False  # else it prints every death of a worker among our lines
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster answers at {address}: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray has put its own there
    try:
        yield _fitting(cluster, threads)
    finally:
        ray.shutdown()


def _fitting(cluster: Cluster, threads: int) -> int:
    """Returns the number of workers that was asked for, or of those that fit.

    Raises:
        ConfigError: Not one fits.
    """
    if cluster.workers:
        return cluster.workers
    import ray  # noqa: PLC0415

    there = ray.cluster_resources()
    counts = [there.get("CPU", 0) // threads]
    if cluster.gpus_per_worker:
        counts.append(there.get("GPU", 0) // cluster.gpus_per_worker)
    if (count := int(min(counts))) < 1:
        raise ConfigError(
            f"no worker with {threads} CPUs and {cluster.gpus_per_worker:g} GPUs fits into the cluster, which has "
            f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g} now; if it grows on demand, name --workers"
        )
    return count


class _Driver(Generic[Job, Result]):
    """Gives jobs to workers, one to each, and hears of them."""

    def __init__(
        self,
        cluster: Cluster,
        count: int,
        make: Make[Job, Result],
        threads: int,
    ) -> None:
        import ray  # noqa: PLC0415

        self._ray = ray
        self._count = count
        self._make = ray.put(make)  # once for all workers
        self._threads = threads
        self._actors = ray.remote(_Actor).options(
            num_cpus=threads, num_gpus=cluster.gpus_per_worker, max_concurrency=2, max_restarts=0, max_task_retries=0
        )
        self._waiting: dict[Any, _Worker[Job]] = {}  # by the answer that each worker owes
        self._next_poll = 0.0

    def run(self, jobs: Iterable[Job]) -> Generator[Event[Job, Result], None, None]:
        """Does the jobs."""
        self._tries = Tries(jobs, self._count)
        try:
            for number in range(self._count):
                if first := self._tries.take():
                    self._start(number, first)
            while self._waiting:
                # One answer is waited for; then all that are there are taken.
                ready, _ = self._ray.wait(list(self._waiting), timeout=_POLL_SECONDS)
                if ready:
                    ready, _ = self._ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=0)
                for answer in ready:
                    yield from self._hear(self._waiting.pop(answer), answer)
                yield from self._poll()
        finally:
            self._end()

    def _start(self, number: int, trying: Try[Job]) -> None:
        actor = self._actors.remote()
        self._waiting[actor.load.remote(self._make, number, self._threads)] = _Worker(number, actor, trying)

    def _hear(self, worker: _Worker[Job], answer: Any) -> Iterator[Event[Job, Result]]:
        """Takes the answer of a worker, and gives it what comes next."""
        try:
            value = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            yield from self._bury(worker, error)
            return
        if worker.is_loaded:
            result, frames = value
            yield from self._advance(worker, frames)
            job = worker.trying.job
            yield Failed(job, result) if isinstance(result, FlowdetError) else Finished(job, result)
            following = self._tries.take()
            if following is None:
                self._ray.kill(worker.actor)
                return
            worker.trying, worker.frames, worker.poll = following, 0, None
        elif value is not None:
            raise value
        else:
            worker.is_loaded = True
            self._tries.loaded()
        self._waiting[worker.actor.do.remote(worker.trying.job, self._threads)] = worker

    def _bury(self, worker: _Worker[Job], error: Exception) -> Iterator[Event[Job, Result]]:
        with suppress(Exception):
            self._ray.kill(worker.actor)  # it may only be out of reach
        yield Advanced(-worker.frames)
        # Ray tells of the actor first and adds advice at the end.
        told = re.split("is dead because |died because ", " ".join(str(error).split()))[-1]
        reason = f"died ({told.partition(' Some common causes')[0]})"
        if failed := self._tries.died(worker.trying, reason, is_loaded=worker.is_loaded):
            yield failed
        if following := self._tries.take():
            self._start(worker.number, following)

    def _advance(self, worker: _Worker[Job], frames: int) -> Iterator[Advanced]:
        if frames > worker.frames:
            yield Advanced(frames - worker.frames)
            worker.frames = frames

    def _poll(self) -> Iterator[Advanced]:
        """Takes what came of the last question how far the workers are, and asks again."""
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + _POLL_SECONDS
        busy = [worker for worker in self._waiting.values() if worker.is_loaded]
        asked = {worker.poll: worker for worker in busy if worker.poll}
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
        for answer in answered:
            with suppress(self._ray.exceptions.RayError):  # a dead one is met when it should answer
                yield from self._advance(asked[answer], self._ray.get(answer))
            asked[answer].poll = None
        for worker in busy:
            worker.poll = worker.poll or worker.actor.frames.remote()

    def _end(self) -> None:
        """Lets the workers close their files, then ends them."""
        for worker in self._waiting.values():
            worker.actor.stop.remote()
        if any(worker.is_loaded for worker in self._waiting.values()):
            self._ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=_STOP_SECONDS)
        for worker in self._waiting.values():
            self._ray.kill(worker.actor)
