"""Puts a training run together: classes of the data, starting weights, feed, loop, evaluation, final weights."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.errors import DataError, FlowdetError
from flowdet.evaluation.run import detect_data_set
from flowdet.metrics.detections import map_labels
from flowdet.metrics.protocols import evaluate
from flowdet.ops.boxes import seeded_choosers
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig, config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.training.batches import clips_of
from flowdet.training.clips import ClipFeed, TrainingBatch
from flowdet.training.dataset import ClipDataset
from flowdet.training.lock import lock_folder
from flowdet.training.loop import AfterEpoch, Report, train
from flowdet.training.plan import Plan
from flowdet.training.pretrained import load_backbone, load_flow_net
from flowdet.training.processes import Processes
from flowdet.training.task import FitTask
from flowdet.weights.download import file_sha256
from flowdet.weights.native import read_native, save_native, start_from, weights_digest

__all__ = ["FINAL_WEIGHTS", "fit"]

FINAL_WEIGHTS = "weights.safetensors"
_PROTOCOL = "coco"


def fit(
    task: FitTask,
    plan: Plan,
    *,
    processes: Processes | None = None,
    watch: Callable[[Report], None] = lambda _: None,
    watch_evaluation: Callable[[int, int], None] = lambda done, frames: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Trains a system, evaluates it after each epoch, and writes its weights; goes on where an earlier call stopped.

    Args:
        task: What to train, from what and on what.
        plan: How long and how fast.
        processes: Which share of the work is done here; all of it if not given.
        watch: Called after each step.
        watch_evaluation: Told how many frames of how many are evaluated.
        say: Takes sentences about the data, the start and the figures.

    Returns:
        The final weights, a native file.

    Raises:
        FlowdetError: Something in the data, the weights or the plan does not fit, or the training failed; see `train`.
    """
    processes = processes or Processes()
    plan.rounds(processes.world)
    torch.manual_seed(plan.seed)
    with lock_folder(task.folder) if processes.is_first else nullcontext():
        return _fit(task, plan, processes, watch=watch, watch_evaluation=watch_evaluation, say=say)


def _fit(
    task: FitTask,
    plan: Plan,
    processes: Processes,
    *,
    watch: Callable[[Report], None],
    watch_evaluation: Callable[[int, int], None],
    say: Callable[[str], None],
) -> Path:
    system, clips = _prepared(task, say)
    feed = ClipFeed(
        clips,
        batch=plan.batch,
        clips_per_device=plan.clips_per_device,
        seed=plan.seed,
        rank=processes.rank,
        world=processes.world,
        workers=task.workers,
        device=processes.device,
    )
    plan = _with_shorter_warm_up(plan, feed.steps_per_epoch, say)
    try:
        result = train(
            system,
            feed,
            _losses,
            plan,
            task.folder,
            processes=processes,
            about=_about(task, system.config),
            notes=_notes(task),
            clips_of=clips_of,
            after_epoch=_after_epoch(task, system.config, processes, watch_evaluation, say),
            watch=watch,
            say=say,
        )
    except torch.OutOfMemoryError as error:
        raise FlowdetError(
            f"too little memory for {plan.clips_per_device} clip(s) at a time ({error}); take fewer clips per device, "
            "gradient checkpointing, or a lower precision. What was saved is kept"
        ) from error
    path = task.folder / FINAL_WEIGHTS
    if processes.is_first:
        assert isinstance(result, VideoDetector)
        save_native(result, path)
    return processes.agree(path)


def _prepared(task: FitTask, say: Callable[[str], None]) -> tuple[VideoDetector, ClipDataset]:
    """The system with its starting weights, and what is drawn; the annotations as they were read are let go of."""
    data = [read_cocovid(part.annotations) for part in task.data]
    config = task.config.with_classes(_class_names(task, data[0]))
    system = _started(task, config, say)
    clips = ClipDataset.of(
        [(found, part.images) for found, part in zip(data, task.data, strict=True)],
        config.class_names,
        config.inputs,
        config.method.references,
        task.augmentation,
        all_frames=task.all_frames,
    )
    for sentence in clips.report(config.class_names):
        say(sentence)
    return system, clips


def _class_names(task: FitTask, data: CocoVID) -> tuple[str, ...]:
    """Those of the data, in the order that the starting weights know if they know the same."""
    is_native = task.weights is not None and task.weights.suffix == ".safetensors"
    known = read_native(task.weights)[0].class_names if task.weights and is_native else task.config.class_names
    return known if set(known) == set(data.class_names) else data.class_names


def _started(task: FitTask, config: SystemConfig, say: Callable[[str], None]) -> VideoDetector:
    """The system with its starting weights."""
    if task.weights:
        start = start_from(task.weights, config)
        system = start.system
        say(
            f"starts from {task.weights}: {start.taken} tensors taken; {len(start.shared_classes)} of "
            f"{len(config.class_names)} classes known"
            + (f", new are {', '.join(start.new_classes)}" if start.new_classes else "")
            + (f"; at random: {', '.join(start.fresh)}" if start.fresh else "")
        )
    else:
        assert task.backbone_weights
        system = build(config)
        load_backbone(system.detector.get_submodule("backbone"), task.backbone_weights)
        say(f"starts from the backbone {task.backbone_weights}")
    if system.flow_net and task.flow_net_weights:
        load_flow_net(system.flow_net, task.flow_net_weights)
        say(f"starts from the flow net {task.flow_net_weights}")
    elif system.flow_net and not task.weights:
        say("the flow net starts at random, not from weights that know flow: expect less than published")
    return system


def _with_shorter_warm_up(plan: Plan, steps_per_epoch: int, say: Callable[[str], None]) -> Plan:
    steps = plan.epochs * steps_per_epoch
    say(
        f"{steps} steps: {plan.epochs} epochs of {steps_per_epoch} with {plan.batch} clips each; learning rate "
        f"{plan.learning_rate:g} for 8 clips a step, {plan.peak_rate:g} for {plan.batch}"
    )
    most = max(1, steps // 10)
    if plan.warm_up_steps <= most:
        return plan
    say(f"the warm-up is shortened from {plan.warm_up_steps} to {most} steps, a tenth of the training")
    return replace(plan, warm_up_steps=most)


def _about(task: FitTask, config: SystemConfig) -> dict[str, Any]:
    """What a run must have in common with this one to be continued."""
    starts = {"weights": task.weights, "backbone": task.backbone_weights, "flow_net": task.flow_net_weights}
    return {
        "system": json.loads(config_to_json(config)),
        "start_sha256": {name: file_sha256(path) for name, path in starts.items() if path},
        "data_sha256": [file_sha256(part.annotations) for part in task.data],
        "changes": asdict(task.augmentation),  # under this name in the folders of earlier runs, too
        "all_frames": task.all_frames,
    }


def _notes(task: FitTask) -> dict[str, Any]:
    """Where everything is on this machine."""
    described = {name: value for name, value in asdict(task).items() if name not in {"config", "augmentation"}}
    return {"task": json.loads(json.dumps(described, default=str))}


def _losses(model: nn.Module, batch: TrainingBatch) -> dict[str, Tensor]:
    assert isinstance(model, VideoDetector)
    return model.losses(batch.clips, seeded_choosers(batch.seeds))


def _after_epoch(
    task: FitTask,
    config: SystemConfig,
    processes: Processes,
    watch: Callable[[int, int], None],
    say: Callable[[str], None],
) -> AfterEpoch:
    """What the first process does after an epoch, while the others wait; what cannot work is found out here."""
    data = read_cocovid(task.validation.annotations) if task.validation and processes.is_first else None
    if data and task.validation:
        map_labels(config.class_names, data)
        first = task.validation.images / data.images[0].file_name
        if not first.is_file():
            raise DataError(f"{data.path}: there is no file {first}; is {task.validation.images} its folder?")

    def after(epoch: int, result: nn.Module) -> Mapping[str, Any]:
        assert isinstance(result, VideoDetector)
        if processes.device.type == "cuda":
            torch.cuda.empty_cache()
        if not processes.is_first:
            return {}
        if task.keep_epochs:
            save_native(result, task.folder / f"epoch_{epoch:02}.safetensors")
        if not data or not task.validation:
            return {}
        folder = task.folder / f"validation-{epoch:02}-{weights_digest(result)[:8]}"
        try:
            found = detect_data_set(
                result,
                data,
                task.validation.images,
                folder,
                processes=processes.here,
                threads=torch.get_num_threads(),
                progress=lambda done: watch(done, len(data.images)),
            )
        except torch.OutOfMemoryError as error:
            raise FlowdetError(
                f"too little memory to evaluate after epoch {epoch} ({error}); leave out the validation and call "
                "`flowdet evaluate` afterwards. What was saved is kept"
            ) from error
        figures = evaluate(data, found.table, _PROTOCOL).headline
        # The log has the figures; what was found would grow to gigabytes.
        shutil.rmtree(folder)
        told = ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in figures.items())
        say(f"epoch {epoch}: {told} ({_PROTOCOL}, {task.validation.annotations.name})")
        return {_PROTOCOL: dict(figures)}

    return after
