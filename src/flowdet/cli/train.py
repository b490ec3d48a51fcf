"""flowdet train: train or fine-tune a system on annotated videos, and draw how it went."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.progress import BarColumn, TextColumn
from rich.table import Table

from flowdet.cli import console
from flowdet.data.augmentation import PUBLISHED_AUGMENTATION, STRONGER_AUGMENTATION
from flowdet.errors import ConfigError, counted
from flowdet.systems.config import SystemConfig
from flowdet.systems.load import starting_weights, weight_file, weights_of
from flowdet.systems.options import SystemOptions
from flowdet.systems.recipes import recipe
from flowdet.training.plan import SGD, AdamW, Cosine, Plan, Precision, StepDrops
from flowdet.training.plot import draw_runs
from flowdet.training.processes import Processes, join_processes
from flowdet.training.records import Throttle, TrainingProgress, has_tensorboard
from flowdet.training.run import AnnotatedImages, RunOptions, default_augmentation, default_plan, fit
from flowdet.weights.native import read_native
from flowdet.weights.zoo import SHIPPED, yolox_weights

__all__ = ["DataOptions", "PlanOptions", "StartOptions", "train"]

train = App(name="train", help="Train or fine-tune a system; draw how training runs went.")

Paths = Annotated[tuple[Path, ...], Parameter(negative=())]


@Parameter(name="*", group="Plan")
@dataclass(frozen=True)
class PlanOptions:
    """Changes of the plan that suits the system; the resulting plan is printed and saved."""

    epochs: int | None = None
    """Passes over the data."""
    batch: int | None = None
    """Clips per step, over all processes."""
    clips_per_device: int | None = None
    """Clips per forward pass."""
    learning_rate: float | None = None
    """For 8 clips per step; scaled linearly to the batch."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """sgd has the momentum of the published systems."""
    schedule: Literal["steps", "cosine"] | None = None
    """How the learning rate falls."""
    drop_after: Annotated[tuple[int, ...] | None, Parameter(negative=())] = None
    """With steps: an epoch after which the learning rate drops to a tenth; repeat the option."""
    warm_up_steps: int | None = None
    """Steps over which the learning rate rises."""
    weight_decay: float | None = None
    """Applied to every trained parameter."""
    max_gradient_norm: float | None = None
    """Norm to which gradients are clipped; 0 does not clip."""
    backbone_factor: float | None = None
    """The backbone's learning rate relative to that of the other parameters."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is then the result; 0 for none."""
    precision: Precision | None = None
    """bfloat16 or float16 save time and memory on a GPU."""
    channels_last: bool | None = None
    """Store images and maps channels last, which suits convolutions."""
    gradient_checkpointing: bool | None = None
    """Save memory: recompute the backbone's activations in the backward pass."""
    seed: int | None = None
    """Seeds everything random."""
    save_every: int | None = None
    """Steps between checkpoints."""

    def applied_to(self, plan: Plan, world: int) -> Plan:
        """Returns the plan with these changes, and with clips per device that divide the batch."""
        given: dict[str, Any] = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        drops, kind = given.pop("drop_after", None), given.pop("schedule", None)
        if drops and kind == "cosine":
            raise ConfigError("a cosine has no drops: leave out --drop-after, or take --schedule steps")
        if drops or kind == "steps":
            own = plan.schedule if isinstance(plan.schedule, StepDrops) else StepDrops((2, 5))
            given["schedule"] = StepDrops(drops) if drops else own
        elif kind == "cosine":
            given["schedule"] = Cosine()
        if "optimizer" in given:
            given["optimizer"] = SGD() if given["optimizer"] == "sgd" else AdamW()
        given |= {name: given[name] or None for name in ("ema", "max_gradient_norm") if name in given}
        plan = replace(plan, **given)
        if self.clips_per_device is None:
            most = range(plan.clips_per_device, 0, -1)
            plan = replace(plan, clips_per_device=next((n for n in most if plan.batch % (n * world) == 0), 1))
        return plan


@Parameter(name="*", group="Data")
@dataclass(frozen=True)
class DataOptions:
    """What to train and to evaluate on."""

    data: Paths
    """A CocoVID or COCO file; repeat the option for more. The classes are those of the first file."""
    images: Annotated[Paths, Parameter(show_default=False)] = ()
    """The folder of the images of each data file, or one for all. [default: the folder of the file]"""
    val: Path | None = None
    """A file to evaluate on after each epoch."""
    val_images: Path | None = None
    """The folder of its images. [default: the folder of the file]"""
    all_frames: bool = False
    """Train on every frame, also those that the file does not mark as training frames."""
    augmentation: Literal["published", "stronger"] | None = None
    """Random changes of the clips: published is a flip, stronger also zooms and changes colours."""
    workers: int = 2
    """Processes that read ahead, for each training process."""

    @property
    def training(self) -> tuple[AnnotatedImages, ...]:
        """The data files with their folders of images."""
        if len(self.images) not in {0, 1, len(self.data)}:
            raise ConfigError(
                f"give one folder of images for all {len(self.data)} data files or one for each, not {len(self.images)}"
            )
        folders = self.images * len(self.data) if len(self.images) == 1 else self.images
        pairs = zip(self.data, folders or [path.parent for path in self.data], strict=True)
        return tuple(AnnotatedImages(path, folder) for path, folder in pairs)

    @property
    def validation(self) -> AnnotatedImages | None:
        """The file to evaluate on with its folder of images."""
        return AnnotatedImages(self.val, self.val_images or self.val.parent) if self.val else None


@Parameter(name="*", group="Start")
@dataclass(frozen=True)
class StartOptions:
    """The weights to start from."""

    weights: Path | None = None
    """A trained system to start from, of any classes: its file or name. [default: the system, if shipped or YOLOX]"""
    backbone_weights: Path | None = None
    """Start from a backbone trained on ImageNet instead. [default: as published, once downloaded]"""
    flow_net_weights: Path | None = None
    """Start from this flow net. [default: as published, once downloaded]"""

    def completed(self, system: str, config: SystemConfig) -> "StartOptions":
        """Returns these options with the shipped or published weights of a system where none are given."""
        if self.weights:
            return replace(self, weights=weight_file(SystemOptions(weights=self.weights)))
        if system.endswith(".safetensors"):
            return replace(self, weights=Path(system))
        if system in SHIPPED or yolox_weights(system):
            return self if self.backbone_weights else replace(self, weights=weights_of(system))
        if self.backbone_weights and (self.flow_net_weights or not config.flow_net):
            return self
        found = starting_weights(system)
        return replace(
            self,
            backbone_weights=self.backbone_weights or found.get("backbone"),
            flow_net_weights=self.flow_net_weights or found.get("flow_net"),
        )


@train.default
def train_system(
    system: str,
    *,
    out: Path,
    data: DataOptions,
    start: StartOptions | None = None,
    plan: PlanOptions | None = None,
    keep_epochs: bool = False,
    device: str = "cpu",
) -> None:
    """Train or fine-tune a system on annotated videos, stills, or both.

    The same command continues a run that was stopped. For several processes:
    torchrun --nproc-per-node=8 -m flowdet train ... --device cuda

    Args:
        system: A name that `flowdet models` lists, or a native weight file of your own (.safetensors) to start from.
        out: The folder of the run.
        data: What to train and to evaluate on.
        start: The weights to start from.
        plan: Changes of the plan.
        keep_epochs: Write the weights after each epoch too.
        device: Where to train: cpu or cuda.
    """
    config = read_native(Path(system))[0] if system.endswith(".safetensors") else recipe(system)
    chosen = {
        "published": PUBLISHED_AUGMENTATION,
        "stronger": STRONGER_AUGMENTATION,
        None: default_augmentation(config),
    }
    options = RunOptions(
        config=config,
        data=data.training,
        folder=out,
        **asdict((start or StartOptions()).completed(system, config)),
        validation=data.validation,
        augmentation=chosen[data.augmentation],
        all_frames=data.all_frames,
        keep_epochs=keep_epochs,
        workers=data.workers,
    )
    with join_processes(device) as processes:
        suited = default_plan(config, is_trained=options.weights is not None)
        _run(options, (plan or PlanOptions()).applied_to(suited, processes.world), processes)


def _run(options: RunOptions, plan: Plan, processes: Processes) -> None:
    if not processes.is_first:
        fit(options, plan, processes=processes)
        return
    console.out.print(_described(options, plan, processes))
    if not has_tensorboard():
        console.out.print("TensorBoard is not installed (pip install tensorboard); the log is in log.jsonl alone")
    with _bars() if console.err.is_terminal else nullcontext(_lines()) as (watch, watch_evaluation):
        path = fit(
            options,
            plan,
            processes=processes,
            watch=watch,
            watch_evaluation=watch_evaluation,
            say=console.err.print,
        )
    console.out.print(f"finished: {path}")


def _described(options: RunOptions, plan: Plan, processes: Processes) -> Table:
    """Everything that was chosen or left to its default."""
    table = Table("", "", box=None, show_header=False)
    table.add_row("system", options.config.name)
    for part in options.data:
        table.add_row("data", f"{part.annotations}, images in {part.images}")
    table.add_row(
        "processes", f"{processes.world} on {processes.device}, {counted(plan.rounds(processes.world), 'round')} a step"
    )
    for field in fields(plan):
        table.add_row(field.name.replace("_", " "), f"{getattr(plan, field.name)}")
    return table


_Watchers = tuple[Callable[[TrainingProgress], None], Callable[[int, int], None]]


@contextmanager
def _bars() -> Iterator[_Watchers]:
    """Progress bars of training and evaluation, for a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}"))
    with console.progress(*columns) as bar:
        training = bar.add_task("train", total=None, state="")
        evaluation = bar.add_task("evaluate", total=None, state="", visible=False)

        def watch(progress: TrainingProgress) -> None:
            bar.update(training, completed=progress.step, total=progress.steps, state=f"{progress}")

        def watch_evaluation(done: int, frames: int) -> None:
            state = f"{done}/{frames} frames"
            bar.update(evaluation, completed=done, total=frames, state=state, visible=done < frames)

        yield watch, watch_evaluation


def _lines() -> _Watchers:
    """A line of progress every 30 s, for a file or a pipe."""
    sometimes = Throttle(console.err.print)

    def watch(progress: TrainingProgress) -> None:
        sometimes(progress, is_last=progress.step == progress.steps)

    def watch_evaluation(done: int, frames: int) -> None:
        sometimes(f"evaluated {done} of {frames} frames", is_last=False)

    return watch, watch_evaluation


@train.command
def plot(*runs: Path, out: Path = Path("training.png")) -> None:
    """Draw loss, learning rate and AP of training runs.

    Args:
        runs: Folders of runs.
        out: The picture (.png, .svg or .pdf).
    """
    if not runs:
        raise ConfigError("name at least one run: `flowdet train plot runs/a runs/b`")
    draw_runs(runs, out)
    console.out.print(f"{out}")
