from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowdet.data.sampling import ReferenceSampling, sample_references
from flowdet.errors import ConfigError

DFF = ReferenceSampling(count=1, reach=9, itself=True)
FGFA = ReferenceSampling(count=2, reach=9, both_sides=True)


def video(length: int) -> NDArray[np.int64]:
    return np.arange(length)


def drawn(frames: NDArray[np.int64], current: int, sampling: ReferenceSampling, seed: int = 0) -> tuple[int, ...]:
    return sample_references(frames, current, sampling, np.random.default_rng(seed))


@st.composite
def samplings(draw: st.DrawFn) -> ReferenceSampling:
    both_sides = draw(st.booleans())
    count = draw(st.integers(1, 3)) * (2 if both_sides else 1)
    return ReferenceSampling(count, draw(st.integers(0, 12)), both_sides, draw(st.booleans()))


@given(samplings(), st.sets(st.integers(0, 60), min_size=1), st.integers(0, 99))
def test_references_lie_where_they_may(sampling: ReferenceSampling, numbers: set[int], seed: int) -> None:
    frames = np.array(sorted(numbers))
    current = seed % len(frames)
    found = drawn(frames, current, sampling, seed)
    near = {place for place in range(len(frames)) if abs(frames[place] - frames[current]) <= sampling.reach}
    allowed = near if sampling.itself else near - {current}
    assert len(found) == sampling.count
    assert list(found) == sorted(found)
    assert set(found) <= (allowed or {current})
    if not sampling.both_sides:
        assert len(set(found)) == min(sampling.count, max(len(allowed), 1))


@given(st.integers(2, 40), st.integers(0, 39), st.integers(1, 3), st.integers(0, 99))
def test_half_of_them_lies_on_each_side_where_the_video_is_long_enough(
    length: int, current: int, half: int, seed: int
) -> None:
    current %= length
    found = drawn(video(length), current, ReferenceSampling(2 * half, 9, both_sides=True), seed)
    before, after = (min(half, places) for places in (current, length - 1 - current))
    assert len({place for place in found if place < current}) == before
    assert len({place for place in found if place > current}) == after


def test_at_the_ends_of_a_video_the_one_side_fills_both_slots() -> None:
    for current in (0, 19):
        (first, second) = drawn(video(20), current, FGFA)
        assert first == second != current


def test_a_video_of_one_frame_refers_to_itself() -> None:
    assert drawn(video(1), 0, FGFA) == (0, 0)
    assert drawn(video(1), 0, DFF) == (0,)


def test_a_gap_is_not_jumped() -> None:
    frames = np.array([0, 1, 2, 30, 31, 60])
    assert {drawn(frames, 2, DFF, seed) for seed in range(40)} == {(0,), (1,), (2,)}
    assert {drawn(frames, 3, FGFA, seed) for seed in range(10)} == {(4, 4)}
    assert drawn(frames, 5, FGFA) == (5, 5)


def test_the_reach_is_9_frames_to_both_sides() -> None:
    found = {drawn(video(50), 25, DFF, seed)[0] for seed in range(400)}
    assert found == set(range(16, 35))
    pairs = [drawn(video(50), 25, FGFA, seed) for seed in range(400)]
    assert {left for left, _ in pairs} == set(range(16, 25))
    assert {right for _, right in pairs} == set(range(26, 35))


# The values that chi-square stays below in 999 of 1000 cases, for 18 and 8 degrees of freedom.
@pytest.mark.parametrize(
    ("sampling", "slot", "offsets", "limit"),
    [(DFF, 0, range(-9, 10), 42.3), (FGFA, 0, range(-9, 0), 26.1), (FGFA, 1, range(1, 10), 26.1)],
)
def test_every_offset_is_as_likely(sampling: ReferenceSampling, slot: int, offsets: range, limit: float) -> None:
    rng = np.random.default_rng(7)
    frames = video(100)
    counts = Counter(sample_references(frames, 50, sampling, rng)[slot] - 50 for _ in range(4000))
    expected = 4000 / len(offsets)
    assert sum((counts[offset] - expected) ** 2 / expected for offset in offsets) < limit
    assert sum(counts[offset] for offset in offsets) == 4000


def test_near_an_end_the_frames_that_are_left_are_as_likely() -> None:
    rng = np.random.default_rng(3)
    counts = Counter(sample_references(video(100), 2, DFF, rng)[0] for _ in range(3600))
    assert set(counts) == set(range(12))
    assert sum((counts[place] - 300) ** 2 / 300 for place in range(12)) < 31.3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="count must be 1 or more, not 0"):
        ReferenceSampling(count=0)
    with pytest.raises(ConfigError, match="0 or more frames from the current one, not -1"):
        ReferenceSampling(count=1, reach=-1)
    with pytest.raises(ConfigError, match="an even number, not 3"):
        ReferenceSampling(count=3, both_sides=True)


def test_references_of_the_past_only() -> None:
    sampling = ReferenceSampling(count=2, reach=3, only_past=True)
    frames = np.arange(20)
    drawn = {sample_references(frames, 10, sampling, np.random.default_rng(seed)) for seed in range(60)}
    assert drawn == {(7, 8), (7, 9), (8, 9)}
    assert sample_references(frames, 0, sampling, np.random.default_rng(0)) == (0, 0)
    with pytest.raises(ConfigError, match="not both"):
        ReferenceSampling(count=2, both_sides=True, only_past=True)
