"""What to train, from what and on what, and how by default."""

from dataclasses import dataclass
from pathlib import Path

from flowdet.data.augmentation import PUBLISHED_AUGMENTATION, STRONGER_AUGMENTATION, Augmentation
from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import FasterRCNNConfig
from flowdet.errors import ConfigError
from flowdet.systems.config import SystemConfig
from flowdet.training.plan import Plan, fine_tuning_plan, lite_plan, published_plan

__all__ = ["AnnotatedImages", "FitTask", "default_augmentation", "default_plan"]


@dataclass(frozen=True)
class AnnotatedImages:
    """A CocoVID or COCO file, and the folder that its file names lie below."""

    annotations: Path
    images: Path


@dataclass(frozen=True)
class FitTask:
    """What to train, from what and on what.

    Attributes:
        config: The system; its classes give way to those of the first data set.
        data: What to train on.
        folder: Of the run.
        weights: A trained system to start from, of any classes.
        backbone_weights: ImageNet weights to start from instead.
        flow_net_weights: Of a flow net to start from.
        validation: What to evaluate on after each epoch.
        augmentation: Random transforms of a clip.
        all_frames: Train on every frame, whatever the files say of training frames.
        keep_epochs: Write the weights after each epoch too.
        workers: Processes that read ahead.
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
        files = (*(part.annotations for part in self._annotated), self.weights, self.backbone_weights)
        for file in (*files, self.flow_net_weights):
            if file and not file.is_file():
                raise ConfigError(f"there is no file {file}")
        if self.workers < 0:
            raise ConfigError(f"workers are 0 or more, not {self.workers}; 0 reads in the training process itself")
        for part in self._annotated:
            if not part.images.is_dir():
                raise ConfigError(f"there is no folder {part.images} with the images of {part.annotations}")

    @property
    def _annotated(self) -> tuple[AnnotatedImages, ...]:
        return (*self.data, *([self.validation] if self.validation else []))


def default_plan(config: SystemConfig, *, is_trained: bool) -> Plan:
    """The plan that suits a system: of fine-tuning if it starts from a trained one, else that of its family."""
    if is_trained:
        return fine_tuning_plan()
    return lite_plan() if _is_lite(config) else published_plan()


def default_augmentation(config: SystemConfig) -> Augmentation:
    """Returns the published augmentation, or the stronger one for the lite systems."""
    return STRONGER_AUGMENTATION if _is_lite(config) else PUBLISHED_AUGMENTATION


def _is_lite(config: SystemConfig) -> bool:
    detector = config.detector
    return isinstance(detector, FasterRCNNConfig) and isinstance(detector.backbone, EfficientNetLite0Config)
