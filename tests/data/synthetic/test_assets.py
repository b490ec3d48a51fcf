from importlib.resources import files

import pytest

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.assets import SPLITS, Split, load_assets

PACK = files("flowdet.data.synthetic").joinpath("pack")


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_has_several_drawings_in_both_splits(split: Split) -> None:
    drawings = load_assets(split).drawings
    assert set(drawings) == set(VID_CLASSES)
    assert min(len(pictures) for pictures in drawings.values()) >= 2
    assert all(picture.name.startswith(f"{name}/") for name, pictures in drawings.items() for picture in pictures)


def test_training_and_validation_have_nothing_in_common() -> None:
    train, val = load_assets("train"), load_assets("val")

    def families(assets: object) -> set[str]:
        assert assets in {train, val}
        pictures = [picture for group in (train if assets is train else val).drawings.values() for picture in group]
        return {picture.name.split("/")[1] for picture in pictures}

    assert families(train) & families(val) == set()
    for mine, theirs in ((train.photographs, val.photographs), (train.props, val.props)):
        assert {picture.content for picture in mine} & {picture.content for picture in theirs} == set()
        assert {picture.name for picture in mine} & {picture.name for picture in theirs} == set()


@pytest.mark.parametrize("split", SPLITS)
def test_the_pictures_can_be_decoded(split: Split) -> None:
    assets = load_assets(split)
    for picture in (*assets.props, *(drawing for group in assets.drawings.values() for drawing in group)):
        pixels = picture.pixels()
        assert max(pixels.shape[:2]) == 192
        assert pixels.shape[2] == 4
        assert (pixels[..., 3] > 128).mean() > 0.05
    for photograph in assets.photographs:
        height, width, channels = photograph.pixels().shape
        assert (min(height, width) >= 380, channels) == (True, 3), photograph.name


def test_every_picture_has_a_licence() -> None:
    rows = [line.split("|")[1].strip() for line in PACK.joinpath("LICENCES.md").read_text().splitlines() if "|" in line]
    for split in SPLITS:
        assets = load_assets(split)
        drawn = (*assets.props, *(drawing for group in assets.drawings.values() for drawing in group))
        assert {picture.name.split("/")[1] for picture in drawn} <= set(rows)
        assert {picture.name.removesuffix(".jpg") for picture in assets.photographs} <= set(rows)


def test_the_packs_are_small() -> None:
    sizes = [len(PACK.joinpath(name).read_bytes()) for name in ("sprites.zip", "backgrounds.zip")]
    assert max(sizes) < 10_000_000
    assert sum(sizes) < 12_000_000
