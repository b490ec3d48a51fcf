import numpy as np
import pytest

from flowdet.data.synthetic.assets import load_assets
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.data.synthetic.scene import Scene, draw_scene
from flowdet.errors import ConfigError

CONFIG = SyntheticConfig()
NAMES = ("dog", "zebra", "train")


def drawn(seed: int, length: int = 34) -> Scene:
    rng = np.random.default_rng(seed)
    return draw_scene(rng, load_assets("train"), first="zebra", class_names=NAMES, length=length, config=CONFIG)


SCENES = [drawn(seed) for seed in range(60)]


def test_the_first_object_has_its_class_and_others_one_of_the_classes() -> None:
    for scene in SCENES:
        names = [name for name in scene.class_names if name]
        assert "zebra" in names
        assert set(names) <= set(NAMES)
        assert scene.class_names[0] is None
        assert scene.layers[0].is_ground
        for name, picture in zip(scene.class_names[1:], scene.pictures[1:], strict=True):
            assert picture.split("/")[0] == (name or "_")


def test_bursts_have_sharp_neighbours() -> None:
    long = drawn(3, 4000)
    for before, after in zip(long.bursts, long.bursts[1:], strict=False):
        assert after.start - (before.start + before.length) >= CONFIG.sharp
    assert {burst.length for burst in long.bursts} == set(range(3, 9))
    assert {burst.kind for burst in long.bursts} == {"defocus", "shake", "exposure"}


def test_the_published_share_of_frames_is_degraded() -> None:
    long = drawn(5, 20_000)
    degraded = np.zeros(20_000, dtype=bool)
    for burst in long.bursts:
        degraded[max(burst.start, 0) : burst.start + burst.length] = True
    assert degraded.mean() == pytest.approx(CONFIG.degraded, abs=0.02)
    first = np.mean([any(0 in burst for burst in scene.bursts) for scene in SCENES])
    assert first == pytest.approx(CONFIG.degraded, abs=0.15)


def test_each_shake_is_in_the_path_of_the_camera() -> None:
    for scene in SCENES:
        shakes = [(burst.start, burst.length) for burst in scene.bursts if burst.kind == "shake"]
        jolts = scene.layers[0].shake.jolts
        assert [(jolt.start, jolt.length) for jolt in jolts] == shakes
        assert all(layer.shake is scene.layers[0].shake for layer in scene.layers)


def test_motion_factors_fill_their_range_evenly_by_their_logarithm() -> None:
    low, high = np.log(CONFIG.motion)
    logs = (np.log([scene.motion for scene in SCENES]) - low) / (high - low)
    assert 0 <= logs.min() < 0.15
    assert 0.85 < logs.max() <= 1
    assert np.mean(logs) == pytest.approx(0.5, abs=0.12)


def test_faster_clips_have_faster_objects() -> None:
    def speed(scene: Scene) -> float:
        layer = next(layer for layer, name in zip(scene.layers, scene.class_names, strict=True) if name)
        x = [layer.place.x.at(time) for time in range(35)]
        return float(np.abs(np.diff(x)).mean() / (layer.picture.shape[2] * layer.scale(0)))

    motions, speeds = [scene.motion for scene in SCENES], [speed(scene) for scene in SCENES]
    assert np.corrcoef(np.log(motions), np.log(speeds))[0, 1] > 0.6


def test_a_tiny_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="32 pixels or larger, not 320x8"):
        SyntheticConfig(size=(8, 320))
