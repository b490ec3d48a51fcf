from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowdet.data.cocovid import CocoVID, ImageRecord, Objects
from flowdet.errors import ConfigError, DataError
from flowdet.evaluation.worst_frames import FrameMistakes, draw_mistakes, save_mistakes, worst_frames
from flowdet.metrics.detections import DetectionTable
from tests.metrics.fixtures import Made

FOUND, MISSED, FALSE, WHITE = (0, 180, 140), (255, 200, 0), (235, 60, 30), (255, 255, 255)
SIZE = (720, 1280)


def data_of(*boxes: tuple[float, ...], size: tuple[int, int] = SIZE) -> CocoVID:
    """One image with cars in these boxes."""
    count = len(boxes)
    objects = Objects(
        ids=np.arange(count),
        images=np.zeros(count, np.int64),
        labels=np.zeros(count, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        areas=np.zeros(count),
        tracks=np.full(count, -1),
        crowds=np.zeros(count, np.bool_),
    )
    image = ImageRecord(7, "val/a clip/000003.JPEG", *size, None, None, True)
    return CocoVID(Path("val.json"), ("car",), (1,), (), (image,), objects)


def table_of(*rows: tuple[float, ...]) -> DetectionTable:
    """Detections of cars as (x1, y1, x2, y2, score)."""
    values = np.array(rows, np.float64).reshape(-1, 5)
    zeros = np.zeros(len(rows), np.int64)
    return DetectionTable(zeros, zeros, values[:, :4], values[:, 4])


def mistakes_of(
    missed: tuple[int, ...] = (), false: tuple[int, ...] = (), found: tuple[int, ...] = ()
) -> FrameMistakes:
    numbers = (np.array(rows, np.int64) for rows in (missed, false, found))
    return FrameMistakes(0, 1.0, *numbers)


def grey(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.full((*size, 3), 90, np.uint8)


def has(drawn: NDArray[np.uint8], x: float, y: float, color: tuple[int, int, int]) -> bool:
    """Whether this colour is within 3 pixels of a place."""
    near = drawn[max(0, round(y) - 3) : round(y) + 4, max(0, round(x) - 3) : round(x) + 4]
    return bool((near == color).all(axis=2).any())


def test_every_kind_has_its_colour() -> None:
    data = data_of((100, 100, 300, 300), (400, 100, 600, 300))
    table = table_of((110, 110, 310, 310, 0.9), (700, 400, 900, 600, 0.8))
    drawn = draw_mistakes(grey(), data, table, mistakes_of(missed=(1,), false=(1,), found=(0,)))
    assert has(drawn, 200, 100, WHITE)
    assert has(drawn, 200, 310, FOUND)
    assert has(drawn, 900, 500, FALSE)
    assert has(drawn, 400, 100, MISSED)
    assert not has(drawn, 400, 100, WHITE)
    assert not has(drawn, 1100, 650, FALSE)


def test_a_missed_box_is_dashed() -> None:
    drawn = draw_mistakes(grey(), data_of((100, 100, 700, 500)), table_of(), mistakes_of(missed=(0,)))
    along = [(drawn[98:103, x] == MISSED).all(axis=1).any() for x in range(120, 690)]
    assert 0.3 < np.mean(along) < 0.8
    assert not (drawn[98:103, 120:690] == WHITE).all(axis=2).any()


def test_what_is_not_named_is_not_drawn() -> None:
    table = table_of((110, 110, 310, 310, 0.2))
    drawn = draw_mistakes(grey(), data_of(), table, mistakes_of())
    np.testing.assert_array_equal(drawn[: SIZE[0]], grey())


def test_the_legend_is_below_the_picture() -> None:
    drawn = draw_mistakes(grey(), data_of(), table_of(), mistakes_of())
    assert drawn.shape[1:] == (SIZE[1], 3)
    assert 30 < drawn.shape[0] - SIZE[0] < 120
    for color in (FOUND, MISSED, FALSE, WHITE):
        assert (drawn[SIZE[0] :] == color).all(axis=2).any()


def test_a_small_picture_is_enlarged_with_its_boxes() -> None:
    drawn = draw_mistakes(
        grey((100, 160)), data_of(size=(100, 160)), table_of((20, 20, 80, 80, 0.9)), mistakes_of(false=(0,))
    )
    assert drawn.shape[1] == 640
    assert has(drawn, 80, 200, FALSE)
    assert has(drawn, 320, 200, FALSE)


def test_boxes_beyond_the_border_are_drawn_at_it() -> None:
    table = table_of((-50, -50, 2000, 2000, 0.9), (1270, 700, 1400, 800, 0.8))
    drawn = draw_mistakes(grey(), data_of(), table, mistakes_of(false=(0, 1)))
    assert has(drawn, 1275, 702, FALSE)


def write_image(folder: Path) -> Path:
    """The image of the data set below this folder."""
    file = folder / "val" / "a clip" / "000003.JPEG"
    file.parent.mkdir(parents=True)
    Image.fromarray(grey()).save(file, format="JPEG")
    return folder


def test_pictures_are_numbered_and_replace_older_ones(tmp_path: Path) -> None:
    data = data_of((100, 100, 300, 300))
    write_image(tmp_path / "images")
    worst = [mistakes_of(missed=(0,))] * 2
    folder = tmp_path / "worst"
    paths = save_mistakes(data, table_of(), worst, tmp_path / "images", folder)
    assert [path.name for path in paths] == ["01_val_a_clip_000003.jpg", "02_val_a_clip_000003.jpg"]
    with Image.open(paths[0]) as opened:
        assert opened.width == SIZE[1]
    (folder / "notes.txt").touch()
    save_mistakes(data, table_of(), worst[:1], tmp_path / "images", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["01_val_a_clip_000003.jpg", "notes.txt"]


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"val.json: image 7: there is no file .*000003.JPEG"):
        save_mistakes(data_of((1, 1, 9, 9)), table_of(), [mistakes_of(missed=(0,))], tmp_path, tmp_path / "worst")
    assert not (tmp_path / "worst").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "worst").touch()
    with pytest.raises(ConfigError, match="pictures cannot be written"):
        save_mistakes(data_of(), table_of(), [mistakes_of()], write_image(tmp_path / "images"), tmp_path / "worst")


LEFT, RIGHT, AWAY = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0), (80.0, 80.0, 90.0, 90.0)
MADE = Made(
    frames=[0, 0, 0, 1, None, None],
    objects=[(3, 0, LEFT), (0, 0, LEFT), (0, 1, RIGHT), (1, 0, LEFT), (2, 1, LEFT), (5, 0, LEFT)],
    found=[
        (0, 0, AWAY, 0.5),
        (0, 0, AWAY, 0.9),
        (0, 0, LEFT, 0.4),
        (1, 0, LEFT, 0.2),
        (2, 0, LEFT, 0.6),
        (3, 0, LEFT, 0.7),
        (4, 0, LEFT, 0.35),
    ],
)


def test_the_worst_first_and_not_too_many_of_a_video() -> None:
    worst = worst_frames(MADE.data, MADE.table, 10)
    # Frame 1 (one object missed) would be the third of its video, frame 3 has no mistake.
    assert [frame.image for frame in worst] == [0, 2, 5, 4]
    assert [frame.cost for frame in worst] == pytest.approx([2.4, 1.6, 1, 0.35])
    first = worst[0]
    assert (first.missed.tolist(), first.false.tolist(), first.found.tolist()) == ([2], [1, 0], [2])
    assert worst[1].missed.tolist() == [4]


def test_all_of_a_video_and_other_scores() -> None:
    worst = worst_frames(MADE.data, MADE.table, 3, score=0.1, per_video=3)
    assert [frame.image for frame in worst] == [0, 2, 5]
    assert 1 not in [frame.image for frame in worst_frames(MADE.data, MADE.table, 9, score=0.1, per_video=3)]
    assert 1 in [frame.image for frame in worst_frames(MADE.data, MADE.table, 9, per_video=3)]


def test_nothing_is_wrong() -> None:
    made = Made(frames=[0], objects=[(0, 0, LEFT)], found=[(0, 0, LEFT, 0.9)])
    assert worst_frames(made.data, made.table, 5) == []
    assert worst_frames(Made([0], []).data, Made([0], []).table, 5) == []


def test_a_crowd_is_not_missed() -> None:
    made = Made(frames=[0], objects=[(0, 0, LEFT), (0, 0, RIGHT)], found=[(0, 0, LEFT, 0.9)], crowds=frozenset({0, 1}))
    assert worst_frames(made.data, made.table, 5) == []


@pytest.mark.parametrize(("one", "other"), [("汽车", "火车"), ("자동차", "비행기"), ("é", "à")])
def test_names_in_other_alphabets_are_told_apart(one: str, other: str) -> None:
    mistakes, table = mistakes_of(missed=(0,), false=(0,)), table_of((100, 300, 200, 400, 0.9))
    drawn = [
        draw_mistakes(grey(), replace(data_of((300, 300, 500, 500)), class_names=(name,)), table, mistakes)
        for name in (one, other)
    ]
    differs = (drawn[0] != drawn[1]).any(axis=2)
    assert differs[:300].any()  # above the detection
    assert differs[500:].any()  # below the missed object
