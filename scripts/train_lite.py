"""Trains fgfa-lite from still pictures, in three stages that can be run one by one.

flow      the flow net, on clips whose flow is known exactly
detector  backbone, neck and heads, on single frames
together  all of it, on clips with two references

The commands that made the shipped weights are in docs/fgfa-lite.md.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import App, Parameter
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.build import build
from flowdet.checkpoint import save_native
from flowdet.data.coco import read_stills
from flowdet.data.moving_stills import MovingStills, MovingStillsConfig, StillClip
from flowdet.models.flownet import PIXELS_PER_UNIT, FlowNetS
from flowdet.recipes import VID_CLASSES, fgfa_lite, single_lite
from flowdet.system import VideoDetector
from flowdet.training.clips import clip_batches, to_clip_batch, to_inputs
from flowdet.training.loop import train
from flowdet.training.plan import REFERENCE_BATCH, lite_plan
from flowdet.training.pretrained import load_imagenet_weights

app = App(help=__doc__)
Stage = Literal["flow", "detector", "together"]

_FLOW_SCALE_WEIGHTS = (1.0, 0.5, 0.25, 0.12, 0.06)


@dataclass(frozen=True)
class Sources:
    """Where the pictures are: a COCO file, its images, and folders with unlabelled backgrounds."""

    coco: Path
    images: Path
    backgrounds: tuple[Path, ...] = ()

    def stills(self, config: MovingStillsConfig) -> MovingStills:
        """Everything read."""
        pictures = [path for folder in self.backgrounds for path in sorted(folder.rglob("*.jpg"))]
        return MovingStills(read_stills(self.coco, self.images, VID_CLASSES), pictures, config)


@dataclass(frozen=True)
class Draws:
    """Batches of clips drawn at random; there is no end to them, so the whole training is one epoch."""

    stills: MovingStills
    references: int
    clips: int
    seed: int
    steps_per_epoch: int

    def __call__(self, first_step: int) -> Generator[tuple[list[StillClip]], None, None]:
        """One batch a step."""
        batches = clip_batches(self.stills, first_step, references=self.references, clips=self.clips, seed=self.seed)
        return ((batch,) for batch in batches)


def flow_losses(model: nn.Module, clips: list[StillClip]) -> dict[str, Tensor]:
    """End-point error at five scales (FlowNet, section 4), relative to the clip's mean motion plus one pixel."""
    assert isinstance(model, FlowNetS)
    frames = torch.stack([clip.frames for clip in clips], dim=1)
    truth = torch.cat([clip.flows for clip in clips]) / PIXELS_PER_UNIT
    size = (truth.square().sum(dim=1).sqrt().mean(dim=(1, 2)) + 1 / PIXELS_PER_UNIT)[:, None, None]
    config = fgfa_lite().inputs
    flows = model.predict(*(model.prepare(to_inputs(frame, config)) for frame in frames))
    losses = {}
    for scale, (flow, weight) in enumerate(zip(flows, _FLOW_SCALE_WEIGHTS, strict=True)):
        wanted = F.adaptive_avg_pool2d(truth, flow.shape[-2:])
        errors = ((flow - wanted).square().sum(dim=1) + 1e-8).sqrt()
        losses[f"flow{scale}"] = weight * (errors / size).mean()
    return losses


def detection_losses(model: nn.Module, clips: list[StillClip]) -> dict[str, Tensor]:
    """The losses of the detector on the features of its method."""
    assert isinstance(model, VideoDetector)
    return model.losses(to_clip_batch(clips, model.config.inputs))


@app.default
def main(
    stage: Stage,
    sources: Annotated[Sources, Parameter(name="*")],
    *,
    out: Path,
    steps: int,
    clips: int = 4,
    rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Runs one stage; the last one writes fgfa-lite.safetensors."""
    torch.manual_seed(seed)
    plan = replace(
        lite_plan(),
        epochs=1,
        batch=clips,
        clips_per_device=clips,
        learning_rate=rate * REFERENCE_BATCH / clips,
        warm_up_steps=min(lite_plan().warm_up_steps, steps // 2),
        seed=seed,
    )
    match stage:
        case "flow":
            stills = sources.stills(MovingStillsConfig(background_share=0.7, speed=4.0, reach=5, zoom=(1.0, 2.2)))
            draws = Draws(stills, 1, clips, seed, steps)
            flow_net = build(fgfa_lite()).flow_net
            assert flow_net
            trained = train(flow_net, draws, flow_losses, plan, out / stage)
            torch.save(trained.state_dict(), out / "flow_net.pt")
        case "detector":
            system = build(single_lite())
            load_imagenet_weights(system.detector.backbone)
            stills = sources.stills(MovingStillsConfig())
            draws = Draws(stills, 0, clips, seed, steps)
            trained = train(system, draws, detection_losses, plan, out / stage)
            torch.save(trained.detector.state_dict(), out / "detector.pt")
        case "together":
            system = build(fgfa_lite())
            assert system.flow_net
            system.detector.load_state_dict(torch.load(out / "detector.pt", weights_only=True))
            system.flow_net.load_state_dict(torch.load(out / "flow_net.pt", weights_only=True))
            stills = sources.stills(MovingStillsConfig())
            draws = Draws(stills, 2, clips, seed, steps)
            trained = train(system, draws, detection_losses, plan, out / stage)
            assert isinstance(trained, VideoDetector)
            save_native(trained, out / "fgfa-lite.safetensors", torch.float16)


if __name__ == "__main__":
    app()
