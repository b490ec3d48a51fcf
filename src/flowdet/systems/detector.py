"""A video detector: the trained parts, and the method that puts them to work."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from flowdet.class_names import check_class_names
from flowdet.detectors.faster_rcnn import Detector
from flowdet.flow.modules import FlowModule
from flowdet.ops.boxes import Chooser, choose_randomly
from flowdet.systems import stream
from flowdet.systems.config import SystemConfig
from flowdet.temporal.adaptive_dff import AdaptiveDFF, AdaptiveDFFConfig
from flowdet.temporal.base import Embed, FlowNet, TemporalMethod
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.temporal.fast_fgfa import FastFGFA, FastFGFAConfig
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.temporal.recursive import Recursive, RecursiveConfig
from flowdet.temporal.single import SingleFrame
from flowdet.types import ClipBatch, Detections, Frame, FrameFeatures

__all__ = ["Parts", "VideoDetector"]


@dataclass(frozen=True, eq=False)
class Parts:
    """What does the work: the modules of a system, or the same functions in another runtime."""

    detector: Detector
    flow_net: FlowNet | None
    embedding: Embed | None


class VideoDetector(nn.Module):
    """Parameters and nothing else: what a stream remembers is in the state of its method.

    Attributes:
        config: What it was built from.
        detector: Backbone, neck and heads.
        flow_net: None where the method needs no flow.
        embedding: None where the method needs none.
        runtime: What detects: "torch" is these modules, and only they are trained and saved; see `flowdet.backends`.
    """

    def __init__(
        self,
        config: SystemConfig,
        detector: Detector,
        flow_net: FlowModule | None,
        embedding: nn.Module | None,
        *,
        parts: Parts | None = None,
        runtime: str = "torch",
    ) -> None:
        super().__init__()
        self.config = config
        self.detector = detector
        self.flow_net = flow_net
        self.embedding = embedding
        self.runtime = runtime
        self._parts = parts

    @property
    def parts(self) -> Parts:
        """What detects."""
        return self._parts or self._modules_as_parts

    @property
    def _modules_as_parts(self) -> Parts:
        return Parts(self.detector, self.flow_net, self.embedding)

    @property
    def method(self) -> TemporalMethod[Any]:
        """The temporal method over the parts that detect."""
        return self._method_over(self.parts)

    def _method_over(self, parts: Parts) -> TemporalMethod[Any]:
        extract = parts.detector.extract
        match self.config.method:
            case DFFConfig() as config if parts.flow_net:
                return DFF(extract, parts.flow_net, config)
            case FGFAConfig() as config if parts.flow_net and parts.embedding:
                return FGFA(extract, parts.flow_net, parts.embedding, config)
            case AdaptiveDFFConfig() as config if parts.flow_net:
                return AdaptiveDFF(extract, parts.flow_net, config)
            case FastFGFAConfig() as config if parts.flow_net and parts.embedding:
                return FastFGFA(extract, parts.flow_net, parts.embedding, config)
            case RecursiveConfig() as config if parts.flow_net and parts.embedding:
                return Recursive(extract, parts.flow_net, parts.embedding, config)
            case _:
                return SingleFrame(extract)

    def with_parts(self, parts: Parts | None, runtime: str) -> "VideoDetector":
        """The same modules, while other parts detect; None: the modules themselves."""
        system = VideoDetector(self.config, self.detector, self.flow_net, self.embedding, parts=parts, runtime=runtime)
        system.training = self.training
        return system

    def detect(
        self, frames: Iterable[Frame], *, score: float = 0.0, classes: Collection[str] | None = None
    ) -> Iterator[Detections]:
        """Detects objects frame by frame, lazily and in order.

        Args:
            frames: The frames of one video, of `open_video` for instance.
            score: Detections below it are left out.
            classes: Names of the classes to keep; all if not given.

        Raises:
            ConfigError: A class has a name that the system does not know.
        """
        return (found for _, found in self.detect_with_frames(frames, score=score, classes=classes))

    def detect_with_frames(
        self, frames: Iterable[Frame], *, score: float = 0.0, classes: Collection[str] | None = None
    ) -> Iterator[tuple[Frame, Detections]]:
        """As `detect`, each frame beside its detections: a method that looks ahead gives them late."""
        outcomes = self.detect_with_features(frames, score=score, classes=classes)
        return ((frame, found) for frame, found, _ in outcomes)

    def detect_with_features(
        self, frames: Iterable[Frame], *, score: float = 0.0, classes: Collection[str] | None = None
    ) -> Iterator[tuple[Frame, Detections, FrameFeatures]]:
        """As `detect_with_frames`, and the features of each frame with their origin, for `draw_view`."""
        check_class_names(classes or (), self.config.class_names)
        config = self.config
        outcomes = stream.detect_with_features(
            frames, self.method, self.parts.detector, config.inputs, config.class_names
        )
        return ((frame, found.select(score, classes), features) for frame, found, features in outcomes)

    def detect_many(
        self, sources: Sequence[Iterable[Frame]], *, score: float = 0.0, classes: Collection[str] | None = None
    ) -> Iterator[tuple[int, Frame, Detections]]:
        """Detects objects in many videos at once, which a GPU does faster than one after the other.

        Args:
            sources: The frames of a video each; all are read at the same pace, until the longest ends.
            score: Detections below it are left out.
            classes: Names of the classes to keep; all if not given.

        Returns:
            The number of a source, a frame of it and what was found there, with the frames of each source in order.

        Raises:
            ConfigError: A class has a name that the system does not know.
        """
        check_class_names(classes or (), self.config.class_names)
        config = self.config
        outcomes = stream.detect_many(sources, self.method, self.detector, config.inputs, config.class_names)
        return ((one.source, one.frame, one.detections.select(score, classes)) for one in outcomes)

    def losses(self, clips: ClipBatch, choosers: Sequence[Chooser] | None = None) -> dict[str, Tensor]:
        """The losses of a batch of training clips by name, each the mean over the clips.

        Args:
            clips: The batch.
            choosers: Pick the sampled boxes, one for each clip; at random if not given.
        """
        features = self._method_over(self._modules_as_parts).training_features(clips)
        choosers = choosers or (choose_randomly,) * len(clips.targets)
        return self.detector.losses(features, clips.current.geometries, clips.targets, choosers)
