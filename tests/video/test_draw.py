import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageDraw

from flowdet.types import Detections
from flowdet.video import draw as draw_module
from flowdet.video.draw import Color, Font, draw_detections, label_size, readable

NAMES = ("car", "dog", "giant_panda", "ein Name mit Umlaut: Bär")
Image = NDArray[np.uint8]


def detections(
    boxes: list[list[float]], labels: list[int] | None = None, size: tuple[int, int] = (120, 160)
) -> Detections:
    count = len(boxes)
    return Detections(
        frame_index=0,
        time=0.0,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.1, count).astype(np.float32),
        labels=np.array(labels if labels is not None else [0] * count, np.int64),
        class_names=NAMES,
        image_size=size,
    )


def plain(size: tuple[int, int] = (120, 160)) -> Image:
    return np.full((*size, 3), 100, np.uint8)


def changed(image: Image, box: list[float], label: int = 0) -> NDArray[np.bool_]:
    drawn = draw_detections(image, detections([box], [label], (image.shape[0], image.shape[1])))
    mask: NDArray[np.bool_] = (drawn != image).any(axis=2)
    return mask


def test_without_detections_the_picture_is_equal_but_a_copy() -> None:
    image = plain()
    drawn = draw_detections(image, detections([]))
    assert np.array_equal(drawn, image)
    assert drawn is not image
    assert not np.shares_memory(drawn, image)


def test_the_input_is_not_changed_and_the_output_is_writeable() -> None:
    image = plain()
    image.flags.writeable = False
    drawn = draw_detections(image, detections([[20, 40, 100, 90]]))
    assert np.all(image == 100)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert drawn.flags.writeable


def test_the_box_is_drawn_on_its_sides_and_hollow() -> None:
    mask = changed(plain(), [20, 40, 100, 90])
    assert mask[40, 20:101].all()
    assert mask[90, 20:101].all()
    assert mask[40:91, 20].all()
    assert mask[40:91, 100].all()
    assert not mask[60:88, 25:95].any()
    assert not mask[95:].any()
    assert mask[25:40].any()


@pytest.mark.parametrize("box", [[0, 0, 159, 119], [150, 2, 170, 20], [-20, -20, 10, 10], [140, 110, 159, 119]])
def test_labels_stay_inside_the_picture(box: list[float]) -> None:
    inside = changed(plain(), box).sum()
    label = changed(plain(), [55, 55, 65, 65]).sum() - 40
    assert inside >= label


def test_boxes_outside_or_impossible_are_left_out() -> None:
    far: list[list[float]] = [[-50, -50, -10, -10], [500, 10, 600, 20], [10, 300, 20, 400]]
    odd: list[list[float]] = [[50, 50, 40, 60], [float("nan")] * 4]
    image = plain()
    assert np.array_equal(draw_detections(image, detections(far + odd)), image)
    infinite = [float("-inf"), float("-inf"), float("inf"), float("inf")]
    assert not np.array_equal(draw_detections(image, detections([infinite])), image)


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (40, 2), (48, 64), (1080, 1920)])
def test_any_picture_size_will_do(size: tuple[int, int]) -> None:
    image = plain(size)
    drawn = draw_detections(image, detections([[0, 0, size[1], size[0]]], [2], size))
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)


def test_text_grows_with_the_picture() -> None:
    heights = []
    for scale in (1, 8):
        mask = changed(plain((120 * scale, 160 * scale)), [30 * scale, 80 * scale, 100 * scale, 100 * scale])
        heights.append(int(mask[: 80 * scale].any(axis=1).sum()))
    assert heights[0] >= 10
    assert heights[1] > 2 * heights[0]


def test_a_class_has_one_colour_and_classes_differ() -> None:
    def colour(label: int, left: float) -> tuple[int, ...]:
        drawn = draw_detections(plain(), detections([[left, 60, left + 40, 90]], [label]))
        return tuple(int(value) for value in drawn[80, int(left)])

    colours = [colour(label, 20) for label in range(4)]
    assert colours == [colour(label, 90) for label in range(4)]
    for one in range(4):
        for other in range(one):
            assert np.abs(np.subtract(colours[one], colours[other])).sum() > 100


def test_the_higher_score_is_on_top() -> None:
    both = draw_detections(plain(), detections([[20, 60, 90, 90], [20, 60, 90, 90]], [0, 1]))
    first = draw_detections(plain(), detections([[20, 60, 90, 90]], [0]))
    assert np.array_equal(both[60:91], first[60:91])


def written(image: Image, found: Detections, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int, int, int]]:
    """The labels of a picture, each with the (left, top, right, bottom) of its ground."""
    labels = {}
    write = draw_module.write_label

    def record(pen: ImageDraw.ImageDraw, font: Font, text: str, *, color: Color, corner: tuple[int, int]) -> None:
        width, height = label_size(font, text)
        labels[text] = (*corner, corner[0] + width, corner[1] + height)
        write(pen, font, text, color=color, corner=corner)

    monkeypatch.setattr(draw_module, "write_label", record)
    draw_detections(image, found)
    return labels


@pytest.mark.parametrize("is_tracked", [True, False])
@pytest.mark.parametrize(
    "boxes",
    [
        [[100, 100, 300, 200]] * 8,
        [[100 + 4 * step, 100 + 2 * step, 112 + 4 * step, 110 + 2 * step] for step in range(8)],
        [[0, 0, 639, 359]] * 4,
        [[630, 350, 639, 359]] * 5,
    ],
)
def test_labels_do_not_cover_each_other(
    boxes: list[list[float]], is_tracked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (360, 640)
    ids = np.arange(1, len(boxes) + 1) if is_tracked else None
    labels = written(plain(size), replace(detections(boxes, size=size), track_ids=ids), monkeypatch)
    places = list(labels.values())
    assert len(places) == len(boxes)
    for left, top, right, bottom in places:
        assert left >= 0 <= top
        assert right <= size[1]
        assert bottom <= size[0]
    for one, other in itertools.combinations(places, 2):
        assert min(one[2], other[2]) <= max(one[0], other[0]) or min(one[3], other[3]) <= max(one[1], other[1])


def test_a_label_with_room_stands_above_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = written(plain(), detections([[20, 40, 100, 90]]), monkeypatch).values()
    assert (place[0], place[3]) == (20, 40)


def test_labels_of_tracks_keep_their_places_when_scores_change_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = replace(detections([[20, 40, 100, 90], [24, 44, 104, 94]]), track_ids=np.array([5, 3]))
    after = replace(
        before, boxes=before.boxes[::-1].copy(), scores=before.scores, track_ids=np.array([3, 5], dtype=np.int64)
    )
    places = [
        {text.split()[1]: place[:2] for text, place in written(plain(), found, monkeypatch).items()}
        for found in (before, after)
    ]
    assert places[0] == places[1]


def test_number_and_score_stand_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = detections([[20, 40, 100, 90]], [1])
    assert list(written(plain(), found, monkeypatch)) == ["dog  0.90"]
    assert list(written(plain(), replace(found, track_ids=np.array([3])), monkeypatch)) == ["dog #3  0.90"]


def test_twenty_boxes_are_quick() -> None:
    image = plain((720, 1280))
    corners = np.random.default_rng(0).uniform(0, 600, (20, 2))
    boxes = np.hstack([corners, corners + 100]).tolist()
    many = detections(boxes, [index % 4 for index in range(20)], (720, 1280))
    draw_detections(image, many)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        draw_detections(image, many)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1  # 10 ms on an idle core


def named(name: str) -> Image:
    return draw_detections(plain(), replace(detections([[20, 60, 140, 90]]), class_names=(name,)))


@pytest.mark.parametrize(("one", "other"), [("汽车", "火车"), ("ша", "щю"), ("자동차", "비행기"), ("é", "à")])
@pytest.mark.parametrize("has_fonts", [True, False])
def test_names_in_other_alphabets_are_told_apart(
    one: str, other: str, has_fonts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_fonts:
        monkeypatch.setattr(draw_module, "_fontconfig_fonts", lambda name: [])
        monkeypatch.setattr(draw_module, "_WIDE_FONTS", ("no-such-font.ttf",))
    readable.cache_clear()
    assert not np.array_equal(named(one), named(other))
    readable.cache_clear()


def test_without_a_font_names_are_written_in_latin_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_module, "_fontconfig_fonts", lambda name: [])
    monkeypatch.setattr(draw_module, "_WIDE_FONTS", ())
    readable.cache_clear()
    assert [readable(name, 12)[0] for name in ("汽车", "автомобиль", "car")] == [
        "QiChe",
        "avtomobil'",
        "car",
    ]
    readable.cache_clear()


def test_a_font_without_a_character_is_not_taken() -> None:
    assert draw_module._has_all(draw_module.font_of(12), "car (1)")
    assert not draw_module._has_all(draw_module.font_of(12), "汽车")
