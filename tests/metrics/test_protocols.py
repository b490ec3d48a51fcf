import gzip
from pathlib import Path

import numpy as np
import pytest

from flowdet.errors import ConfigError, DataError
from flowdet.metrics.protocols import PROTOCOLS, evaluate
from tests.metrics.fixtures import Case, Made, difference, unpack

VID10K = Path(__file__).resolve().parents[3] / "shared" / "evaluation" / "vid10k"
EVERY_PROTOCOL = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(unpack(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="module")
def vid10k(tmp_path_factory: pytest.TempPathFactory) -> Case:
    if not VID10K.is_dir():
        pytest.skip(f"the large recorded evaluation is not here: {VID10K}")
    folder = tmp_path_factory.mktemp("vid10k")
    for path in VID10K.iterdir():
        content = path.read_bytes()
        name = path.name.removesuffix(".gz")
        (folder / name).write_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)
    return Case(folder)


@EVERY_PROTOCOL
def test_the_recorded_figures_of_few_videos(protocol: str, small: Case) -> None:
    own = evaluate(small.data, small.detections, protocol).document
    assert difference(own, small.expected[protocol.replace("-", "_")]) < 1e-9


@EVERY_PROTOCOL
def test_the_recorded_figures_of_ten_thousand_frames(protocol: str, vid10k: Case) -> None:
    own = evaluate(vid10k.data, vid10k.detections, protocol, motion_iou=vid10k.motion).document
    assert difference(own, vid10k.expected[protocol.replace("-", "_")]) < 1e-9


def test_the_headlines(small: Case) -> None:
    figures = {protocol: evaluate(small.data, small.detections, protocol) for protocol in PROTOCOLS}
    assert [figures[protocol].protocol for protocol in PROTOCOLS] == list(PROTOCOLS)
    expected = small.expected
    assert figures["coco"].headline == pytest.approx(
        {name: expected["coco"][f"bbox_mAP{suffix}"] for name, suffix in (("AP", ""), ("AP50", "_50"), ("AP75", "_75"))}
    )
    assert figures["ilsvrc"].headline == pytest.approx({"mAP": expected["ilsvrc"]["mAP"]})
    speeds = {name: expected["ilsvrc_motion"][name]["mAP"] for name in ("slow", "medium", "fast", "all")}
    assert figures["ilsvrc-motion"].headline == pytest.approx(speeds)
    assert list(figures["ilsvrc-motion"].headline) == list(speeds)
    assert figures["ilsvrc-motion"].per_class["slow"]["airplane"] == 0.5


def test_a_protocol_that_there_is_not() -> None:
    made = Made(frames=[0], objects=[])
    with pytest.raises(ConfigError, match="no protocol 'voc'; the protocols are coco, ilsvrc, ilsvrc-motion"):
        evaluate(made.data, made.table, "voc")


def test_motion_needs_track_numbers_or_given_values() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    made = Made(frames=[0, 0], objects=[(0, 0, box), (1, 0, box)], found=[(0, 0, box, 0.5)], tracks=[3, -1])
    with pytest.raises(DataError, match=r"made\.json: 1 of 2 objects have no track number .* use the protocol ilsvrc"):
        evaluate(made.data, made.table, "ilsvrc-motion")
    figures = evaluate(made.data, made.table, "ilsvrc-motion", motion_iou=np.array([1.0, 0.5]))
    assert figures.headline == {"slow": 1, "medium": None, "fast": 0, "all": 0.5}
    for wrong in (np.array([1.0]), np.array([1.0, np.nan])):
        with pytest.raises(ConfigError, match="one number from 0 to 1 for each of the 2 objects"):
            evaluate(made.data, made.table, "ilsvrc-motion", motion_iou=wrong)
