"""Trains the small systems (single-lite, dff-lite, fgfa-lite), in three stages that can be run one by one.

flow      the flow net, on clips whose flow is known exactly
detector  backbone, neck and heads, on single frames
together  all of it: one set of weights for the three systems

The commands that made the shipped weights are in docs/lite.md.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from cyclopts import App, Parameter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from flowdet.build import build
from flowdet.checkpoint import read_system, save_native
from flowdet.config import SystemConfig
from flowdet.data.coco import read_stills
from flowdet.data.moving_stills import MovingStills, MovingStillsConfig, StillClip
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.data.synthetic.restyle import RestyleConfig
from flowdet.data.synthetic.training import SyntheticClips
from flowdet.data.transforms import recoloured
from flowdet.models.efficientnet_lite import EfficientNetLite0Config
from flowdet.models.inputs import FEATURE_STRIDE
from flowdet.models.matching_flow import MatchingFlow
from flowdet.ops.boxes import choose_randomly
from flowdet.recipes import VID_CLASSES, fgfa_lite, single_lite
from flowdet.system import VideoDetector
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.training.clips import to_clip_batch, to_inputs
from flowdet.training.loop import Report, train
from flowdet.training.plan import REFERENCE_BATCH, lite_plan
from flowdet.training.pretrained import load_imagenet_weights

app = App(help=__doc__)
Stage = Literal["flow", "detector", "together"]

_REPORTS = 100
_MATCH_SHARE = 0.1
_EARLIER = 0.7
# More objects than the benchmark has, so that a step teaches more.
_CROWDED = SyntheticConfig(objects=(0.1, 0.2, 0.2, 0.2, 0.15, 0.15), same_class=0.2)


@dataclass(frozen=True)
class Sources:
    """Where the photographs are: a COCO file, its images, and folders with unlabelled backgrounds."""

    coco: Path
    images: Path
    backgrounds: tuple[Path, ...] = ()

    def stills(self, config: MovingStillsConfig) -> MovingStills:
        """Everything read."""
        pictures = [path for folder in self.backgrounds for path in sorted(folder.rglob("*.jpg"))]
        return MovingStills(read_stills(self.coco, self.images, VID_CLASSES), pictures, config)


@dataclass
class Draws(IterableDataset[list[StillClip]]):
    """Batches of clips drawn at random, each from drawings or from photographs, without end.

    A batch depends on the seed and its number alone.
    """

    synthetic: SyntheticClips
    stills: MovingStills
    stills_share: float
    references: int
    clips: tuple[int, int]
    seed: int
    first: int = 0

    def __iter__(self) -> Iterator[list[StillClip]]:
        for step in count(self.first):
            rng = np.random.default_rng([self.seed, step])
            is_photograph = rng.random() < self.stills_share
            source = self.stills if is_photograph else self.synthetic
            yield [_in_other_colours(source.draw(rng, self.references), rng) for _ in range(self.clips[is_photograph])]


def _in_other_colours(clip: StillClip, rng: np.random.Generator) -> StillClip:
    brightness, contrast = rng.uniform(0.7, 1.3, 2)
    frames = torch.stack([recoloured(frame, brightness, contrast, rng.uniform(0.2, 1.6)) for frame in clip.frames])
    return replace(clip, frames=frames)


@dataclass(frozen=True)
class Feed:
    """The draws, read ahead by one process; the whole training is one epoch."""

    draws: Draws
    steps_per_epoch: int

    def __call__(self, first_step: int) -> Generator[tuple[list[StillClip]], None, None]:
        """One batch a step."""
        # A generator of its own, so that starting the process does not move torch's global one.
        own = torch.Generator()
        draws = replace(self.draws, first=first_step)
        return ((batch,) for batch in DataLoader(draws, None, num_workers=1, prefetch_factor=4, generator=own))


def flow_losses(model: nn.Module, clips: list[StillClip]) -> dict[str, Tensor]:
    """How unlikely the true match is, and the error of every flow relative to the clip's mean motion plus one pixel."""
    assert isinstance(model, MatchingFlow)
    frames = torch.stack([clip.frames for clip in clips], dim=1)
    truth = torch.cat([clip.flows for clip in clips])
    size = truth.square().sum(dim=1).sqrt().mean(dim=(1, 2))[:, None, None] + 1
    config = fgfa_lite().inputs
    pair = [model.prepare(to_inputs(frame, config)) for frame in frames]
    wanted = F.avg_pool2d(truth, FEATURE_STRIDE) / FEATURE_STRIDE
    losses = {"match": _MATCH_SHARE * _match_loss(model.similarity(*pair), wanted, model.places_a_side)}
    flows = model.predict(*pair)
    for number, flow in enumerate(flows, 1 - len(flows)):
        errors = ((flow - wanted).square().sum(dim=1) + 1e-6).sqrt() * FEATURE_STRIDE
        losses[f"flow{number}"] = _EARLIER**-number * (errors / size).mean()
    return losses


def _match_loss(similarity: Tensor, flow: Tensor, finer: int) -> Tensor:
    """Cross-entropy of the place where each cell went, of the cells that are still in the frame; flow in cells."""
    height, width = flow.shape[2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    column, row = (finer * (x + flow[:, 0])).floor().long(), (finer * (y + flow[:, 1])).floor().long()
    inside = (column >= 0) & (column < finer * width) & (row >= 0) & (row < finer * height)
    place = torch.where(inside, row * finer * width + column, -1)
    return F.cross_entropy(similarity.transpose(1, 2), place.flatten(1), ignore_index=-1)


def detection_losses(model: nn.Module, clips: list[StillClip]) -> dict[str, Tensor]:
    """The losses of the detector on single frames."""
    assert isinstance(model, VideoDetector)
    return model.losses(to_clip_batch(clips, model.config.inputs))


def joint_losses(model: nn.Module, clips: list[StillClip]) -> dict[str, Tensor]:
    """The losses of the heads on the features of all three methods, which share what the backbone made of a frame."""
    assert isinstance(model, VideoDetector)
    assert model.flow_net
    assert model.embedding
    assert isinstance(model.config.method, FGFAConfig)
    batch = to_clip_batch(clips, model.config.inputs)
    images = torch.cat([inputs.images for inputs in (batch.current, *batch.references)])
    features = model.detector.extract(images)
    single, reference, *_ = features.chunk(1 + len(batch.references))
    dff = DFF(lambda _: reference, model.flow_net, DFFConfig())
    fgfa = FGFA(lambda _: features, model.flow_net, model.embedding, model.config.method)
    carried = dff.training_features(replace(batch, references=batch.references[:1]))
    every = torch.cat((single, carried, fgfa.training_features(batch)))
    targets = batch.targets * 3
    return model.detector.losses(every, batch.current.geometries * 3, targets, (choose_randomly,) * len(targets))


@app.default
def main(
    stage: Stage,
    sources: Annotated[Sources, Parameter(name="*")],
    *,
    out: Path,
    steps: int,
    clips: tuple[int, int],
    rate: float = 1e-3,
    backbone_factor: float = 0.2,
    stills_share: float = 0.3,
    frozen_flow: bool = False,
    frozen_stages: int = 3,
    start: Path | None = None,
    threads: int = 2,
    seed: int = 0,
) -> None:
    """Runs one stage; the last one writes lite.safetensors.

    Args:
        stage: Which.
        sources: The photographs.
        out: Folder of the run, of all stages.
        steps: How many.
        clips: Clips a step, of drawings and of photographs, which are larger.
        rate: Learning rate.
        backbone_factor: The backbone's share of it.
        stills_share: Share of the steps on photographs.
        frozen_flow: Leave the flow net as it is.
        frozen_stages: Stages of the backbone that stay as they are.
        start: Weight file whose detector the second stage goes on from, in place of ImageNet weights.
        threads: Of torch; one more process draws the clips.
        seed: Of everything that is drawn at random.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    plan = replace(
        lite_plan(),
        epochs=1,
        batch=clips[0],
        clips_per_device=clips[0],
        learning_rate=rate * REFERENCE_BATCH / clips[0],
        warm_up_steps=min(lite_plan().warm_up_steps, steps // 2),
        backbone_factor=backbone_factor,
        seed=seed,
    )
    match stage:
        case "flow":
            moving = MovingStillsConfig(size=(192, 320), background_share=0.7, speed=4.0, zoom=(1.0, 2.2))
            model: nn.Module = _flow_net(build(fgfa_lite()))
            losses, references, drawn = flow_losses, 1, SyntheticClips(VID_CLASSES)
        case "detector":
            moving = MovingStillsConfig(size=(288, 512))
            model = build(_partly_frozen(single_lite(), frozen_stages))
            if start:
                model.load_state_dict(read_system(start, single_lite()).state_dict())
            else:
                load_imagenet_weights(model.detector.backbone)
            losses, references, drawn = detection_losses, 0, _drawn()
        case "together":
            moving = MovingStillsConfig(size=(288, 512))
            model = build(_partly_frozen(fgfa_lite(), frozen_stages))
            flow_net = _flow_net(model)
            model.detector.load_state_dict(_load(out / "detector.pt"))
            flow_net.load_state_dict(_load(out / "flow.pt"))
            flow_net.requires_grad_(not frozen_flow)
            losses, references, drawn = joint_losses, 2, _drawn()
    draws = Draws(drawn, sources.stills(moving), stills_share, references, clips, seed)
    folder = out / (f"{stage}-frozen-flow" if frozen_flow else stage)
    trained = train(model, Feed(draws, steps), losses, plan, folder, watch=_tell, say=app.console.print)
    match trained:
        case MatchingFlow():
            torch.save(trained.state_dict(), out / "flow.pt")
        case VideoDetector() if stage == "detector":
            torch.save(trained.detector.state_dict(), out / "detector.pt")
        case VideoDetector():
            save_native(trained, folder / "lite.safetensors", torch.float16)


def _drawn() -> SyntheticClips:
    return SyntheticClips(VID_CLASSES, _CROWDED, restyle=RestyleConfig())


def _partly_frozen(config: SystemConfig, stages: int) -> SystemConfig:
    return replace(config, backbone=EfficientNetLite0Config(frozen_stages=stages))


def _flow_net(system: VideoDetector) -> MatchingFlow:
    assert isinstance(system.flow_net, MatchingFlow)
    return system.flow_net


def _load(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return weights


def _tell(report: Report) -> None:
    if report.step % _REPORTS == 0:
        app.console.print(f"step {report.step} of {report.steps}, loss {report.loss:.3f}")


if __name__ == "__main__":
    app()
