import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdet.metrics.detections import DetectionTable
from flowdet.tracking.seq_nms import seq_nms
from tests.metrics.fixtures import Box, Made, made_sets
from tests.metrics.plain import seq_nms_scores

BOX: Box = (0.0, 0.0, 10.0, 10.0)


def moved(by: float) -> Box:
    return by, 0.0, by + 10, 10.0


def rows(table: DetectionTable) -> list[tuple[int, int, float]]:
    return list(zip(table.images.tolist(), table.labels.tolist(), table.scores.round(9).tolist(), strict=True))


def test_a_weak_box_between_sure_ones_is_lifted_and_its_rival_leaves() -> None:
    made = Made(
        frames=[0, 0, 0],
        objects=[],
        found=[
            (0, 0, moved(0), 0.9),
            (1, 0, moved(1), 0.3),
            (1, 0, moved(5), 0.4),
            (2, 0, moved(2), 0.9),
            (2, 1, moved(2), 0.2),
        ],
    )
    assert rows(seq_nms(made.data, made.table)) == [(0, 0, 0.7), (1, 0, 0.7), (2, 0, 0.7), (2, 1, 0.2)]
    assert rows(seq_nms(made.data, made.table, rescore="max")) == [(0, 0, 0.9), (1, 0, 0.9), (2, 0, 0.9), (2, 1, 0.2)]
    kept = rows(seq_nms(made.data, made.table, suppress_iou=0.5))
    assert kept == [(0, 0, 0.7), (1, 0, 0.7), (1, 0, 0.4), (2, 0, 0.7), (2, 1, 0.2)]
    assert (1, 0, 0.4) in rows(seq_nms(made.data, made.table, link_iou=0.9))


def test_videos_and_stills_stay_apart_and_frames_follow_by_number() -> None:
    found = [(image, 0, BOX, score) for image, score in enumerate((0.1, 0.3, 0.5, 0.7, 0.9))]
    made = Made(frames=[0, 0, 1, None, None], objects=[], found=found, numbers=[4, 0, 0, 0, 0])
    assert rows(seq_nms(made.data, made.table)) == [(0, 0, 0.2), (1, 0, 0.2), (2, 0, 0.5), (3, 0, 0.7), (4, 0, 0.9)]
    gap = Made(frames=[0, 0, 0], objects=[], found=[found[0], (2, 0, BOX, 0.9)])
    assert rows(seq_nms(gap.data, gap.table)) == [(0, 0, 0.1), (2, 0, 0.9)]


def test_progress_counts_videos_and_nothing_found_stays_nothing() -> None:
    made, told = Made(frames=[0, 1, 2], objects=[]), list[int]()
    assert len(seq_nms(made.data, made.table, progress=told.append)) == 0
    assert told == [1, 1, 1]


@given(made_sets(), st.sampled_from(["average", "max"]))
def test_every_sequence_looked_for_afresh(made: Made, rescore: str) -> None:
    check_against_plain(made, rescore)


@pytest.mark.parametrize("seed", range(12))
def test_many_boxes_in_long_videos(seed: int) -> None:
    random = np.random.default_rng(seed)
    frames = [image // 20 for image in range(40)]
    corners = random.integers(0, 24, (300, 2)).tolist()
    found = [
        (int(random.integers(40)), int(random.integers(0, 2)), (x, y, x + 20.0, y + 20.0), float(random.random()))
        for x, y in corners
    ]
    check_against_plain(Made(frames, [], found), "average")


def check_against_plain(made: Made, rescore: str) -> None:
    expected: list[tuple[int, int, float]] = []
    for video in {video for video in made.frames if video is not None}:
        images = [image for image, one in enumerate(made.frames) if one == video]
        for label in range(3):
            mine = [one for one in made.found if one[0] in images and one[1] == label]
            frames = [images.index(one[0]) for one in mine]
            scores = seq_nms_scores(frames, [one[2] for one in mine], [one[3] for one in mine], rescore)
            new = [(*one[:2], round(score, 9)) for one, score in zip(mine, scores, strict=True) if score is not None]
            expected += new
    own = seq_nms(made.data, made.table, rescore="max" if rescore == "max" else "average")
    assert sorted(rows(own)) == sorted(expected)
