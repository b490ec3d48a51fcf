from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flowdet.metrics.coco import evaluate_coco, match_coco
from tests.metrics.fixtures import Made, difference, made_sets


def pycocotools_figures(made: Made) -> dict[str, Any]:
    """The same document from the oracle."""
    data, table = made.data, made.table
    sizes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in data.objects.boxes.tolist()]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image.id} for image in data.images],
        "categories": [{"id": number, "name": name} for number, name in enumerate(made.classes, start=1)],
        "annotations": [
            {
                "id": number + 1,
                "image_id": data.images[image].id,
                "category_id": label + 1,
                "bbox": size,
                "area": area,
                "iscrowd": int(number in made.crowds),
            }
            for number, ((image, label, _), size, area) in enumerate(
                zip(made.objects, sizes, data.objects.areas.tolist(), strict=True)
            )
        ],
    }
    results = [
        {
            "image_id": data.images[image].id,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, label, (x1, y1, x2, y2), score in made.found
    ]
    with redirect_stdout(StringIO()):
        truth.createIndex()
        oracle = COCOeval(truth, truth.loadRes(results) if results else COCO(), "bbox")
        oracle.params.imgIds, oracle.params.catIds = truth.getImgIds(), truth.getCatIds()
        oracle.params.maxDets = [100, 300, 1000]
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    assert len(table) == len(results)
    names = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l")
    recalls = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
    precision = oracle.eval["precision"][:, :, :, 0, -1]
    by_class = dict(zip(made.classes, precision.transpose(2, 0, 1), strict=True))
    return {
        **{name: none_if_absent(value) for name, value in zip(names + recalls, oracle.stats, strict=True)},
        "per_class_AP50": {name: none_if_absent(values[0].mean()) for name, values in by_class.items()},
        "per_class_AP": {name: none_if_absent(values.mean()) for name, values in by_class.items()},
    }


def none_if_absent(value: float) -> float | None:
    return None if value == -1 else float(value)


@given(made_sets(ties=True, crowds=True))
def test_every_figure_is_that_of_pycocotools(made: Made) -> None:
    assert difference(evaluate_coco(made.data, made.table).document, pycocotools_figures(made)) < 1e-9


@given(made_sets(), st.randoms())
def test_the_order_of_the_detections_does_not_matter(made: Made, random: Any) -> None:
    order = list(range(len(made.found)))
    random.shuffle(order)
    shuffled = made.table.select(np.array(order, dtype=np.int64))
    assert evaluate_coco(made.data, shuffled).document == evaluate_coco(made.data, made.table).document


def test_more_detections_of_an_image_than_count() -> None:
    random = np.random.default_rng(0)
    corners = random.integers(0, 30, (1200, 2)).tolist()
    made = Made(
        frames=[0, 0],
        objects=[(place, 0, (x, y, x + 10, y + 10)) for place, x, y in random.integers(0, 2, (20, 3)).tolist()],
        found=[
            (0, 0, (x, y, x + 10, y + 10), score) for (x, y), score in zip(corners, random.random(1200), strict=True)
        ],
    )
    figures = evaluate_coco(made.data, made.table).document
    assert difference(figures, pycocotools_figures(made)) < 1e-9
    assert figures["AR@100"] < figures["AR@1000"]


def test_what_there_is_not_has_no_figure() -> None:
    made = Made(frames=[0], objects=[(0, 1, (0, 0, 10, 10))])
    figures = evaluate_coco(made.data, made.table)
    assert figures.headline == {"AP": 0, "AP50": 0, "AP75": 0}
    assert figures.per_class["AP50"] == {"cat": None, "dog": 0, "emu": None}
    assert figures.document["bbox_mAP_l"] is None
    empty = Made(frames=[0], objects=[], found=[(0, 1, (0, 0, 10, 10), 0.5)])
    assert evaluate_coco(empty.data, empty.table).headline == {"AP": None, "AP50": None, "AP75": None}


def test_a_detection_takes_the_object_that_it_overlaps_most_and_a_crowd_last() -> None:
    made = Made(
        frames=[0],
        objects=[(0, 0, (0, 0, 10, 8)), (0, 0, (0, 0, 10, 9)), (0, 0, (0, 0, 50, 50))],
        found=[(0, 0, (0, 0, 10, 10), score) for score in (0.9, 0.8, 0.7, 0.6)] + [(0, 0, (60, 60, 70, 70), 0.5)],
        crowds=frozenset({2}),
    )
    matches = next(iter(match_coco(made.data, made.table)))
    assert matches.matched.tolist() == [1, 0, 2, 2, -1]
    assert matches.true_positive.tolist() == [1, 1, 0, 0, 0]
    assert matches.false_positive.tolist() == [0, 0, 0, 0, 1]
    assert matches.objects.tolist() == [0, 1]
    assert evaluate_coco(made.data, made.table).headline["AP50"] == pytest.approx(1)


def test_half_an_overlap_is_enough() -> None:
    for height, right in ((5.0, 1), (4.9, 0)):
        made = Made(frames=[0], objects=[(0, 0, (0, 0, 10, 10))], found=[(0, 0, (0, 0, 10, height), 0.9)])
        assert evaluate_coco(made.data, made.table).headline["AP50"] == right
