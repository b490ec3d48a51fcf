"""What a GPU would be asked to do, on a pretended one: no tensor is on the wrong device, and the host seldom waits."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowdet.detectors.faster_rcnn import _inner_anchors, anchors
from flowdet.detectors.one_stage import _cells
from flowdet.inputs import _taps_on
from flowdet.ops.boxes import best_apart
from flowdet.ops.devices import constant
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.training.dataset import Clip
from flowdet.training.feed import TrainingBatch, to_training_batch
from flowdet.training.loop import TrainingTask, train
from flowdet.training.processes import Processes
from flowdet.types import Aggregation, Detections, Targets
from tests.pretend_cuda import CUDA, OnGPU, pretend_cuda
from tests.tiny import INPUTS, frames_of, video
from tests.training.runs import SYSTEM_PLAN, losses_of_system, system_of

# The most waits in a frame of the steady state. One non-maximum suppression for proposals and one for detections tell
# the host how many boxes are left, and the detections are copied to it: 3. Of a one-stage detector, whose candidates
# are too many to compare, the number of those above the threshold comes in place of the proposals: 3. Composed flows
# tell whether any has drifted: 1 more.
WAITS = {
    ("single-lite", None): 3,
    ("dff-lite", None): 3,
    ("fgfa-lite", None): 3,
    ("fgfa-lite", "composed"): 4,
    ("single-nano", None): 3,
}
# Of a video of 12 frames; constants have been uploaded before, and the window ends after.
STEADY = slice(4, 8)


@pytest.fixture(autouse=True)
def nothing_is_cached() -> Iterator[None]:
    """Tensors of the pretended GPU must not be there for a real one."""
    caches = (constant, anchors, _inner_anchors, _cells, _taps_on)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


def small(name: str, variant: str | None, device: str) -> VideoDetector:
    """A shipped system with a short window or a short key frame interval."""
    system = load(name, variant=variant, device=device)
    method = system.config.method
    if isinstance(method, FGFAConfig):
        method = replace(method, past=2, future=2)
    elif isinstance(method, DFFConfig):
        method = replace(method, key_frame_interval=4)
    config = replace(system.config, method=method)
    return VideoDetector(config, system.detector, system.flow_net, system.method_modules).eval()


def clip() -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """Blocks that move."""
    wide = video(1, size=(64, 160))[0]
    return [np.ascontiguousarray(wide[:, 2 * number : 2 * number + 96]) for number in range(12)]


@pytest.mark.parametrize(("name", "variant"), WAITS, ids=str)
def test_detection_has_the_results_of_the_cpu_and_seldom_waits(name: str, variant: str | None) -> None:
    wanted = list(small(name, variant, "cpu").detect(frames_of(clip())))
    found: list[Detections] = []
    waits: list[Counter[str]] = []
    with pretend_cuda() as gpu:
        for detections in small(name, variant, "cuda").detect(frames_of(clip())):
            found.append(detections)
            waits.append(gpu.take())
    assert sum(len(each) for each in wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
    assert max(waits[STEADY], key=Counter.total).total() == WAITS[name, variant], waits[STEADY]


def noted(done: list[str], letter: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, which writes a letter down."""

    def run(*given: Any, **options: Any) -> Any:
        done.append(letter)
        return call(*given, **options)

    return run


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_starts_the_next_frame_before_the_detections_of_this_one_are_fetched(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [np.ascontiguousarray(image[:, :64]) for image in clip()]
    sources = [clip()[:5], others[:3] + clip()[:2], others]  # of one size, of two, and the longest
    wanted = list(small("fgfa-lite", None, "cpu").detect_many([list(frames_of(each)) for each in sources]))
    done: list[str] = []
    with pretend_cuda():
        system = small("fgfa-lite", None, device)
        for name, letter in (("extract", "s"), ("detect", "f")):
            monkeypatch.setattr(system.detector, name, noted(done, letter, getattr(system.detector, name)))
        found = list(system.detect_many([list(frames_of(each)) for each in sources], ahead=True))
        done.clear()
        list(system.detect_many([frames_of(clip()[:8])], ahead=True))
    assert "".join(done) == ("sssfsfsfsfsfsfff" if device == "cpu" else "ssssfsfsfsfsffff")
    for source in range(3):
        of_source = [[each for each in outcomes if each.source == source] for outcomes in (found, wanted)]
        for one, other in zip(*of_source, strict=True):
            assert one.frame.index == other.frame.index == one.detections.frame_index
            np.testing.assert_allclose(one.detections.boxes, other.detections.boxes, atol=1e-3)


def test_flows_that_drift_fall_back_as_on_the_cpu() -> None:
    def fallbacks(device: str) -> list[list[int]]:
        system = small("fgfa-lite", "composed", device)
        assert isinstance(system.config.method, FGFAConfig)
        config = replace(system.config, method=replace(system.config.method, drift_limit=0.1))
        drifting = VideoDetector(config, system.detector, system.flow_net, system.method_modules).eval()
        origins = [outcome.features.origin for outcome in drifting.detect_many([frames_of(video(8, size=(64, 96)))])]
        return [
            each.fallbacks.tolist() for each in origins if isinstance(each, Aggregation) and each.fallbacks is not None
        ]

    wanted = fallbacks("cpu")
    with pretend_cuda():
        assert fallbacks("cuda") == wanted
    assert len(wanted) == 8
    assert 0 < sum(count for counts in wanted for count in counts) < 24


@dataclass
class Clips:
    """One clip a step, on a device."""

    references: int
    device: torch.device
    steps_per_epoch: int = 4

    def __call__(self, first_step: int) -> Generator[tuple[TrainingBatch], None, None]:
        """The batches from a step on."""
        for step in count(first_step):
            frames = tuple(map(torch.from_numpy, video(1 + self.references, seed=step, size=(64, 96))))
            targets = Targets(torch.tensor([[9.0 + 3 * step, 8, 60, 50]]), torch.tensor([step % 3]))
            clip = Clip(f"clip {step}", frames, targets, still=False)
            yield (to_training_batch([clip], [step], INPUTS, self.device),)


# The most waits in a step with one clip: one non-maximum suppression, the positive and the negative boxes of both
# stages and the positive ones of all RoIs (5 times `nonzero`), the losses, the norm of the gradients, and the number of
# steps in the moving average (2).
STEP_WAITS = 10


@pytest.mark.parametrize(("name", "references"), [("tiny-fgfa", 2), ("tiny-dff", 1)])
def test_training_has_the_weights_of_the_cpu_and_bounded_waits(name: str, references: int, tmp_path: Path) -> None:
    plan = replace(SYSTEM_PLAN, batch=1, save_every=100)

    def trained(device: torch.device) -> dict[str, torch.Tensor]:
        feed, folder = Clips(references, device), tmp_path / device.type
        task = TrainingTask(systems.pop(), feed, losses_of_system)
        result = train(task, plan, folder, processes=Processes(device=device), watch=lambda _: waits.append(gpu.take()))
        return {key: tensor.detach().cpu() for key, tensor in result.state_dict().items()}

    systems = [system_of(name), system_of(name)]
    waits: list[Counter[str]] = []
    with pretend_cuda() as gpu:
        found = trained(CUDA)
        on_gpu = waits.copy()
        wanted = trained(torch.device("cpu"))
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=1e-3, msg=key)
    assert max(on_gpu[1:3], key=Counter.total).total() == STEP_WAITS, on_gpu[1:3]
    # All tensors of the checkpoint are looked at together.
    assert on_gpu[3].total() == STEP_WAITS + 1, on_gpu[3]


@pytest.mark.parametrize("is_labelled", [False, True])
@pytest.mark.parametrize(("count", "share"), [(5, 0.5), (1000, 0.5), (1000, 0.0), (1000, 1.0)])
def test_boxes_apart_are_those_of_the_cpu(count: int, share: float, *, is_labelled: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(800, 2, generator=generator) * 100 - 50
    boxes = torch.cat((corners, corners + 5 + 30 * torch.rand(800, 2, generator=generator)), dim=1)
    scores, valid = torch.linspace(1, 0, 800), torch.rand(800, generator=generator) < share
    labels = torch.randint(5, (800,), generator=generator) if is_labelled else None
    wanted = best_apart(boxes, scores, 0.5, count, labels, valid=valid)
    assert len(wanted) == 0 or valid[wanted].all()
    with pretend_cuda() as gpu:
        there = None if labels is None else OnGPU(labels)
        found = best_apart(OnGPU(boxes), OnGPU(scores), 0.5, count, there, valid=OnGPU(valid)).cpu()
        assert gpu.take().total() == 2  # non-maximum suppression, and the copy
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_overlap_that_suppresses_nothing_keeps_all_valid_boxes(device: str) -> None:
    boxes, scores, valid = torch.tensor([[0.0, 0, 8, 8]] * 3), torch.ones(3), torch.tensor([True, False, True])
    with pretend_cuda():
        given = [each.to(device) for each in (boxes, scores, valid)]
        assert best_apart(given[0], given[1], 1.0, 10, valid=given[2]).tolist() == [0, 2]


def test_the_pretended_gpu_refuses_what_a_gpu_refuses() -> None:
    with pretend_cuda() as gpu:
        there = torch.arange(6.0, device="cuda")
        assert gpu.take().total() == 0
        here = torch.arange(6)
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="same device"):
            there[here]
        with pytest.raises(RuntimeError, match="same device"):
            torch.cat((there, here))
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        gpu.take()
        assert there[there > 3].tolist() == [4, 5]  # a mask, and a copy
        assert torch.tensor([1.0], device="cuda").item() == 1  # a copy there and back
        assert gpu.take().total() == 4, gpu.waits
