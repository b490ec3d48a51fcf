"""Runs a system over a video and writes down every tensor that the recorded reference has, under its names.

img             [1, 3, H, W], network input
neck            [1, c, h, w], features of the frame that entered the backbone; FGFA's first frame: of all 31 slots
flow_quarter    [n, 2, H / 8, W / 8], the flow net's finest prediction, in units of 40 px
flow            [n, 2, H, W], the same at full size, px
warped          [31, c, h, w], features in FGFA's slots, the current frame's own in the middle
agg_cos         [31, 1, h, w], cosine similarities
agg_weights     [31, 1, h, w], their softmax
feat            [1, c, h, w], what the heads see
rpn_cls         [1, a, h, w], logits
rpn_reg         [1, 4 a, h, w]
proposals       [p, 4], xyxy px, network input
roi_feat        [p, c, 7, 7]
roi_cls         [p, classes + 1], logits, background last
roi_reg         [p, 4 classes]
dets            [d, 6], label, xyxy px of the original image, score
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowdet.detectors.faster_rcnn import FasterRCNN, propose
from flowdet.flow.flownet_s import FlowNetS
from flowdet.inputs import FEATURE_STRIDE
from flowdet.ops.sampling import roi_align
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.dff import DFF
from flowdet.temporal.fgfa import FGFA, WindowFrame, window_slots
from flowdet.temporal.similarity import cosine_similarity
from flowdet.types import Aggregation, FrameFeatures, NetworkInput

__all__ = ["Recording", "record", "roi_outputs"]

Recording = dict[str, Tensor]


class _Calls:
    """The arguments and results of a module's calls, while the context is open."""

    def __init__(self, module: nn.Module) -> None:
        self.arguments: list[tuple[Any, ...]] = []
        self.results: list[Any] = []
        self._handle = module.register_forward_hook(self._note)

    def _note(self, _: nn.Module, arguments: tuple[Any, ...], result: object) -> None:
        self.arguments.append(arguments)
        self.results.append(result)

    def clear(self) -> None:
        self.arguments.clear()
        self.results.clear()

    def __enter__(self) -> "_Calls":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def record(system: VideoDetector, inputs: Sequence[NetworkInput], frames: int | None = None) -> Iterator[Recording]:
    """The recordings of the first `frames` frames of a video, or of all."""
    frames = len(inputs) if frames is None else frames
    match system.method:
        case DFF() as method:
            recordings = _record_dff(system, method, inputs[:frames])
        case FGFA() as method:
            recordings = _record_fgfa(system, method, inputs, frames)
        case _:
            raise NotImplementedError
    for number, (recording, features) in enumerate(recordings):
        yield {"img": inputs[number].images} | recording | _heads(system, features)


def _heads(system: VideoDetector, features: FrameFeatures) -> Recording:
    detector = system.detector
    assert isinstance(detector, FasterRCNN)
    (maps,) = features.maps
    with torch.inference_mode(), _Calls(detector.rpn) as rpn, _Calls(detector.roi_head) as roi_head:
        ((boxes, scores, labels),) = detector.detect(features)
        ((objectness, deltas),) = rpn.results
        ((pooled,),) = roi_head.arguments
        ((logits, moves),) = roi_head.results
        config = detector.config.rpn
        (proposals,) = propose(config, objectness, deltas, features.geometries, config.post_nms_top_n)
        return {
            "feat": maps,
            "rpn_cls": objectness,
            "rpn_reg": deltas,
            "proposals": proposals,
            "roi_feat": pooled,
            "roi_cls": logits,
            "roi_reg": moves.flatten(1),
            "dets": torch.cat((labels[:, None], boxes, scores[:, None]), dim=1),
        }


@torch.inference_mode()
def roi_outputs(detector: FasterRCNN, features: Tensor, proposals: Tensor) -> Recording:
    """What the RoI head makes of proposals [p, 4]."""
    pooled = roi_align(features, [proposals], detector.config.roi_head.bins, FEATURE_STRIDE)
    logits, moves = detector.roi_head(pooled)
    return {"roi_feat": pooled, "roi_cls": logits, "roi_reg": moves.flatten(1)}


def _flows(prediction: Tensor) -> Recording:
    return {"flow_quarter": prediction, "flow": FlowNetS.to_image(prediction)}


@torch.inference_mode()
def _record_dff(
    system: VideoDetector, method: DFF, inputs: Sequence[NetworkInput]
) -> Iterator[tuple[Recording, FrameFeatures]]:
    assert isinstance(system.flow_net, FlowNetS)
    state = method.initial_state()
    with _Calls(system.flow_net.predictions["2"]) as predictions, _Calls(system.detector.get_submodule("neck")) as neck:
        for item in inputs:
            predictions.clear()
            neck.clear()
            (output,), state = method.step(item, state)
            recording: Recording = {}
            for features in neck.results:
                recording["neck"] = features
            for prediction in predictions.results:
                recording |= _flows(prediction)
            yield recording, output


@dataclass(frozen=True)
class _Aggregation:
    """What went into one aggregation and what came out, as it happened."""

    current: WindowFrame
    references: tuple[int, ...]
    predictions: Tensor
    warped: Tensor
    keys: Tensor
    query: Tensor
    weights: Tensor


@dataclass(frozen=True)
class _WatchedFGFA(FGFA):
    predictions: _Calls
    embeddings: _Calls
    aggregations: list[_Aggregation]

    def _emit(self, current: int, last: int, window: Sequence[WindowFrame]) -> FrameFeatures:
        self.predictions.clear()
        self.embeddings.clear()
        output = super()._emit(current, last, window)
        assert isinstance(output.origin, Aggregation)
        aggregation = _Aggregation(
            current=next(frame for frame in window if frame.index == current),
            references=output.origin.references,
            predictions=torch.cat(self.predictions.results),
            warped=torch.cat([maps for (maps,) in self.embeddings.arguments[1:]]),
            keys=torch.cat(self.embeddings.results[1:]),
            query=self.embeddings.results[0],
            weights=output.origin.weights,
        )
        self.aggregations.append(aggregation)
        return output


@torch.inference_mode()
def _record_fgfa(
    system: VideoDetector, method: FGFA, inputs: Sequence[NetworkInput], frames: int
) -> Iterator[tuple[Recording, FrameFeatures]]:
    assert isinstance(system.flow_net, FlowNetS)
    last = len(inputs) - 1
    with (
        _Calls(system.flow_net.predictions["2"]) as predictions,
        _Calls(system.get_submodule("embedding")) as embeddings,
        _Calls(system.detector.get_submodule("neck")) as neck,
    ):
        parts = (method.detector, method.flow_net, method.embed, method.config)
        watched = _WatchedFGFA(*parts, predictions, embeddings, [])
        state = watched.initial_state()
        emitted = 0
        for item in [*inputs, None]:
            if emitted >= frames:
                break
            watched.aggregations.clear()
            if item is None:
                outputs = watched.flush(state)
            else:
                outputs, state = watched.step(item, state)
            for output, aggregation in zip(outputs, watched.aggregations, strict=True):
                slots = window_slots(output.index, last, method.config)
                slots.insert(method.config.past, output.index)
                entered = slots if output.index == 0 else [min(output.index + method.lookahead, last)]
                recording = _slots(system.flow_net, method, aggregation, slots)
                recording["neck"] = torch.cat([neck.results[number] for number in entered])
                yield recording, output
                emitted += 1


def _slots(flow_net: FlowNetS, method: FGFA, aggregation: _Aggregation, slots: Sequence[int]) -> Recording:
    """Every slot of the window on its own, as the reference computes it, from what was computed once a frame."""
    current, middle = aggregation.current, method.config.past
    position = {index: number for number, index in enumerate(aggregation.references)}
    others = [index for slot, index in enumerate(slots) if slot != middle]
    order, repeats = [position[index] for index in others], Counter(others)
    counts = [repeats[index] for index in aggregation.references]
    share = torch.tensor(counts, device=aggregation.weights.device)[:, None, None, None]

    def expand(of_references: Tensor, of_current: Tensor) -> Tensor:
        around = of_references[order]
        return torch.cat((around[:middle], of_current, around[middle:]))

    to_itself = flow_net.predict(flow_net.as_current(current.flow_input), current.flow_reference)[0]
    query = aggregation.query
    weights = aggregation.weights[0, :, None]
    return {
        **_flows(expand(aggregation.predictions, to_itself)),
        "warped": expand(aggregation.warped, current.maps[0]),
        "agg_cos": expand(
            cosine_similarity(query, aggregation.keys[None])[0, :, None],
            cosine_similarity(query, query[:, None])[0, :, None],
        ),
        "agg_weights": expand(weights[1:] / share, weights[:1]),
    }
