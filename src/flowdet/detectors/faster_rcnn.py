"""Faster R-CNN (Ren et al., NeurIPS 2015) on one map of stride 16, as in the published DFF and FGFA."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.detectors.base import (
    Computed,
    Detector,
    DetectorConfig,
    Found,
    RoIAttention,
    Run,
    shallow_copy,
)
from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.necks import ConvNeck, ConvNeckConfig, MergeNeck, MergeNeckConfig
from flowdet.detectors.resnet import ResNetConfig
from flowdet.errors import ConfigError, check_positive
from flowdet.inputs import FEATURE_STRIDE
from flowdet.ops.boxes import Chooser, assign, best_apart, clamp, decode, encode, sample
from flowdet.ops.devices import constant, full_precision
from flowdet.ops.sampling import roi_align
from flowdet.types import FrameFeatures, Geometry, Maps, RoIs, Targets

__all__ = [
    "RPN",
    "BackboneConfig",
    "FasterRCNN",
    "FasterRCNNConfig",
    "NeckConfig",
    "RPNConfig",
    "RoIHead",
    "RoIHeadConfig",
    "anchors",
    "propose",
]

BackboneConfig = ResNetConfig | EfficientNetLite0Config
NeckConfig = ConvNeckConfig | MergeNeckConfig

_ANCHOR_STDS = (1.0, 1.0, 1.0, 1.0)
_ROI_STDS = (0.2, 0.2, 0.2, 0.2)
_SMOOTH_L1_BETA = 1 / 9


@dataclass(frozen=True)
class RPNConfig:
    """Anchors, and how many proposals are kept; the defaults are those of the published FGFA.

    Attributes:
        channels: Width of the 3x3 convolution.
        scales: Sides of the square anchors in cells.
        ratios: Heights over widths of the anchors.
        pre_nms_top_n: Best-scored anchors that enter the non-maximum suppression.
        post_nms_top_n: Proposals kept after it, at test.
        training_post_nms_top_n: Proposals kept after it, in training.
        nms_iou: IoU above which the weaker of two proposals goes.
        sampled: Anchors an image in the loss, at most half of them positive.
    """

    channels: int = 512
    scales: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    pre_nms_top_n: int = 6000
    post_nms_top_n: int = 300
    training_post_nms_top_n: int = 600
    nms_iou: float = 0.7
    sampled: int = 256

    def __post_init__(self) -> None:
        check_positive(self, "channels", "pre_nms_top_n", "post_nms_top_n", "training_post_nms_top_n", "sampled")
        if not self.scales or not self.ratios or min(*self.scales, *self.ratios) <= 0:
            raise ConfigError(f"anchors need scales and ratios above 0, not {self.scales} and {self.ratios}")


@dataclass(frozen=True)
class RoIHeadConfig:
    """The second stage and what it keeps; the defaults are those of the published FGFA.

    Attributes:
        bins: Bins along each side of an RoI, to which its features are pooled.
        layers: The number of shared layers.
        hidden: Their width.
        class_specific_boxes: One set of box deltas for each class, or one for all.
        score_threshold: Detections below it are dropped.
        nms_iou: IoU above which the weaker of two detections of one class goes.
        class_agnostic_nms: Whether detections of different classes suppress each other, too.
        max_detections: Detections kept an image.
        sampled: RoIs an image in the loss, at most a quarter of them positive.
    """

    bins: int = 7
    hidden: int = 1024
    class_specific_boxes: bool = True
    score_threshold: float = 1e-4
    nms_iou: float = 0.5
    class_agnostic_nms: bool = False
    max_detections: int = 100
    sampled: int = 256
    layers: int = 2

    def __post_init__(self) -> None:
        check_positive(self, "bins", "layers", "hidden", "max_detections", "sampled")


@dataclass(frozen=True)
class FasterRCNNConfig(DetectorConfig):
    """Backbone, neck and both stages of the heads."""

    backbone: BackboneConfig
    neck: NeckConfig
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi_head: RoIHeadConfig = field(default_factory=RoIHeadConfig)

    def build(self, classes: int, attention: Callable[[Sequence[int]], RoIAttention] | None = None) -> "FasterRCNN":
        """Returns the detector with random weights; see `DetectorConfig.build`."""
        backbone = self.backbone.build()
        neck = _neck(self.neck, backbone.channels)
        channels, hidden = self.neck.channels, self.roi_head.hidden
        attending = attention((channels,) + (hidden,) * self.roi_head.layers) if attention else None
        roi_head = RoIHead(self.roi_head, channels, classes, attending)
        return FasterRCNN(self, backbone, neck, RPN(self.rpn, channels), roi_head)

    def with_agnostic_nms(self) -> "FasterRCNNConfig":
        """Returns the detector in which detections of different classes suppress each other, too."""
        return replace(self, roi_head=replace(self.roi_head, class_agnostic_nms=True))

    @property
    def label(self) -> str:
        """The backbone, as mmtracking's tables write it."""
        return self.backbone.label

    @property
    def is_lite(self) -> bool:
        """Whether the backbone is a small one."""
        return self.backbone.is_lite

    @property
    def has_wide_maps(self) -> bool:
        """Whether the backbone is a large one."""
        return not self.backbone.is_lite

    @property
    def classifier(self) -> Mapping[str, int]:
        """The class logits, and the box deltas if each class has its own."""
        return {"roi_head.classes": 1} | ({"roi_head.deltas": 4} if self.roi_head.class_specific_boxes else {})


def _neck(config: NeckConfig, channels: tuple[int, ...]) -> ConvNeck | MergeNeck:
    match config:
        case ConvNeckConfig():
            return ConvNeck(config, channels)
        case MergeNeckConfig():
            return MergeNeck(config, channels)
        case _:
            assert_never(config)


class RPN(nn.Module):
    """The layers of the region proposal network (section 3.1)."""

    def __init__(self, config: RPNConfig, channels: int) -> None:
        super().__init__()
        count = len(config.scales) * len(config.ratios)
        self.conv = nn.Conv2d(channels, config.channels, 3, padding=1)
        self.objectness = nn.Conv2d(config.channels, count, 1)
        self.deltas = nn.Conv2d(config.channels, count * 4, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [b, a, h, w] and deltas [b, 4 a, h, w] of the a anchors of each cell of maps [b, c, h, w]."""
        x = F.relu(self.conv(maps))
        return self.objectness(x), self.deltas(x)


class RoIHead(nn.Module):
    """The layers of the second stage: the shared ones, "fc1" and so on, then class scores and box deltas.

    Args:
        config: The second stage.
        channels: The number of channels of the map.
        classes: The number of classes.
        attention: What a RoI-level method adds after each shared layer; None for map-level methods.
    """

    def __init__(
        self, config: RoIHeadConfig, channels: int, classes: int, attention: RoIAttention | None = None
    ) -> None:
        super().__init__()
        widths = [channels * config.bins**2, *[config.hidden] * config.layers]
        for number, (inputs, outputs) in enumerate(pairwise(widths), 1):
            self.add_module(f"fc{number}", nn.Linear(inputs, outputs))
        self._names = [f"fc{number + 1}" for number in range(config.layers)]
        self.classes = nn.Linear(config.hidden, classes + 1)
        self.deltas = nn.Linear(config.hidden, 4 * (classes if config.class_specific_boxes else 1))
        self.attention = attention
        for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [n, classes + 1], background last, and box deltas [n, classes or 1, 4].

        Args:
            pooled: [n, c, bins, bins] RoI features.
        """
        return self._predict(F.relu(self.layers(pooled)[-1]))

    def layers(self, pooled: Tensor) -> list[Tensor]:
        """Returns what the shared layers make of RoI features without attention, [n, hidden] each, not activated."""
        found: list[Tensor] = []
        for layer in self._shared:
            found.append(layer(F.relu(found[-1]) if found else pooled.flatten(1)))
        return found

    def attend(self, rois: RoIs, maps: Maps, support: object) -> tuple[Tensor, Tensor]:
        """As `forward`, with the attention to the support before the shared layers and after each, see there."""
        assert self.attention is not None
        pooled, proposals = rois.pooled[rois.mask], rois.proposals
        counts = [len(boxes) for boxes in proposals]
        x = self.attention.pool(pooled, proposals, maps, support)
        for number, layer in enumerate(self._shared):
            x = rois.layers[0][rois.mask] if x is pooled else layer(x.flatten(1))
            x = F.relu(self.attention.attend(number, x, rois.memory[number][rois.mask], counts, support))
        return self._predict(x)

    def attended(self, pooled: Tensor, boxes: Tensor, own: RoIs, maps: Maps, support: object) -> Tensor:
        """Returns how much RoIs of one image attend to others, see `RoIAttention.weights`.

        Args:
            pooled: [n, c, bins, bins] RoI features.
            boxes: [n, 4] xyxy px, network input.
            own: The proposals of the image.
            maps: Its maps.
            support: What the RoIs of the image attend to.
        """
        assert self.attention is not None
        x = self._shared[0](self.attention.pool(pooled, [boxes], maps, support).flatten(1))
        return self.attention.weights(x, own.memory[0][own.mask], support)

    @property
    def _shared(self) -> list[nn.Module]:
        return [self.get_submodule(name) for name in self._names]

    def _predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.classes(hidden), self.deltas(hidden).unflatten(1, (-1, 4))


class FasterRCNN(Detector):
    """Backbone and neck extract the map; RPN and RoI head find objects in it."""

    strides = (FEATURE_STRIDE,)

    def __init__(
        self, config: FasterRCNNConfig, backbone: nn.Module, neck: nn.Module, rpn: nn.Module, roi_head: RoIHead
    ) -> None:
        super().__init__()
        self.config = config
        self.channels = (config.neck.channels,)
        self.classes = roi_head.classes.out_features - 1
        self.attention = roi_head.attention is not None
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.roi_head: nn.Module = roi_head

    def extract(self, images: Tensor) -> Maps:
        """Returns the one map [b, c, H / 16, W / 16]."""
        return (self.neck(self.backbone(images)),)

    def detect(self, features: FrameFeatures, score: float = 0.0) -> list[Found]:
        """Returns the detections of each image that have at least this score."""
        if features.rois is None:
            proposals = self._propose(features.maps, features.geometries, self.config.rpn.post_nms_top_n)
        else:
            proposals = features.rois.proposals
        logits, deltas = self._classify(features, proposals, features.rois)
        counts = [len(boxes) for boxes in proposals]
        rows = zip(logits.split(counts), deltas.split(counts), proposals, features.geometries, strict=True)
        return [_detections(self.config.roi_head, *parts, score=score) for parts in rows]

    def losses(
        self, features: FrameFeatures, targets: Sequence[Targets], choosers: Sequence[Chooser]
    ) -> dict[str, Tensor]:
        """Returns the four losses of Faster R-CNN."""
        (maps,) = features.maps
        config, geometries = self.config, features.geometries
        objectness, deltas = map(full_precision, self.rpn(maps))
        losses = _rpn_losses(config.rpn, objectness, deltas, geometries, targets=targets, choosers=choosers)
        proposals = propose(config.rpn, objectness, deltas, geometries, config.rpn.training_post_nms_top_n)
        batch = _sample_rois(config.roi_head, proposals, targets, choosers, background=self.classes)
        logits, moves = self._classify(features, batch.rois)
        return losses | _roi_losses(config.roi_head, logits, moves, batch, background=self.classes)

    def rois(self, maps: Maps, geometries: Sequence[Geometry]) -> RoIs:
        """Returns the proposals at test, and their features."""
        return self._rois_of(maps, self._propose(maps, geometries, self.config.rpn.post_nms_top_n))

    def attended(self, features: FrameFeatures, boxes: Tensor) -> Tensor:
        """Returns how much boxes of the original image attend to the RoIs of other frames."""
        assert isinstance(self.roi_head, RoIHead)
        assert features.rois is not None
        x, y = features.geometries[0].scale
        rois = boxes * constant((x, y, x, y), boxes.dtype, boxes.device)
        pooled = self._pool(features.maps, [rois])
        return self.roi_head.attended(pooled, rois, features.rois, features.maps, features.support)

    def parts(self) -> dict[str, nn.Module]:
        """Returns "features" (backbone and neck), "rpn", and "roi_head" unless it attends to support."""
        parts = {"features": nn.Sequential(self.backbone, self.neck), "rpn": self.rpn}
        return parts if self.attention else {**parts, "roi_head": self.roi_head}

    def with_parts(self, runs: Mapping[str, Run]) -> "FasterRCNN":
        """Returns the same detector, in which these functions compute the parts of these names."""
        other = shallow_copy(self)
        if "features" in runs:
            other.backbone, other.neck = Computed(runs["features"]), nn.Identity()
        for name in runs.keys() & {"rpn", "roi_head"}:
            setattr(other, name, Computed(runs[name]))
        return other

    def _propose(self, maps: Maps, geometries: Sequence[Geometry], count: int) -> list[Tensor]:
        objectness, deltas = map(full_precision, self.rpn(*maps))
        return propose(self.config.rpn, objectness, deltas, geometries, count)

    def _pool(self, maps: Maps, boxes: Sequence[Tensor]) -> Tensor:
        return roi_align(maps[0], boxes, self.config.roi_head.bins, FEATURE_STRIDE)

    def _rois_of(self, maps: Maps, boxes: Sequence[Tensor]) -> RoIs:
        head, counts, pooled = self.roi_head, [len(of_image) for of_image in boxes], self._pool(maps, boxes)
        assert isinstance(head, RoIHead)
        layers, attention = head.layers(pooled), head.attention
        memory = [attention.remember(number, layer) for number, layer in enumerate(layers)] if attention else []

        def filled(rows: Tensor) -> Tensor:
            return nn.utils.rnn.pad_sequence(list(rows.split(counts)), batch_first=True)

        places = torch.arange(max(counts), device=pooled.device)
        return RoIs(
            boxes=filled(torch.cat(list(boxes))),
            mask=places < places.new_tensor(counts)[:, None],
            pooled=filled(pooled),
            layers=tuple(map(filled, layers)),
            memory=tuple(map(filled, memory)),
        )

    def _classify(
        self, features: FrameFeatures, boxes: Sequence[Tensor], rois: RoIs | None = None
    ) -> tuple[Tensor, Tensor]:
        head = self.roi_head
        if isinstance(head, RoIHead) and head.attention and features.support is not None:
            rois = rois or self._rois_of(features.maps, boxes)
            logits, deltas = head.attend(rois, features.maps, features.support)
        else:
            logits, deltas = head(self._pool(features.maps, boxes))
        return full_precision(logits), full_precision(deltas)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # training may use what detection has made
def anchors(config: RPNConfig, height: int, width: int, device: torch.device) -> Tensor:
    """Returns anchors [height * width * a, 4] xyxy px, network input; cell (j, i) has its centre at (16 j, 16 i)."""
    ratios = torch.tensor(config.ratios, dtype=torch.float32, device=device).sqrt()[:, None]
    side = torch.tensor(config.scales, dtype=torch.float32, device=device) * FEATURE_STRIDE
    half = torch.stack(((side / ratios).flatten(), (side * ratios).flatten()), dim=1) / 2
    y, x = torch.meshgrid(
        torch.arange(height, device=device) * FEATURE_STRIDE,
        torch.arange(width, device=device) * FEATURE_STRIDE,
        indexing="ij",
    )
    centres = torch.stack((x, y), dim=-1).reshape(-1, 1, 2)
    return torch.cat((centres - half, centres + half), dim=-1).reshape(-1, 4)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)
def _inner_anchors(config: RPNConfig, cells: torch.Size, valid: tuple[int, int], device: torch.device) -> Tensor:
    """The numbers of the anchors that lie within an image."""
    boxes = anchors(config, *cells, device)
    limit = torch.tensor([valid[1], valid[0]], dtype=boxes.dtype, device=device)
    return ((boxes[:, :2] >= 0) & (boxes[:, 2:] < limit)).all(dim=1).nonzero().flatten()


@torch.no_grad()
def propose(
    config: RPNConfig, objectness: Tensor, deltas: Tensor, geometries: Sequence[Geometry], count: int
) -> list[Tensor]:
    """Returns at most `count` proposals of each image, [n, 4] xyxy px, network input, best first.

    Args:
        config: The RPN's.
        objectness: [b, a, h, w] logits.
        deltas: [b, 4 a, h, w].
        geometries: Where the images lie in the network input.
        count: The most to keep of each image.
    """
    all_anchors = anchors(config, objectness.shape[-2], objectness.shape[-1], objectness.device)
    proposals = []
    for logits, moves, geometry in zip(_by_anchor(objectness, 1), _by_anchor(deltas, 4), geometries, strict=True):
        scores = logits.flatten().sigmoid()
        scores, order = scores.sort(descending=True)
        order = order[: config.pre_nms_top_n]
        boxes = clamp(decode(all_anchors[order], moves[order, None], _ANCHOR_STDS)[:, 0], geometry.valid)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        kept = best_apart(boxes, scores[: config.pre_nms_top_n], config.nms_iou, count, valid=solid)
        proposals.append(boxes[kept])
    return proposals


def _by_anchor(maps: Tensor, values: int) -> Tensor:
    """[b, a * values, h, w] to [b, h * w * a, values]."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, values)


def _rpn_losses(
    config: RPNConfig,
    objectness: Tensor,
    deltas: Tensor,
    geometries: Sequence[Geometry],
    *,
    targets: Sequence[Targets],
    choosers: Sequence[Chooser],
) -> dict[str, Tensor]:
    """Cross-entropy of the objectness and smooth L1 of the deltas over an image's sampled anchors."""
    all_anchors = anchors(config, objectness.shape[-2], objectness.shape[-1], objectness.device)
    objectness_losses, delta_losses = [], []
    for logits, moves, geometry, target, choose in zip(
        _by_anchor(objectness, 1), _by_anchor(deltas, 4), geometries, targets, choosers, strict=True
    ):
        inside = _inner_anchors(config, objectness.shape[-2:], geometry.valid, objectness.device)
        inner = all_anchors[inside]
        matches = assign(inner, target.boxes, positive=0.7, negative=0.3, weakest_positive=0.3)
        chosen = sample(matches, config.sampled, 0.5, choose)
        scores = logits[inside].flatten()
        picked = torch.cat((scores[chosen.positives], scores[chosen.negatives]))
        truth = torch.zeros_like(picked)
        truth[: len(chosen.positives)] = 1
        count = max(len(picked), 1)
        objectness_losses.append(F.binary_cross_entropy_with_logits(picked, truth, reduction="sum") / count)
        boxes = target.boxes[matches[chosen.positives]]
        wanted = encode(inner[chosen.positives], boxes, _ANCHOR_STDS)
        moved = moves[inside][chosen.positives]
        delta_losses.append(F.smooth_l1_loss(moved, wanted, beta=_SMOOTH_L1_BETA, reduction="sum") / count)
    return {"rpn_objectness": torch.stack(objectness_losses).mean(), "rpn_boxes": torch.stack(delta_losses).mean()}


@torch.no_grad()
def _detections(
    config: RoIHeadConfig, logits: Tensor, deltas: Tensor, boxes: Tensor, geometry: Geometry, *, score: float = 0.0
) -> Found:
    scores = logits.softmax(dim=1)[:, :-1]
    x, y = geometry.scale
    scale = constant((x, y, x, y), boxes.dtype, boxes.device)
    moved = clamp(decode(boxes, deltas, _ROI_STDS), geometry.valid) / scale
    if boxes.device.type == "cpu":
        rois, labels = ((scores > config.score_threshold) & (scores >= score)).nonzero(as_tuple=True)
    else:  # a GPU sorts them all sooner than it tells the host how many there are
        rois, labels = _all_positions(scores)
    scores = scores[rois, labels]
    candidates = moved[rois, labels if config.class_specific_boxes else 0]
    scores, order = scores.sort(descending=True, stable=True)
    candidates, labels = candidates[order], labels[order]
    apart = None if config.class_agnostic_nms else labels
    good = (scores > config.score_threshold) & (scores >= score)
    kept = best_apart(candidates, scores, config.nms_iou, config.max_detections, apart, valid=good)
    return candidates[kept], scores[kept], labels[kept]


def _all_positions(table: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of each position of a table, row by row."""
    positions = torch.arange(table.numel(), device=table.device)
    return positions // table.shape[1], positions % table.shape[1]


@dataclass(frozen=True, eq=False, slots=True)
class _SampledRoIs:
    """The n RoIs of a loss, one image after the other.

    Attributes:
        rois: [k, 4] xyxy px, network input, for each image.
        labels: [n] class numbers, or that of the background.
        deltas: [p, 4] wanted of the p RoIs with an object, in their order.
        shares: [n] weight of each in the mean over its image and the images.
    """

    rois: list[Tensor]
    labels: Tensor
    deltas: Tensor
    shares: Tensor


def _sample_rois(
    config: RoIHeadConfig,
    proposals: Sequence[Tensor],
    targets: Sequence[Targets],
    choosers: Sequence[Chooser],
    *,
    background: int,
) -> _SampledRoIs:
    rois, labels, wanted, shares = [], [], [], []
    for proposed, target, choose in zip(proposals, targets, choosers, strict=True):
        matches = assign(proposed, target.boxes, positive=0.5, negative=0.5, weakest_positive=0.5)
        # The ground-truth boxes take part as proposals that belong to themselves.
        matches = torch.cat((torch.arange(len(target.boxes), device=matches.device), matches))
        candidates = torch.cat((target.boxes, proposed))
        chosen = sample(matches, config.sampled, 0.25, choose)
        truth = matches[chosen.positives]
        rois.append(candidates[torch.cat((chosen.positives, chosen.negatives))])
        labels.append(target.labels[truth])
        labels.append(torch.full_like(chosen.negatives, background))
        wanted.append(encode(candidates[chosen.positives], target.boxes[truth], _ROI_STDS))
        count = len(rois[-1])
        shares.append(candidates.new_full((count,), 1 / (max(count, 1) * len(targets))))
    return _SampledRoIs(rois, torch.cat(labels), torch.cat(wanted), torch.cat(shares))


def _roi_losses(
    config: RoIHeadConfig, logits: Tensor, deltas: Tensor, batch: _SampledRoIs, *, background: int
) -> dict[str, Tensor]:
    """Cross-entropy over the sampled RoIs and smooth L1 of the deltas over those with an object."""
    truth = batch.labels
    positive = (truth != background).nonzero().flatten()
    moved = deltas[positive, truth[positive] if config.class_specific_boxes else 0]
    boxes = F.smooth_l1_loss(moved, batch.deltas, reduction="none").sum(dim=1)
    return {
        "roi_classes": (F.cross_entropy(logits, truth, reduction="none") * batch.shares).sum(),
        "roi_boxes": (boxes * batch.shares[positive]).sum(),
    }
