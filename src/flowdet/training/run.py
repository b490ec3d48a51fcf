"""One training run from its options to its folder: classes, starting weights, loop, evaluations, final weights."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowdet.data.augmentation import PUBLISHED_AUGMENTATION, STRONGER_AUGMENTATION, Augmentation
from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.detectors.backbone import Backbone
from flowdet.errors import ConfigError, DataError, FlowdetError, counted
from flowdet.evaluation.run import detect_data_set
from flowdet.files import file_sha256, locked
from flowdet.metrics.detections import map_classes
from flowdet.metrics.protocols import evaluate
from flowdet.ops.boxes import seeded_choosers
from flowdet.ops.devices import memory_shortage
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig, config_from_json, config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import flow_net_of
from flowdet.training.dataset import ClipDataset
from flowdet.training.feed import ClipFeed, TrainingBatch, clips_of
from flowdet.training.loop import AfterEpoch, RunDescription, TrainingTask, train
from flowdet.training.plan import Plan, fine_tuning_plan, lite_plan, published_plan
from flowdet.training.processes import Processes
from flowdet.training.records import Throttle, TrainingProgress, add_message
from flowdet.training.state import recomputable_blocks
from flowdet.weights.native import read_native, save_native, start_from, weights_digest
from flowdet.weights.pretrained import load_backbone, load_flow_net

__all__ = ["FINAL_WEIGHTS", "AnnotatedImages", "RunOptions", "default_augmentation", "default_plan", "fit"]

FINAL_WEIGHTS = "weights.safetensors"
_PROTOCOL = "coco"


@dataclass(frozen=True)
class AnnotatedImages:
    """A CocoVID or COCO file, and the folder that its file names are relative to."""

    annotations: Path
    images: Path


@dataclass(frozen=True)
class RunOptions:
    """What a run trains, from which weights and on which data.

    Attributes:
        config: The system; the classes of the first data set replace its own.
        data: What to train on.
        folder: The folder of the run.
        weights: A trained system to start from, of any classes.
        backbone_weights: ImageNet weights to start from instead.
        flow_net_weights: A flow net to start from.
        validation: What to evaluate on after each epoch.
        augmentation: Random changes of the clips.
        all_frames: Whether to train on every frame, also those not marked as training frames.
        keep_epochs: Whether to write the weights after each epoch too.
        workers: Processes that read ahead.

    Raises:
        ConfigError: Options contradict each other, or a file is missing.
    """

    config: SystemConfig
    data: tuple[AnnotatedImages, ...]
    folder: Path
    weights: Path | None = None
    backbone_weights: Path | None = None
    flow_net_weights: Path | None = None
    validation: AnnotatedImages | None = None
    augmentation: Augmentation = PUBLISHED_AUGMENTATION
    all_frames: bool = False
    keep_epochs: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("there is nothing to train on: name at least one annotation file")
        if bool(self.weights) == bool(self.backbone_weights):
            raise ConfigError(
                f"{self.config.name} starts either from the weights of a trained system or from those of a backbone "
                f"that was trained on ImageNet; {'both' if self.weights else 'neither'} of them came"
            )
        if self.flow_net_weights and not self.config.flow_net:
            raise ConfigError(f"{self.config.name} has no flow net that could start from {self.flow_net_weights}")
        annotated = (*self.data, *([self.validation] if self.validation else []))
        for file in (*(part.annotations for part in annotated), *self.starting_files.values()):
            if not file.is_file():
                raise ConfigError(f"there is no file {file}")
        if self.workers < 0:
            raise ConfigError(f"workers are 0 or more, not {self.workers}; 0 reads in the training process itself")
        for part in annotated:
            if not part.images.is_dir():
                raise ConfigError(f"there is no folder {part.images} with the images of {part.annotations}")

    @property
    def starting_files(self) -> dict[str, Path]:
        """The files that the training starts from, by part."""
        files = {"weights": self.weights, "backbone": self.backbone_weights, "flow_net": self.flow_net_weights}
        return {part: path for part, path in files.items() if path}


def default_plan(config: SystemConfig, *, is_trained: bool) -> Plan:
    """Returns the plan for fine-tuning if the system starts from a trained one, else that of its family."""
    if is_trained:
        return fine_tuning_plan()
    return lite_plan() if config.detector.is_lite else published_plan()


def default_augmentation(config: SystemConfig) -> Augmentation:
    """Returns the published augmentation, and a stronger one for the small systems."""
    return STRONGER_AUGMENTATION if config.detector.is_lite else PUBLISHED_AUGMENTATION


def fit(
    options: RunOptions,
    plan: Plan,
    *,
    processes: Processes | None = None,
    watch: Callable[[TrainingProgress], None] = lambda _: None,
    watch_evaluation: Callable[[int, int], None] = lambda done, frames: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Trains a system, evaluates it after each epoch, and writes its weights; continues where an earlier call stopped.

    Messages and progress are also written to `messages.txt` in the folder. See `train` for what is repeatable.

    Args:
        options: What to train, from which weights and on which data.
        plan: How long and how fast.
        processes: Which share of the work this process does; all of it if not given.
        watch: Called after each step.
        watch_evaluation: Called with the number of frames evaluated and of frames in all.
        say: Called with messages about the data, the start and the metrics.

    Returns:
        The path of the final weights, a native file.

    Raises:
        FlowdetError: The data, the weights or the plan do not fit, or the training failed; see `train`.
    """
    processes = processes or Processes()
    plan.rounds(processes.world)
    torch.manual_seed(plan.seed)
    if not processes.is_first:
        return _fit(options, plan, processes, _Reports(watch, watch_evaluation, say))
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder {options.folder} of the run cannot be used: {error.strerror}; name another"
        ) from error
    busy = f"process {{holder}} is training in {options.folder}: wait for it, stop it, or name another folder"
    with locked(options.folder / "training", busy):
        return _fit(options, plan, processes, _Reports.written_to(options.folder, watch, watch_evaluation, say))


@dataclass(frozen=True)
class _Reports:
    """Takes what a run reports: its progress after each step and during evaluations, and messages."""

    step: Callable[[TrainingProgress], None]
    evaluation: Callable[[int, int], None]
    say: Callable[[str], None]

    @classmethod
    def written_to(
        cls,
        folder: Path,
        watch: Callable[[TrainingProgress], None],
        watch_evaluation: Callable[[int, int], None],
        say: Callable[[str], None],
    ) -> "_Reports":
        """Passes everything on and writes it to the folder's `messages.txt`, progress every 30 s."""

        def write(message: str) -> None:
            add_message(folder, message)

        sometimes = Throttle(write)

        def step(progress: TrainingProgress) -> None:
            watch(progress)
            sometimes(progress, is_last=progress.step == progress.steps)

        def evaluation(done: int, frames: int) -> None:
            watch_evaluation(done, frames)
            sometimes(f"evaluated {done} of {frames} frames", is_last=False)

        def say_and_write(message: str) -> None:
            say(message)
            write(message)

        return cls(step, evaluation, say_and_write)


def _fit(options: RunOptions, plan: Plan, processes: Processes, reports: _Reports) -> Path:
    system, clips = _prepared(options, reports.say)
    feed = ClipFeed(
        clips,
        batch=plan.batch,
        clips_per_device=plan.clips_per_device,
        seed=plan.seed,
        rank=processes.rank,
        world=processes.world,
        workers=options.workers,
        device=processes.device,
    )
    plan = _with_shorter_warm_up(plan, feed.steps_per_epoch, reports.say)
    _check_effect(plan, system, reports.say)
    after_epoch = _after_epoch(options, system.config, processes, reports)
    with _memory_advice(
        f"{counted(plan.clips_per_device, 'clip')} at a time",
        "take fewer clips per device, gradient checkpointing, or a lower precision",
    ):
        result = train(
            TrainingTask(system, feed, _losses, clips_of, after_epoch),
            plan,
            options.folder,
            processes=processes,
            description=_description(options, system.config),
            watch=reports.step,
            say=reports.say,
        )
    path = options.folder / FINAL_WEIGHTS
    if processes.is_first:
        assert isinstance(result, VideoDetector)
        save_native(result, path)
    return processes.from_first(path)


def _prepared(options: RunOptions, say: Callable[[str], None]) -> tuple[VideoDetector, ClipDataset]:
    """The system with its starting weights, and its data; the annotations as read are not kept in memory."""
    data = [read_cocovid(part.annotations) for part in options.data]
    config = options.config.with_classes(_class_names(options, data[0]))
    system = _started(options, config, say)
    clips = ClipDataset.of(
        [(found, part.images) for found, part in zip(data, options.data, strict=True)],
        config.class_names,
        config.inputs,
        config.method.references,
        options.augmentation,
        all_frames=options.all_frames,
    )
    for sentence in clips.describe(config.class_names):
        say(sentence)
    return system, clips


def _class_names(options: RunOptions, data: CocoVID) -> tuple[str, ...]:
    """The classes of the data, in the order of the starting weights if those know the same classes."""
    is_native = options.weights is not None and options.weights.suffix == ".safetensors"
    known = read_native(options.weights)[0].class_names if options.weights and is_native else options.config.class_names
    return known if set(known) == set(data.class_names) else data.class_names


def _started(options: RunOptions, config: SystemConfig, say: Callable[[str], None]) -> VideoDetector:
    """The system with its starting weights."""
    if options.weights:
        start = start_from(options.weights, config, flow_net=flow_net_of(config))
        system = start.system
        say(
            f"starts from {options.weights}: {counted(start.taken, 'tensor')} taken; {len(start.shared_classes)} of "
            f"{len(config.class_names)} classes known"
            + (f", new are {', '.join(start.new_classes)}" if start.new_classes else "")
            + (f"; at random: {', '.join(start.fresh)}" if start.fresh else "")
        )
    else:
        assert options.backbone_weights
        system = build(config)
        backbone = _backbone(system)
        if backbone is None:
            raise ConfigError(f"{config.name} has no backbone that could start from {options.backbone_weights}")
        load_backbone(backbone, options.backbone_weights)
        say(f"starts from the backbone {options.backbone_weights}")
    if system.flow_net and options.flow_net_weights:
        load_flow_net(system.flow_net, options.flow_net_weights)
        say(f"starts from the flow net {options.flow_net_weights}")
    elif system.flow_net and not options.weights:
        say("the flow net starts at random, not from weights that know flow: expect less than published")
    return system


def _with_shorter_warm_up(plan: Plan, steps_per_epoch: int, say: Callable[[str], None]) -> Plan:
    steps = plan.epochs * steps_per_epoch
    say(
        f"{counted(steps, 'step')}: {counted(plan.epochs, 'epoch')} of {steps_per_epoch} with "
        f"{counted(plan.batch, 'clip')} each; learning rate "
        f"{plan.learning_rate:g} for 8 clips a step, {plan.peak_rate:g} for {plan.batch}"
    )
    longest = min(max(1, steps // 10), steps - 1)  # a training of one step has none
    if plan.warm_up_steps <= longest:
        return plan
    say(f"the warm-up is shortened from {plan.warm_up_steps} to {counted(longest, 'step')}, a tenth of the training")
    return replace(plan, warm_up_steps=longest)


def _check_effect(plan: Plan, system: VideoDetector, say: Callable[[str], None]) -> None:
    name = system.config.name
    if plan.backbone_factor != 1 and _backbone(system) is None:
        say(f"{name} has no backbone apart from its neck: all of it is trained at the full learning rate")
    if plan.gradient_checkpointing and next(recomputable_blocks(system), None) is None:
        raise ConfigError(f"{name} has no backbone whose activations could be recomputed; leave that option out")


def _backbone(system: VideoDetector) -> Backbone | None:
    found = dict(system.detector.named_children()).get("backbone")
    return found if isinstance(found, Backbone) else None


def _description(options: RunOptions, config: SystemConfig) -> RunDescription:
    noted = {name: value for name, value in asdict(options).items() if name not in {"config", "augmentation"}}
    return RunDescription(
        identity={
            "system": json.loads(config_to_json(config)),
            "start_sha256": {part: file_sha256(path) for part, path in options.starting_files.items()},
            "data_sha256": [file_sha256(part.annotations) for part in options.data],
            "augmentation": asdict(options.augmentation),
            "all_frames": options.all_frames,
        },
        notes={"options": json.loads(json.dumps(noted, default=str))},
        to_current=_to_current,
    )


def _to_current(identity: dict[str, Any]) -> dict[str, Any]:
    """The identity in a checkpoint of any version as this version writes it, so that old runs can be continued."""
    if "changes" in identity:  # version 0.1
        identity["augmentation"] = identity.pop("changes")
    try:
        system = json.loads(config_to_json(config_from_json(json.dumps(identity["system"]))))
    except ConfigError:
        return identity
    return {**identity, "system": system}


def _losses(model: nn.Module, batch: TrainingBatch) -> dict[str, Tensor]:
    assert isinstance(model, VideoDetector)
    return model.losses(batch.clips, seeded_choosers(batch.seeds))


def _after_epoch(options: RunOptions, config: SystemConfig, processes: Processes, reports: _Reports) -> AfterEpoch:
    """Returns what every process does after an epoch; raises before the training if the evaluation could not work."""
    data = None
    if options.validation and processes.is_first:
        data = read_cocovid(options.validation.annotations)
        for name, other in map_classes(config.class_names, data).renamed.items():
            reports.say(f"the validation data calls {name} {other}")
        first = options.validation.images / data.images[0].file_name
        if not first.is_file():
            raise DataError(f"{data.path}: there is no file {first}; is {options.validation.images} its folder?")

    def after(epoch: int, result: nn.Module) -> Mapping[str, Any]:
        assert isinstance(result, VideoDetector)
        if processes.device.type == "cuda":
            torch.cuda.empty_cache()
        if not processes.is_first:
            return {}
        if options.keep_epochs:
            save_native(result, options.folder / f"epoch_{epoch:02}.safetensors")
        if not data or not options.validation:
            return {}
        folder = options.folder / f"validation-{epoch:02}-{weights_digest(result)[:8]}"
        with _memory_advice(
            f"the evaluation after epoch {epoch}",
            "leave out the validation and call `flowdet evaluate` afterwards",
        ):
            found = detect_data_set(
                result,
                data,
                options.validation.images,
                folder,
                processes=processes.here,
                threads=torch.get_num_threads(),
                progress=lambda done: reports.evaluation(done, len(data.images)),
            )
        metrics = evaluate(data, found.table, _PROTOCOL).headline
        # The log has the metrics; the detections would grow to gigabytes.
        shutil.rmtree(folder, ignore_errors=True)
        shown = {name: "-" if value is None else f"{100 * value:.1f} %" for name, value in metrics.items()}
        values = ", ".join(f"{name} {value}" for name, value in shown.items())
        reports.say(f"epoch {epoch}: {values} ({_PROTOCOL}, {options.validation.annotations.name})")
        return {_PROTOCOL: dict(metrics)}

    return after


@contextmanager
def _memory_advice(what: str, advice: str) -> Iterator[None]:
    """Turns a lack of memory, of the GPU or of the machine, into an error with advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (shortage := memory_shortage(error)) is None:
            raise
        raise FlowdetError(f"{shortage} for {what}; {advice}. What was saved is kept") from error
