"""Trains the flow net that ships with the package on clips whose flow is known exactly.

    python scripts/train_flow.py render POOL --coco instances.json --images IMAGES --backgrounds FOLDER
    python scripts/train_flow.py train POOL --out OUT

render draws the clips: drawings as the training split of the synthetic benchmark has them, and moving photographs.
train writes OUT/flow.safetensors. What was interrupted goes on. One thread each.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from cyclopts import App
from flow_pool import STRIDE, PoolClip, read_pool, render_pool
from lite_clips.moving_stills import MovingStills, MovingStillsConfig
from lite_clips.stills import read_stills
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowdet.class_names import VID_CLASSES
from flowdet.flow.coarse_to_fine import CoarseToFineFlow, normalised
from flowdet.systems.build import build
from flowdet.systems.recipes import SHIPPED_FLOW, dff_nano
from flowdet.weights.native import save_native

app = App(help=__doc__)

_STILLS = MovingStillsConfig(size=(192, 320), background_share=0.7, speed=6.0, zoom=(1.0, 2.2))
_STILLS_SHARE = 0.45
_WARM_UP = 200
_AVERAGED = 0.998
_LARGEST_GRADIENT = 1.0
# Of the match and of the flow after each stage; and of the last flow in cells of 16 px, as errors are reported.
_SHARES = (0.2, 0.5, 0.7, 1.0)
_CELLS_SHARE = 0.7
_MATCH_SHARE = 0.05
_REPORTS = 100
_CHECKPOINTS = 500


@app.command
def render(pool: Path, *, coco: Path, images: Path, backgrounds: Path, clips: int = 3100, seed: int = 0) -> None:
    """Draws the clips.

    Args:
        pool: Gets the clips.
        coco: COCO annotations of photographs, whose objects are cut out.
        images: Folder of these photographs.
        backgrounds: Folder of photographs without labels.
        clips: Number of clips.
        seed: Seed of all random draws.
    """
    torch.set_num_threads(1)
    stills = MovingStills(read_stills(coco, images, VID_CLASSES), sorted(backgrounds.rglob("*.jpg")), _STILLS)
    for done in render_pool(pool, clips, stills, _STILLS_SHARE, seed):
        app.console.print(f"{done} of {clips} clips")


@app.command
def train(pool: Path, *, out: Path, steps: int = 7000, batch: int = 8, rate: float = 1.5e-3, seed: int = 0) -> None:
    """Trains.

    Args:
        pool: The clips.
        out: Folder of the run.
        steps: Number of steps.
        batch: Pairs of frames a step.
        rate: Largest learning rate.
        seed: Seed of all random draws.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    clips = read_pool(pool)
    every_frame = [halved(clip) for clip in clips]
    model = CoarseToFineFlow(SHIPPED_FLOW)
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(_AVERAGED)
    )
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    trained = {"model": model, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    checkpoint = out / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        first = saved.pop("step")
        for name, state in saved.items():
            trained[name].load_state_dict(state)
    sums: dict[str, float] = {}
    began = time.perf_counter()
    for step in range(first, steps):
        losses = flow_losses(model, *draw_pairs(clips, every_frame, batch, np.random.default_rng([seed, step])))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.item() / _REPORTS
        if (step + 1) % _REPORTS == 0:
            means = ", ".join(f"{name} {value:.3f}" for name, value in sums.items())
            app.console.print(f"{step + 1}, {time.perf_counter() - began:.0f} s: {means}", highlight=False)
            sums = {}
        if (step + 1) % _CHECKPOINTS == 0 or step + 1 == steps:
            states = {name: each.state_dict() for name, each in trained.items()} | {"step": step + 1}
            torch.save(states, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").rename(checkpoint)
    system = build(replace(dff_nano(), flow_net=SHIPPED_FLOW))
    assert isinstance(system.flow_net, CoarseToFineFlow)
    system.flow_net.load_state_dict(averaged.module.state_dict())
    save_native(system, out / "flow.safetensors", torch.float16, part="flow_net")


def _rate(step: int, steps: int) -> float:
    """The factor on the learning rate: a warm-up, then half a cosine."""
    return min((step + 1) / _WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def halved(clip: PoolClip) -> NDArray[np.uint8]:
    """Returns the frames [n, h / 2, w / 2, 3] uint8 RGB at half their size, which is what the flow net sees."""
    images = (cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) for file in clip.frames)
    small = (cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for image in images)
    return np.stack([image[..., ::-1] for image in small])


def draw_pairs(
    clips: Sequence[PoolClip], frames: Sequence[NDArray[np.uint8]], count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns random pairs: current and reference frames [n, 3, h / 2, w / 2], and flow [n, 2, h / 8, w / 8] px.

    Args:
        clips: The pool.
        frames: The frames of each of its clips, see `halved`.
        count: The number of pairs.
        rng: Draws them.
    """
    pairs, flows = [], []
    for _ in range(count):
        place = rng.integers(len(clips))
        number = rng.integers(len(clips[place].pairs))
        pair = frames[place][clips[place].pairs[number]].astype(np.float32)
        flow = clips[place].flows[number].float()
        if rng.random() < 0.5:
            pair, flow = pair[:, :, ::-1], flow.flip(2) * torch.tensor([-1.0, 1.0])[:, None, None]
        if rng.random() < 0.3:
            pair, flow = pair[:, ::-1], flow.flip(1) * torch.tensor([1.0, -1.0])[:, None, None]
        pairs.append(_spoilt(pair, rng))
        flows.append(flow)
    current, reference = torch.from_numpy(np.stack(pairs, axis=1)).permute(0, 1, 4, 2, 3)
    return current, reference, torch.stack(flows)


def _spoilt(pair: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns the frames [2, h, w, 3] in other colours, at times one of them blurred, noisy or in another light."""
    pair = np.ascontiguousarray(pair[..., rng.permutation(3)] if rng.random() < 0.3 else pair)
    if rng.random() < 0.3:
        which = rng.integers(2)
        pair[which] = _degraded(pair[which], rng)
    grey = pair.mean(axis=-1, keepdims=True)
    pair = (grey + (pair - grey) * rng.uniform(0.2, 1.6) - 128) * rng.uniform(0.7, 1.3) + 128
    light = rng.uniform(0.7, 1.3) * (rng.uniform(0.85, 1.15, 2) if rng.random() < 0.3 else np.ones(2))
    return (pair * light.astype(np.float32)[:, None, None, None]).clip(0, 255)


def _degraded(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns the image with motion blur or defocus, and noise."""
    if rng.random() < 0.6:
        length, angle = int(rng.choice([3, 5, 7, 9])), rng.uniform(0, np.pi)
        reach = length // 2 * np.array([np.cos(angle), np.sin(angle)])
        ends = [np.round(length // 2 + sign * reach).astype(int).tolist() for sign in (-1, 1)]
        kernel = cv2.line(np.zeros((length, length), np.float32), *ends, 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    else:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0, 8)
    return image + noise


def flow_losses(model: CoarseToFineFlow, current: Tensor, reference: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Returns the losses: the cross-entropy of the true match, and the end-point errors of the flow after each stage.

    The larger the motion of a pair, the less each pixel of its errors counts.

    Args:
        model: The flow net.
        current: [n, 3, h / 2, w / 2].
        reference: The same.
        truth: [n, 2, h / 8, w / 8] px.
    """
    pair = [model.encode(normalised(frames)) for frames in (current, reference)]
    roles = model.as_current(pair[0]), model.as_reference(pair[1])
    weight = (truth.norm(dim=1).mean(dim=(1, 2)) + 2) ** -0.7
    coarse = F.avg_pool2d(truth, 2)
    losses = {"match": _MATCH_SHARE * _match_loss(model.similarity(*roles), coarse / (2 * STRIDE))}
    flows = model.predict(*roles)
    for number, (flow, share) in enumerate(zip(flows, _SHARES, strict=True)):
        wanted = coarse if flow.shape[2:] == coarse.shape[2:] else truth
        losses[f"flow{number}"] = share * _error(flow * (STRIDE * truth.shape[3] / flow.shape[3]), wanted, weight)
    losses["cells"] = _CELLS_SHARE * _error(F.avg_pool2d(flows[-1] * STRIDE, 2), coarse, weight)
    return losses


def _error(flow: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """The end-point error, in px, of each pair, weighted."""
    errors = ((flow - truth).square().sum(dim=1) + 1e-4).sqrt()
    return (errors.mean(dim=(1, 2)) * weight).mean()


def _match_loss(similarity: Tensor, flow: Tensor) -> Tensor:
    """Returns the cross-entropy of the cell where each cell went, over cells still in the frame; flow in cells."""
    height, width = flow.shape[2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    column, row = (x + flow[:, 0]).floor().long(), (y + flow[:, 1]).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = torch.where(inside, row * width + column, -1)
    return F.cross_entropy(similarity.transpose(1, 2), place.flatten(1), ignore_index=-1)


if __name__ == "__main__":
    app()
