"""Checks flowdet on a GPU: parity, stalls, speed, memory, a training step and two minutes of training.

    python scripts/gpu_check.py --json gpu.json [--reference FOLDER]

Weights are those that follow from the names of the parameters (`tests/seeded.py`), so nothing is downloaded. It has not
run on a GPU yet; a test runs it on a pretended one. Ends with 1 where a check fails, without a GPU with 2.

parity    every tensor of the recorded frames of mmtracking, as the tests compare them on a CPU, with TF32 off; with
          --reference all that is recorded (its folder holds `goldens`)
stalls    how often the host waits for the GPU in a frame of the steady state
speed     frames a second, forward and post-processing, in every precision and with cudnn.benchmark, beside the
          published ones of a V100
training  seconds and memory of a step at this size; then whether the loss falls
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flowdet.backends.choice import with_backend  # noqa: E402
from flowdet.benchmark.machine import clock, processor  # noqa: E402
from flowdet.ops.boxes import seeded_choosers  # noqa: E402
from flowdet.systems.detector import PRECISIONS, VideoDetector  # noqa: E402
from flowdet.systems.load import load_random  # noqa: E402
from flowdet.systems.options import SystemOptions  # noqa: E402
from flowdet.training.dataset import Clip  # noqa: E402
from flowdet.training.feed import TrainingBatch, to_training_batch  # noqa: E402
from flowdet.training.loop import TrainingTask, train  # noqa: E402
from flowdet.training.plan import AdamW, Plan, StepDrops  # noqa: E402
from flowdet.training.processes import Processes  # noqa: E402
from flowdet.training.records import TrainingProgress  # noqa: E402
from flowdet.types import Frame, Targets  # noqa: E402
from flowdet.weights.zoo import PUBLISHED  # noqa: E402
from tests.comparison import CASES, TOLERANCES, Case, compare_case, read_compact, read_full  # noqa: E402
from tests.golden import SYSTEMS_FILE  # noqa: E402
from tests.seeded import seeded_system, synthetic_clip  # noqa: E402

_MOST_WAITS = 4  # a frame, see tests/test_cuda.py


@dataclass(frozen=True)
class Settings:
    """How much is checked; the defaults are what a GPU should do.

    Attributes:
        cases: Recorded runs to compare with.
        case_frames: Frames of each; None: all.
        systems: What is timed and watched for stalls.
        size: (height, width) of frames and clips.
        frames: Frames to time, after the window is full.
        training: The system that is trained.
        seconds: How long it is trained, at least `steps`.
        reference: Folder of the full record.
    """

    cases: Sequence[Case] = CASES
    case_frames: int | None = None
    systems: Sequence[str] = tuple(PUBLISHED)
    size: tuple[int, int] = (600, 1000)
    frames: int = 100
    training: str = "fgfa-r50"
    seconds: float = 120
    steps: int = 10
    reference: Path | None = None


def check_parity(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Returns the largest difference of each tensor of each case, and whether all are within what tests allow."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, Any] = {}
    try:
        for case in settings.cases:
            reference = settings.reference
            frames = read_full(case, reference) if reference else read_compact(case, SYSTEMS_FILE)
            worst = compare_case(seeded_system(case.system).to(device), case, frames[: settings.case_frames])
            beyond = [name for name, value in worst.items() if not value <= TOLERANCES[name]]
            found[str(case)] = {"largest": worst, "beyond": beyond}
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    return {"cases": found, "ok": not any(each["beyond"] for each in found.values())}


def _system(name: str, device: torch.device, precision: str) -> VideoDetector:
    system = seeded_system(name) if name in PUBLISHED else load_random(SystemOptions(system=name, backend="torch"))
    return with_backend(system.to(device).eval(), "optimised", precision)


def _frames(size: tuple[int, int]) -> Iterator[Frame]:
    """A short clip again and again, without end."""
    clip = list(synthetic_clip(3, size, 2))
    for number, image in enumerate(cycle(clip)):
        yield Frame(number, number / 25, image)


def _steady(system: VideoDetector, size: tuple[int, int]) -> Iterator[object]:
    """Detections of frames whose window is full."""
    return islice(system.detect(_frames(size)), 2 * sum(system.config.method.window) + 2, None)


def check_stalls(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Returns how often the host waits, by the message of PyTorch and its place, in the frame with most waits."""
    found: dict[str, Any] = {}
    for name in settings.systems:
        frames = _steady(_system(name, device, "float32"), settings.size)
        next(frames)
        worst: Counter[str] = Counter()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(min(settings.frames, 12)):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    next(frames)
                waits = Counter(
                    f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)
                )
                worst = max(worst, waits, key=Counter.total)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found[name] = {"most_in_a_frame": worst.total(), "places": dict(worst)}
    return {"systems": found, "ok": all(each["most_in_a_frame"] <= _MOST_WAITS for each in found.values())}


def _speed(system: VideoDetector, settings: Settings, device: torch.device) -> dict[str, float]:
    torch.cuda.reset_peak_memory_stats(device)
    frames = _steady(system, settings.size)
    next(frames)
    began = clock(device)
    for _ in range(settings.frames):
        next(frames)
    rate = settings.frames / (clock(device) - began)
    return {"frames_per_s": rate, "memory_mb": torch.cuda.max_memory_allocated(device) / 1e6}


@contextmanager
def _fastest_algorithms() -> Iterator[None]:
    """Lets cuDNN try all algorithms for each size; flowdet itself leaves this setting of PyTorch alone."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def measure_speed(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Returns frames a second and the most memory of each system in each precision."""
    found: dict[str, Any] = {}
    for name in settings.systems:
        published = PUBLISHED[name].fps_v100 if name in PUBLISHED else None
        found[name] = {"published_v100": published}
        for precision in PRECISIONS:
            found[name][precision] = _speed(_system(name, device, precision), settings, device)
        with _fastest_algorithms():
            tried = _speed(_system(name, device, "float32"), settings, device)
        found[name]["float32, cudnn.benchmark"] = tried
    return {"systems": found, "size": settings.size, "v100": "https://github.com/open-mmlab/mmtracking", "ok": True}


@dataclass
class _Clips:
    """One clip a step, drawn from a few that are made once; a box in each."""

    references: int
    size: tuple[int, int]
    system: VideoDetector
    device: torch.device
    steps_per_epoch: int

    def __call__(self, first_step: int) -> Generator[Sequence[TrainingBatch], None, None]:
        """The batches from a step on."""
        height, width = self.size
        rng = np.random.default_rng(0)
        for step in count(first_step):
            clip = synthetic_clip(1 + self.references, self.size, step % 8)
            corner = rng.uniform(0, 0.4, 2) * (width, height)
            other = corner + np.array((width / 2, height / 2))
            box = torch.tensor([[*corner, *other]], dtype=torch.float32)
            frames = tuple(torch.from_numpy(np.ascontiguousarray(frame)) for frame in clip)
            made = Clip(f"clip {step}", frames, Targets(box, torch.tensor([step % 2])), still=False)
            yield (to_training_batch([made], [step], self.system.config.inputs, self.device),)


def _losses(model: nn.Module, batch: TrainingBatch) -> dict[str, Tensor]:
    assert isinstance(model, VideoDetector)
    return model.losses(batch.clips, seeded_choosers(batch.seeds))


class _LongEnoughError(Exception):
    """Ends a training."""


def check_training(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Returns what a step costs, and the mean loss of the first and the last tenth of the steps."""
    losses: list[float] = []
    seconds: list[float] = []
    torch.cuda.reset_peak_memory_stats(device)
    last = began = clock(device)

    def watch(progress: TrainingProgress) -> None:
        nonlocal last
        losses.append(progress.loss)
        now = clock(device)
        seconds.append(now - last)
        last = now
        if now - began > settings.seconds and len(losses) >= settings.steps:
            raise _LongEnoughError

    name = settings.training
    system = seeded_system(name) if name in PUBLISHED else load_random(SystemOptions(system=name, backend="torch"))
    plan = Plan(epochs=1, batch=1, clips_per_device=1, learning_rate=0.001, optimizer=AdamW(), schedule=StepDrops())
    plan = replace(plan, warm_up_steps=0, save_every=1_000_000)
    references = system.config.method.references
    feed = _Clips(references.count if references else 0, settings.size, system, device, 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        task, processes = TrainingTask(system, feed, _losses), Processes(device=device)
        with suppress(_LongEnoughError):
            train(task, plan, Path(folder), processes=processes, watch=watch)
    tenth = max(len(losses) // 10, 1)
    first, final = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    return {
        "system": name,
        "steps": len(losses),
        "step_s": median(seconds[1:]),
        "memory_mb": torch.cuda.max_memory_allocated(device) / 1e6,
        "first_loss": first,
        "last_loss": final,
        "ok": bool(np.isfinite(losses).all()) and final < first,
    }


CHECKS: Mapping[str, Callable[[Settings, torch.device], dict[str, Any]]] = {
    "parity": check_parity,
    "stalls": check_stalls,
    "speed": measure_speed,
    "training": check_training,
}


def check(settings: Settings, device: torch.device, names: Sequence[str] = tuple(CHECKS)) -> dict[str, Any]:
    """Returns the report; a check that raises is in it with its error."""
    report: dict[str, Any] = {"gpu": processor(device), "torch": torch.__version__, "cuda": torch.version.cuda}
    for name in names:
        began = time.monotonic()
        try:
            report[name] = CHECKS[name](settings, device)
        except Exception as error:
            report[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        report[name]["seconds"] = time.monotonic() - began
        sys.stdout.write(f"{name}: {'ok' if report[name]['ok'] else 'FAILED'} {json.dumps(report[name])}\n")
    report["ok"] = all(report[name]["ok"] for name in names)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--reference", type=Path, help="folder of the full record of mmtracking's tensors")
    parser.add_argument("--only", choices=list(CHECKS), nargs="+", default=list(CHECKS))
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("gpu_check: PyTorch finds no GPU here (torch.cuda.is_available() is false)\n")
        return 2
    report = check(Settings(reference=options.reference), torch.device(options.device), options.only)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
