from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.assets import load_assets
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.errors import ConfigError
from scripts.lite_clips.drawings import SyntheticClips
from scripts.lite_clips.restyle import RestyleConfig, restyled

PLAIN = RestyleConfig(bend=0, hue=0, flat=0, pale=0, lines=0, outline=0)


def drawing() -> Image.Image:
    image = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((5, 5, 75, 55), (200, 120, 60, 255))
    draw.rectangle((30, 20, 50, 40), (60, 160, 220, 255))
    return image


def looks(config: RestyleConfig, count: int = 8) -> Iterator[Image.Image]:
    return (restyled(drawing(), np.random.default_rng(seed), config) for seed in range(count))


def test_without_a_change_only_the_empty_border_goes() -> None:
    image = drawing()
    for found in looks(PLAIN, 2):
        assert found.tobytes() == image.crop(image.getbbox()).tobytes()


@pytest.mark.parametrize("change", ["bend", "hue", "flat", "pale", "lines", "outline"])
def test_each_change_shows_and_leaves_a_drawing(change: str) -> None:
    share = 0.1 if change == "bend" else 1.0
    plain = next(looks(PLAIN))
    for found in looks(replace(PLAIN, **{change: share})):
        assert found.mode == "RGBA"
        assert found.tobytes() != plain.tobytes()
        alpha = np.array(found.getchannel("A"))
        assert 0.4 < (alpha > 128).mean() < 1


def test_an_outline_makes_the_drawing_larger_and_keeps_what_is_in_it() -> None:
    plain = next(looks(PLAIN))
    for found in looks(replace(PLAIN, outline=1.0)):
        assert found.width > plain.width
        assert found.height > plain.height
        assert max(found.getpixel((found.width // 2, 0))[:3]) < 70  # type: ignore[index]
        assert found.getpixel((found.width // 2, found.height // 2)) == (60, 160, 220, 255)


def test_flat_colours_are_few() -> None:
    shaded = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8))
    shaded.putalpha(255)
    found = restyled(shaded, np.random.default_rng(0), replace(PLAIN, flat=1.0))
    assert len(found.getcolors(10_000) or ()) <= 9


def test_the_drawing_itself_stays_and_the_same_chance_gives_the_same_look() -> None:
    image = drawing()
    before = image.tobytes()
    first, again, other = (restyled(image, np.random.default_rng(seed), RestyleConfig()) for seed in (1, 1, 2))
    assert image.tobytes() == before
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_every_drawing_of_the_pack_can_be_restyled() -> None:
    rng = np.random.default_rng(0)
    for pictures in load_assets("train").drawings.values():
        found = restyled(pictures[0].image(), rng, RestyleConfig())
        assert min(found.size) > 10


def test_clips_are_restyled_when_it_is_wanted() -> None:
    config = SyntheticConfig(size=(96, 160))
    plain, changed = (
        SyntheticClips(VID_CLASSES, config, restyle=restyle).draw(np.random.default_rng(3), 0).frames
        for restyle in (None, RestyleConfig())
    )
    assert (plain != changed).float().mean() > 0.01


def test_a_probability_beyond_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="hue of a restyled drawing is from 0 to 1, not 2"):
        RestyleConfig(hue=2)
