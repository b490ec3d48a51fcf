from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flowdet.types import Aggregation, Detections, FrameFeatures, Geometry, Propagation
from flowdet.video.draw import draw_detections
from flowdet.video.overlay import Overlay, Part, draw_overlay

SIZE = (540, 960)
GEOMETRY = Geometry(original=SIZE, valid=(270, 480), padded=(272, 480))
WHOLE_SIZES = [(1, 1), (40, 30), (192, 320), (480, 854), (1280, 720), (2, 500)]


def noise(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def found(size: tuple[int, int] = SIZE, count: int = 1) -> Detections:
    box = np.array([[0.2 * size[1], 0.3 * size[0], 0.6 * size[1], 0.8 * size[0]]] * count, np.float32)
    return Detections(0, 0.0, box.reshape(-1, 4), np.ones(count, np.float32), np.zeros(count, np.int64), ("cat",), size)


def window(
    past: int = 2, future: int = 2, *, length: float = 1.0, share: float = 0.25, index: int = 9
) -> FrameFeatures:
    """Flow grows with the distance; the weights of the references fall from left to right."""
    references = tuple(index + offset for offset in range(-past, future + 1) if offset)
    flows = torch.zeros(1, len(references), 2, 17, 30)
    for place, reference in enumerate(references):
        flows[0, place, 0] = length * (reference - index)
    weights = share * torch.linspace(1, 0.5, 1 + len(references))[None, :, None, None].expand(1, -1, 17, 30)
    return FrameFeatures(index, (torch.zeros(1, 1, 17, 30),), (GEOMETRY,), Aggregation(references, weights, flows))


def carried(distance: int) -> FrameFeatures:
    flow = torch.full((1, 2, 17, 30), 1.5) if distance else None
    return FrameFeatures(20 + distance, (torch.zeros(1, 1, 17, 30),), (GEOMETRY,), Propagation(20, flow))


def overlay(*parts: Any, past: int = 2, future: int = 2) -> Overlay:
    return Overlay(frozenset(parts), past, future)


def test_nothing_to_show_is_the_detections() -> None:
    for features in (window(), carried(2)):
        drawn = draw_overlay(noise(), found(), features, overlay())
        assert np.array_equal(drawn, draw_detections(noise(), found()))
    assert overlay().picture_size((192, 320)) == (192, 320)


@pytest.mark.parametrize("size", WHOLE_SIZES)
@pytest.mark.parametrize("parts", [("flow",), ("weights",), ("flow", "weights")])
def test_every_picture_has_the_size_that_was_said(size: tuple[int, int], parts: tuple[Part, ...]) -> None:
    for features, past, future in ((window(), 5, 5), (carried(0), 1, 0), (carried(3), 1, 0), (window(0, 0), 0, 0)):
        chosen = overlay(*parts, past=past, future=future)
        drawn = draw_overlay(noise(size), found(size), features, chosen)
        assert drawn.shape == (*chosen.picture_size(size), 3)
        assert drawn.dtype == np.uint8
        assert drawn.shape[0] > size[0]


def test_the_frame_with_its_boxes_stands_above_and_is_left_as_it_is() -> None:
    image = noise()
    image.flags.writeable = False
    drawn = draw_overlay(image, found(), window(), overlay("flow", "weights"))
    assert np.array_equal(drawn[: SIZE[0]], draw_detections(image, found()))


def test_a_small_frame_is_enlarged_with_its_boxes() -> None:
    size = (96, 160)
    plain = np.full((*size, 3), 100, np.uint8)
    drawn = draw_overlay(plain, found(size), window(), overlay("flow"))
    assert drawn.shape[1] == 960
    edge = (drawn[: 6 * 96] != 100).any(axis=2)
    assert edge[6 * 50, round(6 * 0.2 * 160)]
    assert edge[6 * 50, round(6 * 0.6 * 160)]
    assert not edge[6 * 50, 6 * 40 : 6 * 90].any()


def test_flow_keeps_its_colours_when_all_of_it_grows_and_the_caption_tells() -> None:
    image = np.full((*SIZE, 3), 100, np.uint8)
    once, twice = (draw_overlay(image, found(), window(length=length), overlay("flow")) for length in (1.0, 10.0))
    changed = np.flatnonzero((once != twice).any(axis=(1, 2)))
    assert len(changed)
    assert SIZE[0] <= changed.min()
    assert changed.max() < SIZE[0] + 30


def test_flow_has_the_colours_of_its_direction_on_one_scale() -> None:
    image = np.full((*SIZE, 3), 255, np.uint8)
    strip = draw_overlay(image, found(count=0), window(), overlay("flow"))[SIZE[0] :]
    row = strip[len(strip) // 2, [96, 288, 672, 864]].astype(int)
    before_far, before_near, after_near, after_far = row
    assert before_far[0] < before_near[0] < 200
    assert before_far[2] == after_far[0] == 255
    assert after_far[1] < after_near[1] < 200


def test_weights_are_comparable_between_panels() -> None:
    image = np.full((*SIZE, 3), 100, np.uint8)
    strip = draw_overlay(image, found(count=0), window(), overlay("weights"))[SIZE[0] :]
    row = strip[len(strip) // 2, [480, 96, 288, 672, 864]].astype(int).sum(axis=1)
    assert (np.diff(row) < 0).all()


def test_key_frames_are_framed_and_the_others_are_counted() -> None:
    image = np.full((*SIZE, 3), 100, np.uint8)
    marks = [
        draw_overlay(image, found(count=0), carried(distance), overlay("key", past=1, future=0))
        for distance in (0, 1, 2)
    ]
    assert [mark.shape for mark in marks] == [image.shape] * 3
    assert [(mark[0] == 100).all() for mark in marks] == [False, True, True]
    corners = [mark[-30:, :200] for mark in marks]
    assert all((corner != 100).any() for corner in corners)
    assert not np.array_equal(corners[1], corners[2])


def test_the_edge_of_a_key_frame_covers_no_box_and_no_label() -> None:
    image, key = np.full((*SIZE, 3), 100, np.uint8), overlay("key", past=1, future=0)
    at_the_rim = replace(found(), boxes=np.array([[SIZE[1] - 60, 40, SIZE[1], 90]], np.float32)[[0] * len(found())])
    with_boxes = draw_detections(image, at_the_rim)
    drawn = draw_overlay(image, at_the_rim, carried(0), key)
    boxes = (with_boxes != 100).any(axis=2)
    boxes[-30:, :200] = False  # where the text stands
    assert boxes[:, -2:].any()
    assert np.array_equal(drawn[boxes], with_boxes[boxes])


def test_an_aggregation_that_has_key_frames_is_on_one() -> None:
    memory, key = window(past=1, future=0), overlay("key", past=1, future=0)
    drawn, expected = (draw_overlay(noise(), found(), features, key) for features in (memory, carried(0)))
    assert np.array_equal(drawn, expected)


def test_what_is_asked_for_is_all_that_changes() -> None:
    single = replace(window(), origin=None)
    assert np.array_equal(draw_overlay(noise(), found(), single, overlay("key")), draw_detections(noise(), found()))
    assert not np.array_equal(
        draw_overlay(noise(), found(), carried(1), overlay("flow")),
        draw_overlay(noise(), found(), carried(1), overlay("flow", "key")),
    )


@pytest.mark.parametrize(
    ("past", "future", "sides"),
    [(15, 15, (3, 3)), (5, 5, (3, 3)), (15, 0, (6, 0)), (1, 9, (1, 5)), (9, 2, (4, 2)), (1, 0, (1, 0)), (0, 0, (0, 0))],
)
def test_six_references_at_most_have_panels(past: int, future: int, sides: tuple[int, int]) -> None:
    assert overlay(past=past, future=future).sides == sides


def test_the_parts() -> None:
    assert get_args(Part) == ("flow", "weights", "key", "references")


def test_the_rows_stand_one_below_the_other() -> None:
    flow, weights, both = (
        draw_overlay(noise(), found(), window(), overlay(*parts))[SIZE[0] :]
        for parts in (("flow",), ("weights",), ("flow", "weights"))
    )
    assert np.array_equal(both[: len(flow) // 2], flow[: len(flow) // 2])
    assert np.array_equal(both[-len(weights) :], weights)


def test_weights_without_flow_leave_the_row_of_flow_empty() -> None:
    origin = window().origin
    assert isinstance(origin, Aggregation)
    unwarped = replace(window(), origin=replace(origin, flows=None))
    image = np.full((*SIZE, 3), 100, np.uint8)
    flow, nothing = (draw_overlay(image, found(), each, overlay("flow")) for each in (window(), unwarped))
    assert flow.shape == nothing.shape
    panel = nothing[SIZE[0] + 60 : SIZE[0] + 80, 60:120]
    assert (panel == panel[0, 0]).all()
    both = [draw_overlay(image, found(), each, overlay("weights")) for each in (window(), unwarped)]
    assert np.array_equal(both[0], both[1])
