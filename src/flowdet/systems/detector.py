"""A video detector: the trained parts, and the method that puts them to work."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowdet.class_names import check_class_names
from flowdet.detectors.base import Detector, Run
from flowdet.errors import ConfigError
from flowdet.flow.base import FlowNet
from flowdet.flow.coarse_to_fine import CoarseToFineFlow
from flowdet.flow.dis import DISFlow
from flowdet.flow.flownet_s import FlowNetS
from flowdet.flow.matching import MatchingFlow
from flowdet.ops.boxes import Chooser, choose_randomly
from flowdet.systems.config import SystemConfig
from flowdet.systems.stream import Outcome, computing, stream
from flowdet.temporal.base import MethodParts, TemporalMethod
from flowdet.types import ClipBatch, Detections, Frame, FrameFeatures

__all__ = ["PRECISIONS", "FlowModule", "Parts", "VideoDetector"]

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What detection can compute in."""

FlowModule = FlowNetS | MatchingFlow | CoarseToFineFlow | DISFlow
"""The flow nets that a system can have."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What computes: the modules of a system, or the same functions in another backend.

    Attributes:
        detector: Maps out of images, detections out of maps.
        flow_net: None where the method needs no flow.
        modules: The method's own modules by name.
    """

    detector: Detector
    flow_net: FlowNet | None
    modules: Mapping[str, Run]


class VideoDetector(nn.Module):
    """Parameters and nothing else: what a stream remembers is in the state of its method.

    Attributes:
        config: What it was built from.
        detector: A single-frame detector.
        flow_net: None where the method needs no flow.
        backend: What computes when it detects: "torch" is these modules, and only they are trained and saved; see
            `flowdet.backends`.
        precision: What detection computes in, one of `PRECISIONS`; coordinates, flow, scores and the odds of matches
            stay in float32.
    """

    def __init__(
        self,
        config: SystemConfig,
        detector: Detector,
        flow_net: FlowModule | None,
        modules: Mapping[str, nn.Module],
        *,
        parts: Parts | None = None,
        backend: str = "torch",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.config = config
        self.detector = detector
        self.flow_net = flow_net
        self.backend = backend
        self.precision = precision
        self._module_names = tuple(modules)
        for name, module in modules.items():
            self.add_module(name, module)
        self._parts = parts

    @property
    def method_modules(self) -> dict[str, nn.Module]:
        """The method's own trained modules by name."""
        return {name: self.get_submodule(name) for name in self._module_names}

    @property
    def parts(self) -> Parts:
        """What computes."""
        return self._parts or self._own_parts

    @property
    def _own_parts(self) -> Parts:
        return Parts(self.detector, self.flow_net, self.method_modules)

    @property
    def method(self) -> TemporalMethod[Any]:
        """The temporal method over the parts that compute."""
        return self._method_over(self.parts)

    def _method_over(self, parts: Parts) -> TemporalMethod[Any]:
        return self.config.method.build(MethodParts(parts.detector, parts.flow_net, parts.modules))

    def with_parts(self, parts: Parts | None, backend: str, precision: str | None = None) -> "VideoDetector":
        """Returns the same modules, while other parts compute; None: the modules themselves, the same precision."""
        system = VideoDetector(
            self.config,
            self.detector,
            self.flow_net,
            self.method_modules,
            parts=parts,
            backend=backend,
            precision=precision or self.precision,
        )
        system.training = self.training
        return system

    def detect(
        self, frames: Iterable[Frame], *, score: float = 0.0, classes: Collection[str] | None = None
    ) -> Iterator[Detections]:
        """Detects objects frame by frame, lazily and in order.

        Args:
            frames: The frames of one video, as `open_video` returns them for instance.
            score: Detections below it are left out.
            classes: Names of the classes to keep; all if not given.

        Raises:
            ConfigError: A class has a name that the system does not know.
        """
        return (outcome.detections for outcome in self.detect_many([frames], score=score, classes=classes))

    def detect_many(
        self,
        sources: Sequence[Iterable[Frame]],
        *,
        score: float = 0.0,
        classes: Collection[str] | None = None,
        ahead: bool = False,
    ) -> Iterator[Outcome]:
        """Detects objects in many videos at once, which a GPU does faster than one after the other.

        Args:
            sources: The frames of a video each; all are read at the same pace, until the longest ends.
            score: Detections below it are left out.
            classes: Names of the classes to keep; all if not given.
            ahead: On a GPU, start the next frame before the detections of this one are fetched: faster, and one frame
                later; not for live sources. On a CPU it changes nothing.

        Returns:
            Frames with their detections and the features that these were found in; the frames of each source come in
            order, later than they were read if the method looks ahead.

        Raises:
            ConfigError: A class has a name that the system does not know; or its weights are missing, or neither all
                float32 nor, with the backend "torch", all float64.
        """
        config = self.config
        check_class_names(classes or (), config.class_names)
        outcomes = stream(
            sources,
            self.method,
            self.parts.detector,
            config.inputs,
            config.class_names,
            device=next(self.parameters()).device,
            dtype=PRECISIONS[self.precision],
            weight_dtype=self._weight_dtype(),
            score=score,
            preview=config.method.preview,
            ahead=ahead,
        )
        return (replace(each, detections=each.detections.select(score, classes)) for each in outcomes)

    def _weight_dtype(self) -> torch.dtype:
        weights = [parameter for parameter in self.parameters() if parameter.is_floating_point()]
        if any(weight.is_meta for weight in weights):
            raise ConfigError(
                'the system has no weights: it was built on the device "meta"; load it again without that'
            )
        types = {weight.dtype for weight in weights} or {torch.float32}  # a detector may keep its weights elsewhere
        if len(types) != 1 or not types <= {torch.float32, torch.float64}:
            names = ", ".join(sorted(str(each).removeprefix("torch.") for each in types))
            raise ConfigError(f"a system detects in float32 or float64, and has weights in {names}: call .float()")
        (found,) = types
        if found == torch.float64 and (self.backend, self.precision) != ("torch", "float32"):
            raise ConfigError(
                f"the backend {self.backend} with precision {self.precision} computes in float32 or less, and the "
                'system has weights in float64: load it with backend="torch" and no other precision, or call .float()'
            )
        return found

    def attended(self, features: FrameFeatures, boxes: NDArray[np.float32]) -> Tensor:
        """Returns how much boxes attend to RoIs of other frames and of their own, for drawing.

        Args:
            features: Of one stream, of a RoI-level method; their origin says which RoIs.
            boxes: [n, 4] xyxy px, original image.

        Returns:
            [n, m + k] float32 on the CPU: weights of the m RoIs of the origin, then of the k RoIs of the frame itself.
        """
        maps = features.maps[0]
        with computing(maps.device, PRECISIONS[self.precision]):
            return self.parts.detector.attended(features, torch.from_numpy(boxes).to(maps.device)).cpu()

    def losses(self, clips: ClipBatch, choosers: Sequence[Chooser] | None = None) -> dict[str, Any]:
        """Returns the losses of a batch of training clips by name, each the mean over the clips.

        Args:
            clips: The batch.
            choosers: Pick the sampled boxes, one for each clip; at random if not given.
        """
        features = self._method_over(self._own_parts).training_features(clips)
        return self.detector.losses(features, clips.targets, choosers or (choose_randomly,) * len(clips.targets))
