import numpy as np
import pytest
from flowdet.temporal.fast_fgfa import FastFGFAConfig

from flowdet.benchmark.steady import first_detections, frame_kinds, runner, steady_state
from flowdet.systems.stream import detect
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.temporal.single import SingleFrameConfig
from tests.benchmark.systems import FGFA, inputs_for, narrow_system
from tests.tiny import frames_of, video


@pytest.mark.parametrize("method", [SingleFrameConfig(), DFFConfig(key_frame_interval=2), FGFA])
def test_a_runner_finds_what_a_stream_finds(method: SingleFrameConfig | DFFConfig | FGFAConfig) -> None:
    system = narrow_system(method)
    pairs = detect(frames_of(video(5)), system.method, system.detector, system.config.inputs, system.config.class_names)
    expected = [found for _, found in pairs]
    run, state, came = runner(system), system.method.initial_state(), []
    for item in inputs_for(system, 5):
        ready, state = run(item, state)
        came += ready
    assert len(came) == 5 - system.method.lookahead
    for ours, theirs in zip(came, expected, strict=False):
        assert ours.frame_index == theirs.frame_index
        assert ours.image_size == theirs.image_size
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)


@pytest.mark.parametrize(
    "method", [FGFA, FGFAConfig(past=1, future=2, stride=2, embedding_channels=4), FGFAConfig(past=2, future=0)]
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_steady_window_is_full_and_true(method: FGFAConfig, *, begun: bool) -> None:
    system = narrow_system(method)
    whole = (method.past + method.future) * method.stride
    run = runner(system)
    state, expected = system.method.initial_state(), []
    for item in inputs_for(system, whole + 1):
        ready, state = run(item, state)
        expected += ready
    inputs = inputs_for(system, whole + 1)
    start = first_detections(run, system.method, inputs) if begun else system.method.initial_state()
    steady = steady_state(system.method, start, inputs)
    assert len(steady.window) >= whole
    (found,), following = run(next(inputs), steady)
    assert found.frame_index == method.past * method.stride == expected[-1].frame_index
    np.testing.assert_array_equal(found.boxes, expected[-1].boxes)
    assert [frame.index for frame in following.window] == [frame.index for frame in state.window]


@pytest.mark.parametrize("offsets", [(-3, -1, 1, 2), (-3, -1), (2,), ()])
@pytest.mark.parametrize("composed", [False, True])
def test_a_steady_window_of_fast_fgfa_is_full_and_true(offsets: tuple[int, ...], *, composed: bool) -> None:
    method = FastFGFAConfig(offsets, composed, embedding_channels=4)
    system = narrow_system(method)
    run, count = runner(system), method.past + method.future + 1
    state, expected = system.method.initial_state(), []
    for item in inputs_for(system, count):
        ready, state = run(item, state)
        expected += ready
    inputs = inputs_for(system, count)
    steady = steady_state(system.method, system.method.initial_state(), inputs)
    (found,), following = run(next(inputs), steady)
    assert found.frame_index == method.past == expected[-1].frame_index
    np.testing.assert_array_equal(found.boxes, expected[-1].boxes)
    assert [frame.index for frame in following.window] == [frame.index for frame in state.window]


def test_the_turn_of_recursive_aggregation_begins_with_a_key_frame_that_has_a_memory() -> None:
    system = narrow_system(RecursiveConfig(key_frame_interval=3, embedding_channels=4))
    assert frame_kinds(system.method) == ("key", "other", "other")
    state = steady_state(system.method, system.method.initial_state(), inputs_for(system, 4))
    assert state.received == 3
    assert state.memory is not None


def test_the_turns_of_frames() -> None:
    system = narrow_system(DFFConfig(key_frame_interval=3))
    assert frame_kinds(system.method) == ("key", "other", "other")
    assert frame_kinds(narrow_system(SingleFrameConfig()).method) == ("frame",)
    inputs = inputs_for(system, 2)
    state = first_detections(runner(system), system.method, inputs)
    assert isinstance(system.method, DFF)
    assert state.received == 1
    assert steady_state(system.method, state, inputs).received == 0
