"""All six published systems against recorded numbers of mmtracking, in the compact form that is in the repository.

The systems as they are defined compute in float64, which is the same on every processor; what users run, in float32.
"""

import numpy as np
import pytest

from flowdet.backends.optimised import optimise
from flowdet.types import Frame
from tests.comparison import CASES, TOLERANCES, Case, compare, compare_case, read_compact
from tests.golden import SYSTEMS_FILE
from tests.seeded import seeded_system

# Two frames show all parts at work, FGFA's whole window too; the runs on the smaller images go on to the end.
_FRAMES = 2


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tensors_of_mmtracking(case: Case) -> None:
    frames = read_compact(case, SYSTEMS_FILE)
    assert len(frames) == case.length
    if case.size == "a160x224":
        frames = frames[:_FRAMES]
    worst = compare_case(seeded_system(case.system).double(), case, frames)
    assert set(worst) == set(TOLERANCES) - ({"warped", "agg_cos", "agg_weights"} if "dff" in case.system else set())
    assert {name: value for name, value in worst.items() if not value <= TOLERANCES[name]} == {}


@pytest.mark.parametrize("system", ["dff-r50", "fgfa-r50"])
def test_tensors_of_mmtracking_by_an_optimised_system(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On maps as small as these the way of large ones would not be taken else.
    monkeypatch.setattr("flowdet.backends.convolutions._LEAST_TILES", 1)
    case = Case(system, "b113x200pad128x208")
    frames = read_compact(case, SYSTEMS_FILE)[:_FRAMES]
    worst = compare_case(optimise(seeded_system(system)), case, frames)
    assert {name: value for name, value in worst.items() if not value <= TOLERANCES[name]} == {}


def test_public_path_gives_the_detections_of_mmtracking() -> None:
    case = Case("dff-r50", "b113x200pad128x208")
    recorded = read_compact(case, SYSTEMS_FILE)
    system = case.configured(seeded_system(case.system))
    video = (Frame(number, number / 25, image) for number, image in enumerate(case.clip()))
    checked = 0
    for found, frame in zip(system.detect(video), recorded, strict=True):
        wanted = frame.values.get("dets")
        if wanted is None:
            continue
        assert len(found) == len(wanted)
        assert (np.diff(found.scores) <= 0).all()
        for label, *box, score in wanted:
            of_label = found.labels == label
            distances = np.abs(found.boxes[of_label] - box).max(axis=1)
            assert distances.min() < TOLERANCES["detections"]
            assert abs(found.scores[of_label][distances.argmin()] - score) < TOLERANCES["scores"]
        checked += 1
    assert checked == 2


def test_a_wrong_number_is_seen() -> None:
    case = Case("dff-r50", "b113x200pad128x208")
    system = seeded_system(case.system)
    (recording,) = case.record(system, 1)
    (right, *_) = read_compact(case, SYSTEMS_FILE)
    for name, tensor in recording.items():
        if name not in right.stats:
            continue
        for change in (1e-3 * tensor.abs().max(), float("nan")):
            wrong = compare(system, recording | {name: tensor + change}, right)
            assert name == "proposals" or not wrong[name] <= TOLERANCES[name]
