"""A detector in one file: torchvision's FCOS (Tian et al., ICCV 2019) with a ResNet-50 and five maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from flowdet.class_names import COCO_CLASSES
from flowdet.cli import main
from flowdet.detectors.base import Computed, Detector, DetectorConfig, Found, RoIAttention, Run, shallow_copy
from flowdet.errors import ConfigError
from flowdet.inputs import InputConfig
from flowdet.ops.boxes import Chooser
from flowdet.systems.config import SystemConfig, single_frame
from flowdet.systems.recipes import RECIPES, fgfa_lite
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.types import FrameFeatures, Maps, Targets


@dataclass(frozen=True)
class FCOSConfig(DetectorConfig):
    """Which predictions become detections."""

    score_threshold: float = 0.05
    nms_iou: float = 0.6

    def build(self, classes: int, attention: Callable[[Sequence[int]], RoIAttention] | None = None) -> "FCOS":
        """Returns the detector with random weights."""
        if attention is not None:
            raise ConfigError("FCOS has no RoI head to attend with; choose a method that works on maps")
        return FCOS(self, classes)

    @property
    def label(self) -> str:
        """What tables call it."""
        return "FCOS R-50 FPN"

    @property
    def classifier(self) -> Mapping[str, int]:
        """One output for each class, and none for the background."""
        return {"model.head.classification_head.cls_logits": 1}


class _Body(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(images).values())


class FCOS(Detector):
    """Backbone and feature pyramid extract five maps; the head predicts in each of their cells."""

    strides = (8, 16, 32, 64, 128)
    channels = (256,) * 5

    def __init__(self, config: FCOSConfig, classes: int) -> None:
        super().__init__()
        self.model = fcos_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=classes,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_iou,
        )
        self.body: nn.Module = _Body(self.model.backbone)
        self.model.backbone = nn.Identity()

    def extract(self, images: Tensor) -> Maps:
        """Returns five maps; the sides of the images are multiples of 128."""
        maps: Maps = self.body(images)
        return maps

    def detect(self, features: FrameFeatures, score: float = 0.0) -> list[Found]:
        """Returns the detections of each image, from network-input to original pixels."""
        del score  # torchvision has a threshold of its own
        outputs, anchors, counts = self._predict(features)
        split = {name: list(values.split(counts, dim=1)) for name, values in outputs.items()}
        levels = [list(of_image.split(counts)) for of_image in anchors]
        sizes = [geometry.valid for geometry in features.geometries]
        found = self.model.postprocess_detections(split, levels, sizes)
        scales = [anchors[0].new_tensor(2 * geometry.scale) for geometry in features.geometries]
        pairs = zip(found, scales, strict=True)
        return [(each["boxes"] / scale, each["scores"], each["labels"]) for each, scale in pairs]

    def losses(
        self, features: FrameFeatures, targets: Sequence[Targets], choosers: Sequence[Chooser]
    ) -> dict[str, Tensor]:
        """Returns the three losses of FCOS; they are means over the cells with an object in the whole batch."""
        del choosers  # every cell takes part
        outputs, anchors, counts = self._predict(features)
        wanted = [{"boxes": each.boxes, "labels": each.labels} for each in targets]
        losses: dict[str, Tensor] = self.model.compute_loss(wanted, outputs, anchors, counts)
        return losses

    def parts(self) -> dict[str, nn.Module]:
        """Returns what backends may compile: backbone and pyramid, by far the most of the work."""
        return {"features": self.body}

    def with_parts(self, runs: Mapping[str, Run]) -> "FCOS":
        """Returns the same detector, in which these functions compute the parts of these names."""
        other = shallow_copy(self)
        if "features" in runs:
            other.body = Computed(runs["features"])
        return other

    def _predict(self, features: FrameFeatures) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Predictions and anchors of all cells, and the number of cells of each map."""
        maps, padded = list(features.maps), features.geometries[0].padded
        images = ImageList(maps[0].new_empty(len(maps[0]), 3, *padded), [padded] * len(maps[0]))
        counts = [each.shape[2] * each.shape[3] for each in maps]
        return self.model.head(maps), self.model.anchor_generator(images, maps), counts


def fgfa_fcos() -> SystemConfig:
    """FGFA over it, on COCO's classes; the maps themselves are compared, so that only flow was ever trained."""
    return SystemConfig(
        name="fgfa-fcos",
        class_names=COCO_CLASSES,
        inputs=InputConfig(1333, 800, multiple=128),
        detector=FCOSConfig(),
        method=FGFAConfig(past=5, future=5, sharpness=4.0, embedding_channels=None),
        flow_net=fgfa_lite().flow_net,
    )


def single_fcos() -> SystemConfig:
    """FCOS on every frame by itself."""
    return single_frame(fgfa_fcos(), "single-fcos")


RECIPES["fgfa-fcos"] = fgfa_fcos
RECIPES["single-fcos"] = single_fcos

if __name__ == "__main__":
    main()  # python torchvision_fcos.py detect clip.mp4 --system fgfa-fcos --weights my_weights.safetensors
