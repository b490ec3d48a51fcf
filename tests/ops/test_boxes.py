import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import nms

from flowdet.ops.boxes import assign, best_apart, choose_randomly, clamp, decode, encode, sample, seeded_choosers

Box = tuple[float, float, float, float]


@st.composite
def a_box(draw: st.DrawFn) -> Box:
    x, y = (draw(st.floats(-200, 1200)) for _ in range(2))
    width, height = (draw(st.floats(8, 400)) for _ in range(2))
    return x, y, x + width, y + height


@given(
    st.lists(st.tuples(a_box(), a_box()), min_size=1, max_size=8),
    st.sampled_from([(1.0,) * 4, (0.2,) * 4, (0.1, 0.1, 0.2, 0.2)]),
)
def test_decoding_inverts_encoding(pairs: list[tuple[Box, Box]], stds: tuple[float, ...]) -> None:
    boxes, targets = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    deltas = encode(boxes, targets, stds)
    torch.testing.assert_close(decode(boxes, deltas[:, None], stds)[:, 0], targets, rtol=1e-9, atol=1e-6)


@given(a_box(), st.tuples(*[st.floats(-2, 2)] * 4))
def test_encoding_inverts_decoding(box: Box, deltas: Box) -> None:
    boxes, moves = torch.tensor([box], dtype=torch.float64), torch.tensor([[deltas]], dtype=torch.float64)
    moved = decode(boxes, moves, (0.2,) * 4)
    torch.testing.assert_close(encode(boxes, moved[:, 0], (0.2,) * 4), moves[0], rtol=1e-6, atol=1e-9)


def test_deltas_in_the_words_of_the_paper() -> None:
    (deltas,) = encode(
        torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[20.0, 20, 60, 40]]), (0.5, 0.5, 0.5, 0.25)
    ).tolist()
    assert deltas == pytest.approx([20 / 20 / 0.5, -10 / 40 / 0.5, math.log(2) / 0.5, math.log(0.5) / 0.25])


def test_a_box_grows_and_shrinks_to_a_limit() -> None:
    (found,) = decode(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[[0, 0, 100.0, -100]]]), (1.0,) * 4)[
        :, 0
    ].tolist()
    limit = 1000 / 16
    assert found == pytest.approx([5 - 5 * limit, 5 - 5 / limit, 5 + 5 * limit, 5 + 5 / limit])


def test_several_deltas_a_box_and_none() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 20], [5, 5, 6, 7]])
    deltas = torch.tensor([[[0.0, 0, 0, 0], [1, 0, 0, 0]], [[0, 1, 0, 0], [0, 0, 0, 0]]])
    assert decode(boxes, deltas, (1.0,) * 4).tolist() == [
        [[0, 0, 10, 20], [10, 0, 20, 20]],
        [[5, 7, 6, 9], [5, 5, 6, 7]],
    ]
    assert decode(torch.zeros(0, 4), torch.zeros(0, 3, 4), (1.0,) * 4).shape == (0, 3, 4)
    assert encode(torch.zeros(0, 4), torch.zeros(0, 4), (1.0,) * 4).shape == (0, 4)


def test_clamping_knows_height_from_width() -> None:
    assert clamp(torch.tensor([[-1.0, -2, 50, 60], [5, 6, 7, 8]]), (30, 40)).tolist() == [[0, 0, 40, 30], [5, 6, 7, 8]]


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def assign_slowly(
    boxes: Sequence[Box], truth: Sequence[Box], positive: float, negative: float, weakest: float
) -> list[int]:
    matches = []
    for box in boxes:
        overlaps = [overlap(box, of_truth) for of_truth in truth]
        best = max(overlaps, default=0.0)
        matches.append(overlaps.index(best) if overlaps and best >= positive else -1 if best < negative else -2)
    for number, of_truth in enumerate(truth):
        overlaps = [overlap(box, of_truth) for box in boxes]
        best = max(overlaps, default=0.0)
        if best >= weakest:
            matches = [number if o == best else m for o, m in zip(overlaps, matches, strict=True)]
    return matches


@st.composite
def a_coarse_box(draw: st.DrawFn) -> Box:
    """On a grid, so that boxes tie, touch and coincide."""
    x, y = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    return x, y, x + draw(st.integers(1, 4)), y + draw(st.integers(1, 4))


@given(
    boxes=st.lists(a_coarse_box(), max_size=12),
    truth=st.lists(a_coarse_box(), max_size=4),
    thresholds=st.sampled_from([(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.6, 0.2, 0.4)]),
)
def test_assignment_equals_brute_force(
    boxes: list[Box], truth: list[Box], thresholds: tuple[float, float, float]
) -> None:
    positive, negative, weakest = thresholds
    found = assign(
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        torch.tensor(truth, dtype=torch.float64).reshape(-1, 4),
        positive=positive,
        negative=negative,
        weakest_positive=weakest,
    )
    assert found.dtype == torch.int64
    assert found.tolist() == assign_slowly(boxes, truth, *thresholds)


def test_a_later_ground_truth_box_takes_what_an_earlier_one_claimed() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    box = torch.tensor([[0.0, 0, 10, 9.5]])
    assert assign(box, truth, positive=0.5, negative=0.5, weakest_positive=0.5).tolist() == [1]


def matched(positives: int, negatives: int, neither: int) -> Tensor:
    matches = torch.tensor([3] * positives + [-1] * negatives + [-2] * neither, dtype=torch.int64)
    return matches[torch.randperm(len(matches), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ((100, 100, 5), (8, 24)),
        ((3, 100, 5), (3, 29)),
        ((100, 4, 5), (8, 4)),
        ((2, 2, 5), (2, 2)),
        ((0, 50, 5), (0, 32)),
        ((0, 0, 5), (0, 0)),
        ((0, 0, 0), (0, 0)),
    ],
)
def test_sample_counts(available: tuple[int, int, int], expected: tuple[int, int]) -> None:
    matches = matched(*available)
    found = sample(matches, 32, 0.25)
    assert (len(found.positives), len(found.negatives)) == expected
    assert (matches[found.positives] == 3).all()
    assert (matches[found.negatives] == -1).all()
    assert len(set(found.positives.tolist())) == expected[0]
    assert len(set(found.negatives.tolist())) == expected[1]


def test_the_choice_is_the_callers_and_is_asked_only_when_there_is_one() -> None:
    asked: list[tuple[int, int]] = []

    def last(indices: Tensor, count: int) -> Tensor:
        asked.append((len(indices), count))
        return indices[-count:]

    matches = torch.tensor([0, 0, 0, -1, -1, -1, -1])
    found = sample(matches, 4, 0.5, last)
    assert (found.positives.tolist(), found.negatives.tolist()) == ([1, 2], [5, 6])
    assert asked == [(3, 2), (4, 2)]
    sample(matches, 7, 0.5, last)
    assert asked == [(3, 2), (4, 2)]


def test_random_choice_is_uniform_without_repetition() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        counts = torch.zeros(10)
        for _ in range(2000):
            chosen = choose_randomly(torch.arange(10, 20), 3)
            assert len(set(chosen.tolist())) == 3
            counts[chosen - 10] += 1
    assert counts.min() > 520
    assert counts.max() < 680


def test_seeded_choosers_depend_on_their_seed_alone() -> None:
    indices = torch.arange(100, 200)
    first, second, third = seeded_choosers([7, 8, 7])
    torch.manual_seed(1)
    drawn = [(choose(indices, 5).tolist(), choose(indices, 5).tolist()) for choose in (first, second, third)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert drawn[0][0] != drawn[0][1]
    assert all(len(set(part)) == 5 and set(part) <= set(range(100, 200)) for pair in drawn for part in pair)


@pytest.mark.parametrize(("count", "spread"), [(1, 400), (300, 400), (300, 60), (2000, 2000), (5000, 300)])
def test_best_apart_is_the_beginning_of_non_maximum_suppression(count: int, spread: int) -> None:
    generator = torch.Generator().manual_seed(spread)
    corners = torch.rand(2300, 2, generator=generator) * spread
    boxes = torch.cat((corners, corners + 20 + 60 * torch.rand(2300, 2, generator=generator)), dim=1)
    scores = torch.linspace(1, 0, 2300)
    assert best_apart(boxes, scores, 0.5, count).tolist() == nms(boxes, scores, 0.5)[:count].tolist()


@pytest.mark.parametrize(("count", "spread", "classes"), [(100, 60, 30), (1, 60, 2), (2300, 100, 3), (5000, 20, 1)])
def test_best_apart_with_labels_is_the_beginning_of_that_of_all_classes(count: int, spread: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(spread)
    corners = torch.rand(2300, 2, generator=generator) * spread
    boxes = torch.cat((corners, corners + 20 + 60 * torch.rand(2300, 2, generator=generator)), dim=1)
    labels = torch.randint(classes, (2300,), generator=generator)
    scores = torch.linspace(1, 0, 2300)
    of_classes = [(labels == label).nonzero().flatten() for label in range(classes)]
    wanted = torch.cat([group[nms(boxes[group], scores[group], 0.5)] for group in of_classes]).sort().values
    assert best_apart(boxes, scores, 0.5, count, labels).tolist() == wanted[:count].tolist()


@pytest.mark.parametrize("labels", [None, torch.zeros(0, dtype=torch.int64)])
def test_best_apart_of_no_boxes(labels: Tensor | None) -> None:
    assert best_apart(torch.zeros(0, 4), torch.zeros(0), 0.5, 10, labels).tolist() == []
