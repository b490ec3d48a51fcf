"""Training runs that tests start, in this process or in others: `python -m tests.training.runs FOLDER`."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowdet.detectors.faster_rcnn import RPN, FasterRCNN, RoIHead
from flowdet.errors import FlowdetError
from flowdet.flow.flownet_s import FlowNetS
from flowdet.ops.boxes import seeded_choosers
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.base import MethodConfig
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.training import records
from flowdet.training.feed import TrainingBatch
from flowdet.training.loop import TrainingTask, train
from flowdet.training.plan import SGD, AdamW, Cosine, Plan, StepDrops
from flowdet.training.processes import Processes, join_processes
from flowdet.types import ClipBatch, Targets
from tests.tiny import inputs_of, lite_config, lite_flow_config, video

__all__ = [
    "BAD_KIND",
    "PLAN",
    "SYSTEMS",
    "SYSTEM_PLAN",
    "Heads",
    "Kinds",
    "Line",
    "Points",
    "TinyClips",
    "line_losses",
    "log_of",
    "losses_of_kinds",
    "losses_of_system",
    "start_all",
    "steps_of",
    "system_of",
    "train_heads",
    "train_line",
    "train_system",
    "wait_for",
]

BAD_KIND = 7
"""A clip whose loss is not a number."""
PLAN = Plan(
    epochs=3,
    learning_rate=0.05,
    optimizer=AdamW(),
    schedule=Cosine(),
    warm_up_steps=3,
    warm_up_ratio=0.1,
    max_gradient_norm=10.0,
    backbone_factor=0.2,
    ema=0.5,
    save_every=3,
)
SYSTEM_PLAN = Plan(
    epochs=1,
    batch=4,
    learning_rate=0.02,
    optimizer=SGD(),
    schedule=StepDrops(),
    warm_up_steps=1,
    ema=0.9,
    save_every=100,
)


class Line(nn.Module):
    """A line through points; half of it is a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"backbone": nn.Linear(3, 4), "head": nn.Linear(4, 1)})
        for number, parameter in enumerate(self.parameters()):
            generator = torch.Generator().manual_seed(number)
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, points: Tensor) -> Tensor:
        """Points [n, 3] to values [n, 1]."""
        values: Tensor = self.body["head"](self.body["backbone"](points))
        return values


@dataclass
class Points:
    """One batch a step, which depends on the step alone; a pause before each makes time to be killed."""

    steps_per_epoch: int = 4
    pause: float = 0.0

    def __call__(self, first_step: int) -> Generator[tuple[Tensor], None, None]:
        """The batches from a step on."""
        for step in count(first_step):
            time.sleep(self.pause)
            yield (torch.randn(16, 3, generator=torch.Generator().manual_seed(step)),)


def line_losses(model: nn.Module, points: Tensor) -> dict[str, Tensor]:
    """Random like the choice of boxes may be, from torch's global generator."""
    chosen = torch.randperm(len(points))[:12]
    error = model(points[chosen]) - points[chosen].sum(dim=1, keepdim=True)
    return {"squared": error.square().mean(), "absolute": 0.1 * error.abs().mean()}


def train_line(folder: Path, plan: Plan = PLAN, feed: Points | None = None, **options: Any) -> tuple[Line, nn.Module]:
    """Trains a new line; gives it and the result."""
    line = Line()
    return line, train(TrainingTask(line, feed or Points(), line_losses), plan, folder, **options)


def _tiny(name: str) -> SystemConfig:
    methods: dict[str, MethodConfig] = {"tiny-fgfa": FGFAConfig(2, 2, embedding_channels=8), "tiny-dff": DFFConfig()}
    return replace(lite_config(), name=name, method=methods[name], flow_net=lite_flow_config())


SYSTEMS = {name: _tiny(name) for name in ("tiny-fgfa", "tiny-dff")}


@dataclass
class TinyClips:
    """Eight clips that all differ, four a step; every other pair are stills."""

    references: int
    clips_per_device: int
    rank: int = 0
    world: int = 1
    steps_per_epoch: int = 3

    def __call__(self, first_step: int) -> Generator[Sequence[TrainingBatch], None, None]:
        """The share of this process."""
        for step in count(first_step):
            numbers = [(4 * step + place) % 8 for place in range(4)]
            own = numbers[self.rank * 4 // self.world : (self.rank + 1) * 4 // self.world]
            size = self.clips_per_device
            yield tuple(self.batch(own[first : first + size]) for first in range(0, len(own), size))

    def batch(self, numbers: Sequence[int]) -> TrainingBatch:
        """These clips together."""
        still = tuple(number % 4 < 2 for number in numbers)
        videos = [video(1 + self.references, seed=number, size=(64, 96)) for number in numbers]
        videos = [frames[:1] * len(frames) if flag else frames for flag, frames in zip(still, videos, strict=True)]
        current, *references = inputs_of(*videos)
        boxes = [Targets(torch.tensor([[9.0 + 3 * n, 8, 60 + n, 50]]), torch.tensor([n % 3])) for n in numbers]
        clips = ClipBatch(current, tuple(references), tuple(boxes), still)
        return TrainingBatch(clips, tuple(f"clip {number}" for number in numbers), tuple(numbers))


def losses_of_system(model: nn.Module, batch: TrainingBatch) -> dict[str, Tensor]:
    """The losses of a detector."""
    assert isinstance(model, VideoDetector)
    return model.losses(batch.clips, seeded_choosers(batch.seeds))


def system_of(name: str) -> VideoDetector:
    """A tiny system whose weights are the same every time, whichever they are."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        system = build(SYSTEMS[name])
        # Else the heads see next to nothing of the features, and the features nothing of the flow.
        assert isinstance(system.detector, FasterRCNN)
        roi_head, rpn = system.detector.roi_head, system.detector.rpn
        assert isinstance(roi_head, RoIHead)
        assert isinstance(rpn, RPN)
        for head in (rpn.conv, rpn.objectness, rpn.deltas, roi_head.classes, roi_head.deltas):
            nn.init.normal_(head.weight, std=0.3)
        assert isinstance(system.flow_net, FlowNetS)
        finest = system.flow_net.predictions["2"]
        assert isinstance(finest, nn.Conv2d)
        nn.init.normal_(finest.weight, std=0.3)
        for module in system.detector.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.fill_(2.0)
        return system


def train_system(
    name: str, folder: Path, clips_per_device: int, processes: Processes | None = None, **changes: Any
) -> tuple[VideoDetector, nn.Module]:
    """Trains a tiny system; gives it and the result."""
    processes = processes or Processes()
    plan = replace(SYSTEM_PLAN, clips_per_device=clips_per_device, **changes)
    references = 1 if name == "tiny-dff" else 2
    feed = TinyClips(references, clips_per_device, processes.rank, processes.world)
    system = system_of(name)
    return system, train(TrainingTask(system, feed, losses_of_system), plan, folder, processes=processes)


class Heads(nn.Module):
    """A trunk with a head for each kind of clip, so that a batch leaves the heads of other kinds without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.trunk = nn.Linear(3, 4)
            self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(4))


def losses_of_kinds(model: nn.Module, kinds: Sequence[int]) -> dict[str, Tensor]:
    """The mean over clips that are told by their kind alone."""
    assert isinstance(model, Heads)
    outputs = [model.heads[kind % 4](model.trunk(torch.full((3,), kind + 1.0))) for kind in kinds]
    outputs = [output * math.nan if kind == BAD_KIND else output for kind, output in zip(kinds, outputs, strict=True)]
    return {"squared": torch.stack([(output - 1).square().mean() for output in outputs]).mean()}


@dataclass
class Kinds:
    """Four clips a step, shared so that no two processes and no two rounds see the same kinds; one kind never comes."""

    clips_per_device: int
    rank: int = 0
    world: int = 1
    bad_step: int | None = None
    steps_per_epoch: int = 4

    def __call__(self, first_step: int) -> Generator[Sequence[Sequence[int]], None, None]:
        """The share of this process."""
        for step in count(first_step):
            kinds = [0, 1, 2, 2] if step % 2 else [0, 0, 1, 1]
            kinds[3] = BAD_KIND if step == self.bad_step else kinds[3]
            own = kinds[self.rank * 4 // self.world : (self.rank + 1) * 4 // self.world]
            size = self.clips_per_device
            yield tuple(own[first : first + size] for first in range(0, len(own), size))


def train_heads(
    folder: Path, clips_per_device: int, processes: Processes | None = None, bad_step: int | None = None
) -> Heads:
    """Trains them with a weight decay that reaches every head."""
    processes = processes or Processes()
    plan = replace(SYSTEM_PLAN, clips_per_device=clips_per_device, weight_decay=0.1)
    heads = Heads()
    feed = Kinds(clips_per_device, processes.rank, processes.world, bad_step)
    train(TrainingTask(heads, feed, losses_of_kinds, _clips_of_kinds), plan, folder, processes=processes)
    return heads


def _clips_of_kinds(kinds: Sequence[int]) -> list[tuple[str, Sequence[int]]]:
    return [(f"kind {kind}", [kind]) for kind in kinds]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def steps_of(folder: Path) -> list[tuple[int, float, dict[str, float], float, float]]:
    """What a run logged of its steps, without what depends on the time of day."""
    keys = ("step", "loss", "losses", "learning_rate", "gradient_norm")
    return [tuple(entry[key] for key in keys) for entry in log_of(folder) if "loss" in entry]


def start_all(world: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    """Starts so many processes that train the tiny systems together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.runs", str(folder)],
            cwd=Path(__file__).parents[2],
            env=os.environ | common | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]


def wait_for(processes: Sequence[subprocess.Popen[bytes]]) -> list[tuple[int, str]]:
    """Exit code and messages of each."""
    ends = []
    for process in processes:
        _, messages = process.communicate(timeout=120)
        ends.append((process.returncode, messages.decode()))
    return ends


def _main(folder: Path) -> None:
    torch.set_num_threads(1)
    records.has_tensorboard = lambda: False  # importing it takes longer than the training
    with join_processes("cpu") as processes:
        for clips_per_device in (1, 2):
            heads = train_heads(folder / f"heads{clips_per_device}", clips_per_device, processes)
            torch.save(heads.state_dict(), folder / f"heads{clips_per_device}" / f"weights{processes.rank}.pt")
        try:
            train_heads(folder / "bad", 1, processes, bad_step=2)
        except FlowdetError as error:
            (folder / f"bad{processes.rank}").write_text(str(error))
        for system, clips_per_device in (("tiny-fgfa", 2), ("tiny-dff", 1)):
            trained, result = train_system(system, folder / system, clips_per_device, processes)
            saved = {"model": trained.state_dict(), "result": result.state_dict()}
            torch.save(saved, folder / system / f"weights{processes.rank}.pt")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
