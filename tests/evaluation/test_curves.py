import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from PIL import Image

from flowdet.errors import ConfigError
from flowdet.evaluation.curves import Curve, precision_at, precision_recall, save_curves, save_summary
from flowdet.evaluation.plotting import check_plotting
from flowdet.metrics.coco import evaluate_coco
from flowdet.video import draw
from flowdet.video.draw import readable
from tests.metrics.fixtures import Made, difference, made_sets


def curve(rights: list[bool], boxes: int, name: str = "car", ap50: float | None = 0.5) -> Curve:
    """Of detections in falling order of score that are right or false."""
    hits = np.cumsum(rights)
    scores = np.linspace(0.9, 0.1, len(rights))
    return Curve(name, hits / max(boxes, 1), hits / np.arange(1, len(rights) + 1), scores, ap50, boxes)


def pixels_of(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB")).astype(np.int64)


def blue(path: Path) -> int:
    """How many pixels a line or a bar covers."""
    pixels = pixels_of(path)
    return int((abs(pixels - (0x00, 0x72, 0xB2)).sum(axis=2) < 30).sum())


def test_precision_is_the_best_at_this_recall_or_higher() -> None:
    # Recall .25 .25 .5 .75, precision 1 .5 .67 .75: the dips are filled, beyond the last recall there is nothing.
    found = precision_at(curve([True, False, True, True], boxes=4), np.array([0, 0.25, 0.26, 0.5, 0.75, 0.76, 1.0]))
    np.testing.assert_allclose(found, [1, 1, 0.75, 0.75, 0.75, 0, 0])


def test_precision_without_detections_is_0() -> None:
    np.testing.assert_array_equal(precision_at(curve([], boxes=2), np.array([0.0, 1.0])), [0, 0])


def test_the_mean_over_101_recalls_is_the_ap() -> None:
    rights = list(np.random.default_rng(0).random(300) < 0.4)
    shown = curve(rights, boxes=200)
    expected = np.mean([max([*shown.precision[shown.recall >= r], 0.0]) for r in np.linspace(0, 1, 101)])
    assert precision_at(shown, np.linspace(0, 1, 101)).mean() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("save", [save_curves, save_summary])
def test_more_found_is_more_ink(save: object, tmp_path: Path) -> None:
    assert callable(save)
    for name, rights in (("good", [True] * 9), ("bad", [True] + [False] * 8)):
        found = curve(rights, boxes=9, ap50=sum(rights) / 9)
        save([found, curve([], 3, "cat", 0.0), curve([False], 0, "dog", None)], tmp_path / f"{name}.png")
    assert blue(tmp_path / "good.png") > blue(tmp_path / "bad.png") > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.png", "good.png"]


def test_a_field_for_each_class_that_has_boxes(tmp_path: Path) -> None:
    few = [curve([True], 1, f"class {number}") for number in range(2)]
    many = [curve([True], 1, f"class {number}") for number in range(11)]
    save_curves([*few, curve([False], 0, "none", None)], tmp_path / "few.png")
    save_curves(many, tmp_path / "many.png")
    small, large = pixels_of(tmp_path / "few.png"), pixels_of(tmp_path / "many.png")
    assert large.shape[0] > 2 * small.shape[0]
    assert large.shape[1] > 2 * small.shape[1]


@pytest.mark.parametrize("save", [save_curves, save_summary])
def test_a_name_is_not_taken_for_a_formula(save: object, tmp_path: Path) -> None:
    assert callable(save)
    save([curve([True], 1, r"5 $ or \frac$")], tmp_path / "x.png")
    assert blue(tmp_path / "x.png")


@pytest.mark.parametrize("save", [save_curves, save_summary])
@pytest.mark.parametrize("has_fonts", [True, False])
def test_names_in_other_alphabets_are_told_apart(
    save: object, has_fonts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matplotlib warns of a character that no font has, and a warning is an error here."""
    assert callable(save)
    if not has_fonts:
        monkeypatch.setattr(draw, "_fontconfig_fonts", lambda name: [])
        monkeypatch.setattr(draw, "_WIDE_FONTS", ())
    readable.cache_clear()
    for number, name in enumerate(("汽车", "火车")):
        save([curve([True], 1, name), curve([True], 1, "自行车 é")], tmp_path / f"{number}.png")
    assert not np.array_equal(pixels_of(tmp_path / "0.png"), pixels_of(tmp_path / "1.png"))
    readable.cache_clear()


def test_no_class_at_all_is_an_empty_plot(tmp_path: Path) -> None:
    for number, save in enumerate((save_curves, save_summary)):
        save([], tmp_path / f"{number}.png")
        assert pixels_of(tmp_path / f"{number}.png").shape[1] > 100


def test_without_matplotlib_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_plotting()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for call in (check_plotting, lambda: save_curves([], tmp_path / "x.png"), lambda: save_summary([], tmp_path / "x")):
        with pytest.raises(ConfigError, match=r"pip install matplotlib"):
            call()


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        save_curves([], tmp_path / "nowhere" / "x.png")


BOX, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def test_a_curve_point_by_point() -> None:
    made = Made(
        frames=[0, 0],
        objects=[(0, 1, BOX), (1, 1, BOX), (1, 0, BOX), (0, 1, ELSEWHERE)],
        found=[(0, 1, BOX, 0.5), (1, 1, ELSEWHERE, 0.7), (1, 1, BOX, 0.9), (1, 1, BOX, 0.1), (0, 2, BOX, 0.3)],
    )
    cat, dog, emu = precision_recall(made.data, made.table)
    assert dog.class_name == "dog"
    assert dog.scores.tolist() == [0.9, 0.7, 0.5, 0.1]
    assert dog.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert dog.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert dog.boxes == 3
    # 34 of the 101 recalls lie at or below one third, 33 more at or below two thirds.
    assert dog.ap50 == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert (cat.ap50, cat.boxes, cat.recall.size) == (0, 1, 0)
    assert (emu.ap50, emu.boxes) == (None, 0)
    assert emu.precision.tolist() == [0]
    assert emu.recall.tolist() == [0]


def test_a_crowd_first_leaves_the_precision_whole() -> None:
    made = Made(frames=[0], objects=[(0, 0, BOX), (0, 0, ELSEWHERE)], crowds=frozenset({0}))
    made.found = [(0, 0, BOX, 0.9), (0, 0, ELSEWHERE, 0.8)]
    curve = precision_recall(made.data, made.table)[0]
    assert curve.precision.tolist() == [1, 1]
    assert curve.recall.tolist() == [0, 1]
    assert curve.boxes == 1


@given(made_sets(crowds=True, ties=True))
def test_its_ap_is_that_of_the_protocol(made: Made) -> None:
    own = {curve.class_name: curve.ap50 for curve in precision_recall(made.data, made.table)}
    assert difference(own, evaluate_coco(made.data, made.table).per_class["AP50"]) == 0
