"""What can be seen once in a process only: the latency of the first frame, and the most memory."""

import multiprocessing
import signal
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from flowdet.benchmark.clip import frames_forever
from flowdet.benchmark.machine import clock, resident_peak
from flowdet.benchmark.report import Memory
from flowdet.benchmark.steady import first_detections, runner, steady_state
from flowdet.benchmark.subject import Subject, build_subject
from flowdet.errors import FlowdetError
from flowdet.inputs import prepare

__all__ = ["Start", "measure_start"]

_STEADY_FRAMES = 2


@dataclass(frozen=True)
class Start:
    """What one start showed.

    Attributes:
        seconds: From the first frame to its detections, decoding included.
        memory: Until the stream had been steady for some frames.
    """

    seconds: float
    memory: Memory


def measure_start(subject: Subject, clip: Path, device: str, threads: int) -> Start:
    """Runs the system on the video in a new process, which ends with it.

    Raises:
        FlowdetError: As in the process; or it was killed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, subject, clip, device, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        found: Start | FlowdetError = ours.recv()
    except EOFError as error:
        process.join()
        raise FlowdetError(
            f"the process that measures memory ended with exit code {process.exitcode} (-9: killed, for want of "
            "memory?); try smaller frames with --size"
        ) from error
    finally:
        process.terminate()
        process.join()
    if isinstance(found, FlowdetError):
        raise found
    return found


def _run(connection: Connection, subject: Subject, clip: Path, device: str, threads: int) -> None:
    """What the new process does; Ctrl-C is left to the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        connection.send(_start(subject, clip, torch.device(device)))
    except FlowdetError as error:
        connection.send(error)


def _start(subject: Subject, clip: Path, device: torch.device) -> Start:
    before = resident_peak(device)
    system = build_subject(subject, str(device)).system
    run, method = runner(system), system.method
    with closing(frames_forever(clip)) as frames:
        inputs = (prepare([frame.image], system.config.inputs, device) for frame in frames)
        began = clock(device)
        state = first_detections(run, method, inputs)
        seconds = clock(device) - began
        state = steady_state(method, state, inputs)
        for item in islice(inputs, _STEADY_FRAMES):
            _, state = run(item, state)
    return Start(seconds, Memory(resident_peak(device), before))
