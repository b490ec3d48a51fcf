"""Trains the detector and the embeddings of fgfa-nano and dff-nano by distillation; no video needs labels.

    python scripts/train_nano.py train COCO_VID30 --yolox WEIGHTS --photographs FOLDER --videos VIDEO --out RUN
    python scripts/train_nano.py judge COCO_VID30 WEIGHTS ...

The frames of a clip are spoilt by blur, noise, exposure, compression and occlusion. From them the system learns to find
what its teachers find in the clean current frame. They are NanoDet-g as published, at the size of the input, mirrored,
and at one and a half times that size; and YOLOX-nano. COCO_VID30 is a folder of photographs with
`instances_vid30.json`; those of the validation split of COCO are kept for `judge`.
"""

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from cyclopts import App
from measure_nano import degrade, detections_in
from nano_clips import (
    FINER,
    REFERENCES,
    Clip,
    Clips,
    Picture,
    Still,
    clipped,
    read_labelled,
    read_photograph,
    read_video,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.ops import box_iou, generalized_box_iou_loss

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.detectors.nanodet import NanoDet, split_predictions
from flowdet.detectors.one_stage import Cells
from flowdet.inputs import prepare
from flowdet.metrics.detections import DetectionTable, concatenate, map_classes
from flowdet.metrics.protocols import evaluate
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load
from flowdet.systems.recipes import fgfa_nano
from flowdet.temporal.base import MethodConfig, MethodParts
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.similarity import aggregate, log_odds, with_modules
from flowdet.temporal.single import SingleFrameConfig
from flowdet.training.feed import to_inputs
from flowdet.training.loop import TrainingTask, train
from flowdet.training.plan import REFERENCE_BATCH, lite_plan
from flowdet.training.records import TrainingProgress
from flowdet.types import FrameFeatures, Maps
from flowdet.weights.native import save_native

app = App(help=__doc__)

_KNOWN_SCORE = 0.9  # of labelled objects, beside the scores of the teachers
_OVERLAP = 0.5
_REPORTS = 20


@dataclass(frozen=True, eq=False, slots=True)
class Wanted:
    """What the teachers find in the n cells of b images.

    Attributes:
        scores: [b, n, 80] in [0, 1].
        distances: [b, n, 4, 11] distributions of the distances to the four sides.
        boxes: [b, n, 4] xyxy px, network input.
    """

    scores: Tensor
    distances: Tensor
    boxes: Tensor


class Teachers:
    """What the teachers find in clean frames, cell by cell of the student's maps."""

    def __init__(self, nano: VideoDetector, yolox: VideoDetector) -> None:
        self.nano, self.yolox = (each.to(memory_format=torch.channels_last) for each in (nano, yolox))

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip]) -> Wanted:
        """Returns what is to be found in the current frames of clips of one size."""
        height, width = clips[0].frames.shape[1:3]
        clean = torch.stack([torch.from_numpy(clip.clean) for clip in clips])
        small = np.stack([cv2.resize(each.clean, (width, height), interpolation=cv2.INTER_LINEAR) for each in clips])
        images = to_inputs(torch.from_numpy(small), self.nano.config.inputs).images
        net = self.nano.detector
        assert isinstance(net, NanoDet)
        scores, distances, cells = _dense(net, images)
        turned_scores, turned, _ = _dense(net, images.flip(3))
        shapes = [(height // s, width // s) for s in net.strides]
        turned_scores, turned = (_mirrored(each, shapes) for each in (turned_scores, turned))
        turned = turned[:, :, [2, 1, 0, 3]]
        scores, distances = (scores + turned_scores) / 2, (distances + turned) / 2
        expected = (distances @ torch.arange(11.0)) * cells.strides
        boxes = torch.cat((cells.centres - expected[..., :2], cells.centres + expected[..., 2:]), dim=-1)
        wanted = [scores]
        for system in (self.nano, self.yolox):
            inputs = to_inputs(clean, system.config.inputs)
            found = system.detector.detect(
                FrameFeatures(0, system.detector.extract(inputs.images), inputs.geometries), 0.1
            )
            moved = [
                _spread(scores[i], boxes[i], objects / FINER, sure, labels)
                for i, (objects, sure, labels) in enumerate(found)
            ]
            wanted.append(torch.stack([each for each, _ in moved]))
            best = torch.stack([each for _, each in moved])
        stacked = torch.stack(wanted)
        fused = (stacked.amax(dim=0) + stacked.mean(dim=0)) / 2
        for i, clip in enumerate(clips):
            known = torch.full((len(clip.labels),), _KNOWN_SCORE)
            shown, nearest = _spread(scores[i], boxes[i], clip.boxes, known, clip.labels)
            fused[i] = torch.maximum(fused[i], shown)
            best[i] = torch.where(nearest.isfinite(), nearest, best[i])
        blended = torch.where(best.isfinite(), (best + boxes) / 2, boxes)
        return Wanted(fused, distances, blended)


def _dense(net: NanoDet, images: Tensor) -> tuple[Tensor, Tensor, Cells]:
    """Returns scores [b, n, 80], distributions [b, n, 4, 11], and the cells."""
    predictions, cells = net.predict(net.extract(images))
    distances, classes = split_predictions(predictions)
    return classes.sigmoid(), distances.softmax(dim=-1), cells


def _mirrored(values: Tensor, shapes: Iterable[tuple[int, int]]) -> Tensor:
    """Returns values [b, n, ...] of cells with the columns of each map in opposite order."""
    parts, start = [], 0
    for height, width in shapes:
        part = values[:, start : start + height * width].unflatten(1, (height, width))
        parts.append(part.flip(2).flatten(1, 2))
        start += height * width
    return torch.cat(parts, dim=1)


def _spread(scores: Tensor, boxes: Tensor, objects: Tensor, sure: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gives the cells whose box overlaps an object its score, in proportion to their own strongest score.

    Returns:
        Scores [n, 80], and boxes [n, 4] of the nearest object; NaN in cells that have none.
    """
    wanted = torch.zeros_like(scores)
    nearest = torch.full_like(boxes, torch.nan)
    if len(objects) == 0:
        return wanted, nearest
    overlaps = box_iou(boxes, objects)
    strength = scores.amax(dim=1)
    for number in sure.argsort().tolist():
        near = (overlaps[:, number] > _OVERLAP).nonzero().flatten()
        if len(near) == 0:
            continue
        share = strength[near] / strength[near].max().clamp(min=0.05)
        label = labels[number]
        wanted[near, label] = torch.maximum(wanted[near, label], sure[number] * share)
        nearest[near] = objects[number]
    return wanted, nearest


def losses_of(teachers: Teachers) -> Any:
    """Returns the function from a model and clips to losses on the spoilt frame alone and on its averaged maps."""

    def losses(model: nn.Module, clips: Sequence[Clip]) -> dict[str, Tensor]:
        assert isinstance(model, VideoDetector)
        assert isinstance(model.detector, NanoDet)
        wanted = teachers(clips)
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips], axis=1))  # [1 + references, b, h, w, 3]
        images = to_inputs(frames.flatten(0, 1), model.config.inputs).images
        levels = model.detector.extract(images)
        own: Maps = tuple(level[: len(clips)] for level in levels)
        averaged = _averaged(model, levels, len(clips))
        both = tuple(torch.cat(pair) for pair in zip(own, averaged, strict=True))
        predictions, cells = model.detector.predict(both)
        single, together = (_distilled(model.detector, part, cells, wanted) for part in predictions.chunk(2))
        named = {f"single {name}": value for name, value in single.items()}
        return named | {f"averaged {name}": value for name, value in together.items()}

    return losses


def _averaged(model: VideoDetector, levels: Maps, batch: int) -> Maps:
    """Returns the maps of the current frames averaged with their references, each counted up to five times."""
    method = model.config.method
    assert isinstance(method, FGFAConfig)
    multiplicity = torch.tensor([1.0] + [float(torch.randint(1, 6, ()))] * REFERENCES)
    averaged = []
    for level, embedded in zip(levels, with_modules(model.method_modules)(levels), strict=True):
        maps, keys = (each.unflatten(0, (-1, batch)).transpose(0, 1).float() for each in (level, embedded))
        odds = log_odds(keys[:, 0], keys, method.sharpness, method.norm_power)
        averaged.append(aggregate(maps, odds, multiplicity)[0].to(level.dtype))
    return tuple(averaged)


def _distilled(net: NanoDet, predictions: Tensor, cells: Cells, wanted: Wanted) -> dict[str, Tensor]:
    """Returns the quality focal loss of all scores, and the losses of boxes and distances where an object is."""
    distances, logits = split_predictions(predictions)
    focal = F.binary_cross_entropy_with_logits(logits, wanted.scores, reduction="none")
    focal = focal * (wanted.scores - logits.sigmoid()).square()
    share = wanted.scores.amax(dim=2)
    share = share * (share > 0.1)
    whole = share.sum() + 1
    found = torch.stack([net.boxes(each, cells) for each in predictions])
    giou = generalized_box_iou_loss(found.flatten(0, 1), wanted.boxes.flatten(0, 1), reduction="none").unflatten(
        0, share.shape
    )
    log = distances.log_softmax(dim=-1)
    entropy = (wanted.distances * (wanted.distances.clamp(min=1e-6).log() - log)).sum(dim=-1).mean(dim=-1)
    return {
        "classes": focal.sum() / whole,
        "boxes": (giou * share).sum() / whole,
        "distances": 0.5 * (entropy * share).sum() / whole,
    }


@dataclass(frozen=True)
class Feed:
    """Clips drawn by one process."""

    stills: Sequence[Still]
    videos: Sequence[Sequence[Picture]]
    batch: int
    steps_per_epoch: int

    def __call__(self, first_step: int) -> Generator[tuple[list[Clip]], None, None]:
        """Yields one batch a step."""
        own = torch.Generator()  # so that starting the process does not move torch's global one
        clips = Clips(self.stills, self.videos, self.batch, first_step)
        return ((batch,) for batch in DataLoader(clips, None, num_workers=1, prefetch_factor=4, generator=own))


def student() -> VideoDetector:
    """Returns fgfa-nano before the training: NanoDet-g as published, and embeddings that keep cosines as they are."""
    system = build(fgfa_nano())
    system.detector.load_state_dict(load("single-nano").detector.state_dict())
    torch.manual_seed(0)
    for conv in system.method_modules.values():
        assert isinstance(conv, nn.Conv2d)
        nn.init.zeros_(conv.weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        projection = nn.init.orthogonal_(torch.empty(conv.out_channels, conv.in_channels))
        conv.weight.data[:, :, 1, 1] = projection * (conv.in_channels / conv.out_channels) ** 0.5
    return system.requires_grad_(requires_grad=True)


@app.command(name="train")
def train_command(
    coco: Path,
    *,
    yolox: Path,
    photographs: list[Path],
    videos: list[Path],
    out: Path,
    steps: int = 4000,
    batch: int = 6,
    rate: float = 3e-4,
    share: float = 0.3,
    threads: int = 1,
) -> None:
    """Trains, and writes the weights.

    Args:
        coco: The folder of labelled photographs.
        yolox: Weights of YOLOX-nano.
        photographs: Folders of photographs without labels.
        videos: Videos, and folders of the frames of one video, without labels.
        out: Folder of the run; a run that was stopped goes on.
        steps: Number of steps.
        batch: Clips a step.
        rate: Largest learning rate.
        share: Of the way from the published weights to the trained ones; part of the way keeps what was known before
            and most of what was learnt (WiSE-FT, Wortsman et al., CVPR 2022).
        threads: Of PyTorch.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)  # a process that is forked while OpenCV has threads waits for them without end
    stills, _ = read_labelled(coco)
    for folder in photographs:
        stills += [Still(read_photograph(path)) for path in sorted(folder.glob("*.jp*g"))]
    teachers = Teachers(load("single-nano"), load("single-yolox-nano", weights=yolox))
    plan = replace(
        lite_plan(),
        epochs=1,
        batch=batch,
        clips_per_device=batch,
        learning_rate=rate * REFERENCE_BATCH / batch,
        backbone_factor=1.0,
        precision="bfloat16",
        ema=0.999,
        save_every=200,
    )
    feed = Feed(stills, [read_video(path) for path in videos], batch, steps)
    app.console.print(f"{len(stills)} photographs, videos of {[len(video) for video in feed.videos]} frames")
    trained = train(TrainingTask(student(), feed, losses_of(teachers)), plan, out, watch=_tell, say=app.console.print)
    assert isinstance(trained, VideoDetector)
    pairs = zip(student().state_dict().items(), trained.state_dict().values(), strict=True)
    trained.load_state_dict({name: torch.lerp(before, after, share) for (name, before), after in pairs})
    save_native(trained, out / "nano.safetensors", torch.float16)


def _tell(progress: TrainingProgress) -> None:
    if progress.step % _REPORTS == 0:
        app.console.print(f"{progress}")


@app.command
def judge(coco: Path, *weights: Path, threads: int = 1) -> None:
    """Prints AP50 and AP of weights on photographs of COCO's validation split, over which a window moves.

    The middle of eleven frames is judged: frame by frame and averaged, clean and with the three in the middle spoilt.

    Args:
        coco: The folder of labelled photographs.
        weights: Weights of fgfa-nano.
        threads: Of PyTorch.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)
    _, known = read_labelled(coco)
    clips, annotations = [], []
    for number, image in enumerate(known["images"]):
        picture = read_photograph(coco / "images" / image["file_name"])
        height, width = picture.shape[:2]
        tall, wide = int(0.8 * height), int(0.8 * width)
        rng = np.random.default_rng(number)
        places = np.array([width - wide, height - tall]) / 2 + np.arange(-5, 6)[:, None] * rng.uniform(-8, 8, 2)
        lefts, tops = places.clip(0, [width - wide, height - tall]).round().astype(int).T
        clips.append(
            [np.ascontiguousarray(picture[y : y + tall, x : x + wide]) for x, y in zip(lefts, tops, strict=True)]
        )
        for each in known["annotations"]:
            if each["image_id"] == image["id"]:
                whole = np.array(each["bbox"]) - [lefts[5], tops[5], 0, 0]
                corners = np.concatenate((whole[:2], whole[:2] + whole[2:]))[None]
                (inside,), (is_kept,) = clipped(corners, (tall, wide))
                box = [*inside[:2], *(inside[2:] - inside[:2])]
                annotations.append(
                    each | {"bbox": box, "area": box[2] * box[3], "iscrowd": int(each["iscrowd"] or not is_kept)}
                )
        image |= {"height": tall, "width": wide, "video_id": number + 1, "frame_id": 0}
    videos = [{"id": number + 1, "name": str(number)} for number in range(len(clips))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "known.json"
        path.write_text(json.dumps(known | {"annotations": annotations, "videos": videos}))
        data = read_cocovid(path)
    for file in weights:
        system = load("fgfa-nano", weights=file)
        for condition in ("clean", "spoilt"):
            seen = (
                [_three_degraded(clip, place) for place, clip in enumerate(clips)] if condition == "spoilt" else clips
            )
            for name, method in (("single", SingleFrameConfig()), ("averaged", system.config.method)):
                parts = [_found(system, method, clip, place, data) for place, clip in enumerate(seen)]
                headline = evaluate(data, concatenate(parts), "coco").headline
                shown = ", ".join(f"{key} {100 * headline[key]:.1f}" for key in ("AP50", "AP"))
                app.console.print(f"{file} {condition} {name}: {shown}")


def _three_degraded(clip: Sequence[Picture], seed: int) -> list[Picture]:
    """Returns the clip with its middle frame and the neighbours of that degraded."""
    middle = len(clip) // 2
    return [
        degrade(picture, len(clip) * seed + number) if abs(number - middle) <= 1 else picture
        for number, picture in enumerate(clip)
    ]


@torch.inference_mode()
def _found(
    system: VideoDetector, method: MethodConfig, clip: Sequence[Picture], place: int, data: CocoVID
) -> DetectionTable:
    """Returns what is found in the middle frame of a clip."""
    running = method.build(MethodParts(system.detector, None, system.method_modules))
    state, features = running.initial_state(), []
    frames = [clip[len(clip) // 2]] if isinstance(method, SingleFrameConfig) else clip
    for picture in frames:
        ready, state = running.step(prepare([picture], system.config.inputs), state)
        features += ready
    features += running.flush(state)
    labels = torch.from_numpy(map_classes(system.config.class_names, data).labels)
    return detections_in(features[len(frames) // 2], system, labels, place)


if __name__ == "__main__":
    app()
