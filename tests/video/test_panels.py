from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowdet.types import Aggregation, FrameFeatures, Geometry, Propagation
from flowdet.video.overlay import panels_of, spread

# Two original pixels are three network pixels wide and four high; a quarter of the width is padding.
GEOMETRY = Geometry(original=(24, 32), valid=(48, 48), padded=(48, 64))
SIZE = (12, 16)
CELLS = (3, 4)


def flow_of(dx: float, dy: float) -> Tensor:
    """Flow in cells, absurd in the padding."""
    flow = torch.tensor([dx, dy])[:, None, None].expand(2, *CELLS).clone()
    flow[..., 3] = 1e6
    return flow


def aggregated(index: int, references: tuple[int, ...], weights: list[float]) -> FrameFeatures:
    flows = torch.stack([flow_of(reference - index, 0.5) for reference in references])[None]
    maps = torch.tensor(weights)[None, :, None, None].expand(1, -1, *CELLS)
    return FrameFeatures(index, (torch.zeros(1, 1, *CELLS),), (GEOMETRY,), Aggregation(references, maps, flows))


def propagated(index: int, key_frame: int, flow: Tensor | None) -> FrameFeatures:
    return FrameFeatures(index, (torch.zeros(1, 1, *CELLS),), (GEOMETRY,), Propagation(key_frame, flow))


def test_flow_is_in_original_pixels_and_the_padding_is_cut_off() -> None:
    panel, current = panels_of(propagated(7, 5, flow_of(1.0, -2.0)[None]), (1, 0), SIZE)
    assert panel.flow is not None
    assert panel.flow.shape == (2, *SIZE)
    assert panel.flow[0] == pytest.approx(16 / 1.5)
    assert panel.flow[1] == pytest.approx(-2 * 16 / 2)
    assert (panel.label, panel.weight, current.flow, current.label) == ("key frame, 2 back", None, None, "")


def test_maps_lie_where_their_cells_are() -> None:
    flow = flow_of(0.0, 0.0)
    flow[0, 0, 2] = 3.0
    panel, _ = panels_of(propagated(1, 0, flow[None]), (1, 0), SIZE)
    assert panel.flow is not None
    assert panel.flow[0, 0, -1] == panel.flow[0].max() == 32
    assert not panel.flow[0, 8:].any()
    assert not panel.flow[0, :, :5].any()


def test_a_key_frame_has_no_flow() -> None:
    panel, current = panels_of(propagated(6, 6, None), (1, 0), SIZE)
    assert (panel.label, panel.flow, current.label) == ("", None, "this is the key frame")


def test_a_key_frame_that_lies_ahead_stands_behind_the_current_frame() -> None:
    origin = Propagation(0, flow_of(1.0, 0.0)[None], 5, flow_of(-1.5, 0.0)[None])
    before, current, after = panels_of(replace(propagated(3, 0, None), origin=origin), (1, 1), SIZE)
    assert (before.label, current.label, after.label) == ("key frame, 3 back", "", "key frame, 2 ahead")
    assert before.flow is not None
    assert after.flow is not None
    assert before.flow[0] == pytest.approx(16 / 1.5)
    assert after.flow[0] == pytest.approx(-16)
    key = panels_of(propagated(5, 5, None), (1, 1), SIZE)
    assert [each.label for each in key] == ["", "this is the key frame", ""]


def test_the_window_stands_around_the_current_frame() -> None:
    features = aggregated(10, (8, 9, 11, 12), [0.1, 0.2, 0.3, 0.25, 0.15])
    panels = panels_of(features, (2, 2), SIZE)
    assert [panel.label for panel in panels] == ["-2", "-1", "this frame", "+1", "+2"]
    weights = [panel.weight for panel in panels if panel.weight is not None]
    assert [float(weight.mean()) for weight in weights] == pytest.approx([0.2, 0.3, 0.1, 0.25, 0.15])
    flows = [None if panel.flow is None else float(panel.flow[0].mean()) * 1.5 / 16 for panel in panels]
    assert flows == [pytest.approx(-2), pytest.approx(-1), None, pytest.approx(1), pytest.approx(2)]


def test_at_the_start_of_a_video_panels_stay_empty_and_slots_of_the_current_frame_count_as_one() -> None:
    features = aggregated(0, (0, 1, 2), [0.2, 0.5, 0.2, 0.1])
    panels = panels_of(features, (2, 1), SIZE)
    assert [panel.label for panel in panels] == ["", "", "this frame", "+1"]
    assert panels[0].weight is panels[0].flow is None
    assert panels[2].weight == pytest.approx(0.7)
    assert panels[2].flow is None


def test_frames_for_themselves_have_empty_panels() -> None:
    panels = panels_of(FrameFeatures(0, (torch.zeros(1, 1, *CELLS),), (GEOMETRY,)), (1, 2), SIZE)
    assert [(panel.label, panel.flow, panel.weight) for panel in panels] == [("", None, None)] * 4


@pytest.mark.parametrize(
    ("offsets", "count", "chosen"),
    [
        (range(-15, 0), 3, [-15, -8, -1]),
        (range(1, 16), 3, [1, 8, 15]),
        (range(-5, 0), 3, [-5, -3, -1]),
        (range(-15, 0), 6, [-15, -12, -9, -7, -4, -1]),
        ([-4, -2], 3, [-4, -2]),
        ([1, 2, 3], 1, [1]),
        ([-3, -2, -1], 1, [-1]),
        ([1, 2], 0, []),
        ([], 3, []),
    ],
)
def test_a_few_of_many_are_spread(offsets: list[int], count: int, chosen: list[int]) -> None:
    assert spread(offsets, count) == chosen
