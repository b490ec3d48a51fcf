"""What a detector is: images to maps, and maps to detections or losses; what comes between is a temporal method's."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from flowdet.errors import ConfigError
from flowdet.ops.boxes import Chooser
from flowdet.types import FrameFeatures, Geometry, Maps, RoIs, Targets

__all__ = ["Computed", "Detector", "DetectorConfig", "Found", "RoIAttention", "Run", "shallow_copy"]

Module = TypeVar("Module", bound=nn.Module)

Found = tuple[Tensor, Tensor, Tensor]
"""Detections of one image, best first: boxes [n, 4] xyxy px of the original image, scores [n], labels [n] int64."""

Run = Callable[..., Tensor | tuple[Tensor, ...]]
"""Computes a part: tensors to a tensor, or to a tuple of tensors."""


class RoIAttention(nn.Module):
    """What a RoI-level method adds to a detector's RoI head; here, nothing. Override what the method needs.

    `support` is whatever the method put into `FrameFeatures.support`.
    """

    def pool(self, pooled: Tensor, rois: Sequence[Tensor], maps: Maps, support: object) -> Tensor:
        """Returns RoI features [n, c, bins, bins] that know of the support, from those of the current frame.

        Args:
            pooled: [n, c, bins, bins] RoI features of b images, one image after the other.
            rois: [k, 4] xyxy px, network input, for each of the b images.
            maps: The maps that they were pooled from.
            support: The support of b streams.
        """
        del rois, maps, support
        return pooled

    def remember(self, layer: int, features: Tensor) -> Tensor:
        """Returns what is kept of RoI features [n, d] after a layer, for `RoIs.memory`: the features themselves."""
        del layer
        return features

    def attend(self, layer: int, features: Tensor, own: Tensor, counts: Sequence[int], support: object) -> Tensor:
        """Returns RoI features [n, d] after a layer of the head that know of the support.

        Args:
            layer: Number of the layer, from 0.
            features: [n, d] of b images, one image after the other, before the activation.
            own: [n, ...] what `remember` makes of the same RoIs without attention: the frame's own RoIs as support.
            counts: The number of RoIs of each of the b images.
            support: The support of b streams.
        """
        del layer, own, counts, support
        return features

    def weights(self, features: Tensor, own: Tensor, support: object) -> Tensor:
        """Returns how much RoIs attend to others after the first layer of the head, for drawing; rows sum to one.

        Args:
            features: [n, d] after that layer, before the activation.
            own: [k, ...] what `remember` makes of the RoIs of their frame.
            support: The support of one stream, of m RoIs.

        Returns:
            [n, m + k], those of the frame itself last.
        """
        raise NotImplementedError


class Detector(nn.Module, ABC):
    """A single-frame detector, cut in two where temporal methods come in.

    Attributes:
        strides: Pixels of the network input from one cell to the next, for each of the maps, finest first.
        channels: The number of channels of each of the maps.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    @abstractmethod
    def extract(self, images: Tensor) -> Maps:
        """Returns the maps of images [b, 3, H, W]; they are what a temporal method warps and averages."""

    @abstractmethod
    def detect(self, features: FrameFeatures, score: float = 0.0) -> list[Found]:
        """Returns the detections of each of the b images.

        Args:
            features: Of the b images.
            score: Detections below it are not wanted. Leaving them out early saves time, and must not change the rest.
        """

    @abstractmethod
    def losses(
        self, features: FrameFeatures, targets: Sequence[Targets], choosers: Sequence[Chooser]
    ) -> dict[str, Tensor]:
        """Returns losses by name, each the mean over the images.

        What is sampled in one image does not weigh on another, so that a batch means the same in one process or many.

        Args:
            features: With gradients.
            targets: The objects of each image.
            choosers: Pick the sampled boxes of each image, where a detector samples any.
        """

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Returns what a backend may compile, by name: modules whose forward pass takes and returns tensors only.

        "features" takes the images and returns the maps. All others must be called as modules during `detect`.
        """

    @abstractmethod
    def with_parts(self, runs: Mapping[str, Run]) -> "Detector":
        """Returns the same detector, in which these functions compute the parts of these names."""

    def rois(self, maps: Maps, geometries: Sequence[Geometry]) -> RoIs:
        """Returns the proposals in maps of any frame, as support for RoI-level methods.

        Raises:
            ConfigError: The detector has no proposals.
        """
        del maps, geometries
        raise self._without_proposals()

    def attended(self, features: FrameFeatures, boxes: Tensor) -> Tensor:
        """Returns how much boxes attend to the RoIs of other frames, for drawing; see `RoIAttention.weights`.

        Args:
            features: Of one stream.
            boxes: [n, 4] xyxy px, original image.

        Raises:
            ConfigError: The detector has no proposals.
        """
        del features, boxes
        raise self._without_proposals()

    def _without_proposals(self) -> ConfigError:
        return ConfigError(f"{type(self).__name__} has no proposals; RoI-level methods need a two-stage detector")


class DetectorConfig(ABC):
    """A frozen dataclass beside the detector that it builds; its name stands in weight files as "kind"."""

    @abstractmethod
    def build(self, classes: int, attention: Callable[[Sequence[int]], RoIAttention] | None = None) -> Detector:
        """Returns the detector with random weights.

        Args:
            classes: The number of classes.
            attention: Makes the RoI attention from the number of channels of the map that RoI features are pooled from
                and the widths of the layers, see `RoIs.layers`; None: no attention.

        Raises:
            ConfigError: There is an attention, and the detector has no RoI head.
        """

    def with_agnostic_nms(self) -> "DetectorConfig":
        """Returns the detector in which detections of different classes suppress each other, too.

        Raises:
            ConfigError: The detector knows no such choice.
        """
        raise ConfigError(f"{self.label} has no suppression across classes: leave that option out")

    @property
    @abstractmethod
    def label(self) -> str:
        """What tables call the detector, "R-50-DC5" for instance."""

    @property
    def is_lite(self) -> bool:
        """Whether training it from ImageNet weights takes the plan and the stronger augmentation of small systems."""
        return False

    @property
    def has_wide_maps(self) -> bool:
        """Whether most of its time goes into wide 3x3 convolutions, which Winograd's method makes cheaper."""
        return False

    @property
    @abstractmethod
    def classifier(self) -> Mapping[str, int]:
        """Names of the layers whose rows belong to classes, relative to the detector, with the rows of each class.

        A system that starts from a trained one carries these rows over by class name. Rows after those of the last
        class belong to the background.
        """


class Computed(nn.Module):
    """A module that something else computes."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """As the module in whose place it stands."""
        found = self._run(*inputs)
        return found[0] if isinstance(found, tuple) and len(found) == 1 else found


def shallow_copy(module: Module) -> Module:
    """Returns a copy that shares all submodules; replacing one in the copy leaves the original as it is."""
    other = copy.copy(module)
    vars(other)["_modules"] = dict(vars(module)["_modules"])
    return other
