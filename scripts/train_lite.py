"""Trains the small systems (single-lite, dff-lite, fgfa-lite), which share their weights, in seven stages; then SELSA.

flow         the flow net, on clips whose flow is known exactly
detector     backbone, neck and heads, on single frames
styles       the same, on more objects a frame, their drawings in other styles and, from here on, those of --drawings
styles-again the same once more, from a lower learning rate
more         the same, longer
together     all of it, for the three methods at once; writes lite.safetensors
frozen-flow  as together but for the flow net, which stays as it is, and shorter; for comparison
selsa        the RoI head with SELSA's attention, from the weights of together or --start; writes selsa-lite.safetensors
roi-head     the RoI head alone on the same clips, for comparison with selsa; writes single-lite.safetensors

Without the name of a stage all of them run; what is finished is not done again, and what was interrupted goes on.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter
from lite_clips.clip import FlowClip, to_clip_batch
from lite_clips.drawings import SyntheticClips
from lite_clips.moving_stills import MovingStills, MovingStillsConfig
from lite_clips.restyle import RestyleConfig
from lite_clips.stills import read_stills
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from flowdet.class_names import VID_CLASSES
from flowdet.data.augmentation import recoloured
from flowdet.data.synthetic.assets import Picture
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import FasterRCNNConfig
from flowdet.flow.matching import MatchingFlow
from flowdet.inputs import FEATURE_STRIDE
from flowdet.ops.boxes import choose_randomly
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.systems.recipes import fgfa_lite, selsa_lite, single_lite
from flowdet.temporal.base import MethodParts
from flowdet.temporal.dff import DFFConfig
from flowdet.training.feed import to_inputs
from flowdet.training.loop import TrainingTask, train
from flowdet.training.plan import REFERENCE_BATCH, Plan, lite_plan
from flowdet.training.records import TrainingProgress
from flowdet.types import FrameFeatures, Geometry, Maps, RoIs
from flowdet.weights.native import read_system, save_native, start_from
from flowdet.weights.pretrained import load_imagenet_weights

app = App(help=__doc__)

_REPORTS = 100
_MATCH_SHARE = 0.1
_EARLIER = 0.7
_FLOW_SHARE = 0.3
# More objects than the benchmark has, so that a step teaches more.
_CROWDED = SyntheticConfig(objects=(0.1, 0.2, 0.2, 0.2, 0.15, 0.15), same_class=0.2)
_WIDE = MovingStillsConfig(size=(288, 512))


@dataclass(frozen=True)
class Sources:
    """The pictures to train on.

    Attributes:
        coco: COCO annotations of photographs.
        images: Folder of the photographs.
        backgrounds: Folders of photographs without labels.
        drawings: Folder that `gather_drawings.py` has written, with more drawings than the package has.
    """

    coco: Path
    images: Path
    backgrounds: tuple[Path, ...] = ()
    drawings: Path | None = None

    def stills(self, config: MovingStillsConfig) -> MovingStills:
        """Returns the clips of photographs."""
        pictures = [path for folder in self.backgrounds for path in sorted(folder.rglob("*.jpg"))]
        return MovingStills(read_stills(self.coco, self.images, VID_CLASSES), pictures, config)

    def more_drawings(self) -> dict[str, list[Picture]]:
        """Returns more drawings by class; their files are named FAMILY/CLASS__NAME.png."""
        found: dict[str, list[Picture]] = {}
        for path in sorted(self.drawings.glob("*/*.png")) if self.drawings else ():
            name = path.name.partition("__")[0]
            found.setdefault(name, []).append(Picture(f"{name}/{path.parent.name}/{path.name}", path.read_bytes()))
        return found


@dataclass
class Draws(IterableDataset[list[FlowClip]]):
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

    def __iter__(self) -> Iterator[list[FlowClip]]:
        for step in count(self.first):
            rng = np.random.default_rng([self.seed, step])
            is_photograph = rng.random() < self.stills_share
            source = self.stills if is_photograph else self.synthetic
            yield [_in_other_colours(source.draw(rng, self.references), rng) for _ in range(self.clips[is_photograph])]


def _in_other_colours(clip: FlowClip, rng: np.random.Generator) -> FlowClip:
    brightness, contrast = rng.uniform(0.7, 1.3, 2)
    frames = torch.stack([recoloured(frame, brightness, contrast, rng.uniform(0.2, 1.6)) for frame in clip.frames])
    return replace(clip, frames=frames)


@dataclass(frozen=True)
class Feed:
    """The draws, read ahead by one process; the whole training is one epoch."""

    draws: Draws
    steps_per_epoch: int

    def __call__(self, first_step: int) -> Generator[tuple[list[FlowClip]], None, None]:
        """Yields one batch a step."""
        # A generator of its own, so that starting the process does not move torch's global one.
        own = torch.Generator()
        draws = replace(self.draws, first=first_step)
        return ((batch,) for batch in DataLoader(draws, None, num_workers=1, prefetch_factor=4, generator=own))


def flow_losses(model: nn.Module, clips: list[FlowClip]) -> dict[str, Tensor]:
    """Returns the losses of the flow net on the first reference frame.

    They are the cross-entropy of the true match, and the error of each flow relative to the clip's mean motion plus one
    pixel.
    """
    assert isinstance(model, MatchingFlow)
    frames = torch.stack([clip.frames[:2] for clip in clips], dim=1)
    truth = torch.stack([clip.flows[0] for clip in clips])
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
    """Returns the cross-entropy of the place where each cell went, over cells still in the frame; flow in cells."""
    height, width = flow.shape[2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    column, row = (finer * (x + flow[:, 0])).floor().long(), (finer * (y + flow[:, 1])).floor().long()
    inside = (column >= 0) & (column < finer * width) & (row >= 0) & (row < finer * height)
    place = torch.where(inside, row * finer * width + column, -1)
    return F.cross_entropy(similarity.transpose(1, 2), place.flatten(1), ignore_index=-1)


def detection_losses(model: nn.Module, clips: list[FlowClip]) -> dict[str, Tensor]:
    """Returns the losses of the detector on single frames."""
    assert isinstance(model, VideoDetector)
    return model.losses(to_clip_batch(clips, model.config.inputs))


@dataclass(frozen=True)
class _Extracted:
    """A detector that has extracted its maps already."""

    maps: Maps

    def extract(self, images: Tensor) -> Maps:
        """Returns the maps."""
        del images
        return self.maps

    def rois(self, maps: Maps, geometries: Sequence[Geometry]) -> RoIs:
        """Raises: DFF and FGFA need no proposals."""
        raise NotImplementedError


def joint_losses(model: nn.Module, clips: list[FlowClip]) -> dict[str, Tensor]:
    """Returns the losses of the heads on the features of all three methods, which share the backbone's features.

    The losses of the flow net are added, so that it keeps its knowledge of flow.
    """
    assert isinstance(model, VideoDetector)
    assert model.flow_net
    batch = to_clip_batch(clips, model.config.inputs)
    images = torch.cat([inputs.images for inputs in (batch.current, *batch.references)])
    (features,) = model.detector.extract(images)
    single, reference, *_ = features.chunk(1 + len(batch.references))
    dff = DFFConfig().build(MethodParts(_Extracted((reference,)), model.flow_net))
    fgfa = model.config.method.build(MethodParts(_Extracted((features,)), model.flow_net, model.method_modules))
    (carried,) = dff.training_features(replace(batch, references=batch.references[:1])).maps
    (aggregated,) = fgfa.training_features(batch).maps
    every = FrameFeatures(0, (torch.cat((single, carried, aggregated)),), batch.current.geometries * 3)
    targets = batch.targets * 3
    losses = model.detector.losses(every, targets, (choose_randomly,) * len(targets))
    flow = flow_losses(model.flow_net, clips)
    return losses | {name: _FLOW_SHARE * value for name, value in flow.items()}


@dataclass(frozen=True)
class Stage:
    """The settings of a stage.

    Attributes:
        losses: Returns the losses of a batch of clips.
        references: Number of reference frames of a clip.
        steps: Number of steps.
        clips: Clips a step, of drawings and of photographs, which are larger.
        rate: Learning rate.
        stills_share: Share of the steps on photographs.
        drawn: Parameters of the clips of drawings.
        moving: Parameters of the clips of photographs.
        frozen_stages: Number of frozen stages of the backbone.
        seed: Seed of all random draws.
    """

    losses: Callable[[nn.Module, list[FlowClip]], dict[str, Tensor]]
    references: int
    steps: int
    clips: tuple[int, int]
    rate: float
    stills_share: float = 0.35
    drawn: SyntheticConfig = _CROWDED
    moving: MovingStillsConfig = _WIDE
    frozen_stages: int = 3
    seed: int = 0

    def plan(self) -> Plan:
        """Returns the plan for the training loop."""
        return replace(
            lite_plan(),
            epochs=1,
            batch=self.clips[0],
            clips_per_device=self.clips[0],
            learning_rate=self.rate * REFERENCE_BATCH / self.clips[0],
            backbone_factor=0.3,
            seed=self.seed,
        )


_SMALL = MovingStillsConfig(size=(192, 320), background_share=0.7, speed=4.0, zoom=(1.0, 2.2))
_STAGES = {
    "flow": Stage(flow_losses, 1, 800, (8, 8), 1e-3, 0.3, drawn=SyntheticConfig(), moving=_SMALL),
    "detector": Stage(detection_losses, 0, 2000, (12, 5), 1e-3, 0.3, drawn=SyntheticConfig(), frozen_stages=1),
    "styles": Stage(detection_losses, 0, 1700, (12, 5), 7e-4, seed=2),
    "styles-again": Stage(detection_losses, 0, 800, (12, 5), 5e-4, seed=4),
    "more": Stage(detection_losses, 0, 2500, (12, 5), 7e-4, seed=5),
    "together": Stage(joint_losses, 2, 600, (8, 3), 3e-4, seed=3),
    "frozen-flow": Stage(joint_losses, 2, 300, (8, 3), 3e-4, seed=3),
    "selsa": Stage(detection_losses, 2, 1000, (8, 3), 5e-4, seed=6),
    "roi-head": Stage(detection_losses, 2, 1000, (8, 3), 5e-4, seed=6),
}
_OF_THE_ROI_HEAD = {"selsa": selsa_lite, "roi-head": single_lite}


@app.default
def main(
    *stages: str,
    sources: Annotated[Sources, Parameter(name="*")],
    out: Path,
    start: Path | None = None,
    threads: int = 2,
) -> None:
    """Trains.

    Args:
        stages: The stages to run. [default: all]
        sources: The photographs.
        out: Folder of the run, of all stages.
        start: Weight file whose detector `styles`, `more`, `selsa` or `roi-head` goes on from, in place of that of the
            stage before.
        threads: Number of threads of PyTorch; one more process draws the clips.
    """
    torch.set_num_threads(threads)
    for name in stages or _STAGES:
        if name not in _STAGES:
            raise SystemExit(f"there is no stage {name!r}; the stages are {', '.join(_STAGES)}")
        _run(name, sources, out, start)


def _run(name: str, sources: Sources, out: Path, start: Path | None) -> None:
    stage = _STAGES[name]
    torch.manual_seed(stage.seed)
    restyle = RestyleConfig() if stage.drawn is _CROWDED else None
    draws = Draws(
        SyntheticClips(VID_CLASSES, stage.drawn, restyle=restyle, more=sources.more_drawings() if restyle else None),
        sources.stills(stage.moving),
        stage.stills_share,
        stage.references,
        stage.clips,
        stage.seed,
    )
    model = _model(name, stage, out, start)
    feed = Feed(draws, stage.steps)
    task = TrainingTask(model, feed, stage.losses)
    trained = train(task, stage.plan(), out / name, watch=_tell, say=app.console.print)
    torch.save(trained.state_dict(), out / name / "weights.pt")
    if name in {"together", "frozen-flow"}:
        system = build(fgfa_lite())
        system.load_state_dict(trained.state_dict())
        save_native(system, out / name / "lite.safetensors", torch.float16)
    if name in _OF_THE_ROI_HEAD:
        assert isinstance(trained, VideoDetector)
        save_native(trained, out / name / f"{trained.config.name}.safetensors", torch.float16)


def _model(name: str, stage: Stage, out: Path, start: Path | None) -> nn.Module:
    """Returns the model at the start of the stage."""
    if name in _OF_THE_ROI_HEAD:
        return _with_trained_head(start or out / "together" / "lite.safetensors", _OF_THE_ROI_HEAD[name]())
    system = build(_partly_frozen(fgfa_lite() if stage.references else single_lite(), stage.frozen_stages))
    match name:
        case "flow":
            return _flow_net(system)
        case "detector":
            load_imagenet_weights(system.detector.backbone)
        case "styles" | "more" if start:
            system.load_state_dict(read_system(start, single_lite()).state_dict())
        case "styles" | "styles-again" | "more":
            before = {after: earlier for earlier, after in pairwise(_STAGES)}
            system.load_state_dict(_load(out / before[name]))
        case _:
            system.load_state_dict(system.state_dict() | _load(out / "more"))
            flow_net = _flow_net(system)
            flow_net.load_state_dict(_load(out / "flow"))
            flow_net.requires_grad_(name == "together")
    return system


def _with_trained_head(start: Path, config: SystemConfig) -> VideoDetector:
    system = start_from(start, config).system.requires_grad_(requires_grad=False)
    system.detector.get_submodule("roi_head").requires_grad_(requires_grad=True)
    return system


def _partly_frozen(config: SystemConfig, stages: int) -> SystemConfig:
    assert isinstance(config.detector, FasterRCNNConfig)
    backbone = EfficientNetLite0Config(frozen_stages=stages)
    return replace(config, detector=replace(config.detector, backbone=backbone))


def _flow_net(system: VideoDetector) -> MatchingFlow:
    assert isinstance(system.flow_net, MatchingFlow)
    return system.flow_net


def _load(stage: Path) -> dict[str, Any]:
    """Returns the weights that a stage has written."""
    weights: dict[str, Any] = torch.load(stage / "weights.pt", weights_only=True)
    return weights


def _tell(progress: TrainingProgress) -> None:
    if progress.step % _REPORTS == 0:
        app.console.print(f"{progress}")


if __name__ == "__main__":
    app()
