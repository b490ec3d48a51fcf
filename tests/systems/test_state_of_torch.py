"""What a program has set in torch changes no detection: its default type and device, autocast."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from flowdet.errors import ConfigError
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load
from tests.tiny import frames_of, tiny_system, video

SYSTEMS = [
    ("single-lite", None),
    ("dff-lite", None),
    ("fgfa-lite", None),
    ("fgfa-lite", "composed"),
    ("single-nano", None),
]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """As if the program had set it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}


def boxes_of(system: VideoDetector) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """All that is found in six frames: boxes, scores and labels."""
    frames = frames_of(video(6, size=(64, 96)))
    return np.concatenate([np.c_[found.boxes, found.scores, found.labels] for found in system.detect(frames)])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("name", "variant"), SYSTEMS, ids=str)
@pytest.mark.parametrize("backend", ["torch", "optimised"])
def test_detections_stay_the_same(name: str, variant: str | None, state: str, backend: str) -> None:
    system = load(name, variant=variant, backend=backend)
    wanted = boxes_of(system)
    assert len(wanted)
    with STATES[state]():
        found = boxes_of(system)
        loaded_inside = boxes_of(load(name, variant=variant, backend=backend))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(loaded_inside, wanted)


def test_a_system_without_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match='the system has no weights: it was built on the device "meta"'):
        boxes_of(tiny_system().to("meta"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_system_of_another_type_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ConfigError, match=f"in float32 or float64, and has weights in {str(dtype)[6:]}: call"):
        boxes_of(tiny_system().to(dtype))


@pytest.mark.parametrize("part", ["detector", "flow_net", "embedding"])
def test_a_system_of_mixed_types_is_refused(part: str) -> None:
    system = load("fgfa-lite", backend="torch")
    system.get_submodule(part).double()
    with pytest.raises(ConfigError, match="has weights in float32, float64: call"):
        boxes_of(system)


@pytest.mark.parametrize("options", [{"backend": "optimised"}, {"backend": "openvino"}, {"precision": "bf16"}], ids=str)
def test_what_computes_in_float32_refuses_float64(options: dict[str, Any]) -> None:
    system = load("dff-nano", **{"backend": "torch", **options}).double()
    with pytest.raises(ConfigError, match='load it with backend="torch" and no other precision, or call'):
        boxes_of(system)


@pytest.mark.parametrize(("name", "variant"), [*SYSTEMS, ("dff-nano", None), ("fgfa-nano", "aligned")], ids=str)
def test_in_float64_detections_are_those_of_float32_but_for_rounding(name: str, variant: str | None) -> None:
    system = load(name, variant=variant, backend="torch")
    wanted = boxes_of(system)
    found = boxes_of(system.double())
    assert 0 < np.abs(found - wanted).max() < 1e-2
