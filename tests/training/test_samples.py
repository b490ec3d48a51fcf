import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowdet.data.sampling import ReferenceSampling
from flowdet.errors import DataError
from flowdet.training.samples import Samples, select_samples
from tests.data.annotated import Drawing, grey_of

NEAR = ReferenceSampling(count=2, reach=2, both_sides=True)


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    return Drawing(tmp_path)


def select(drawing: Drawing, *classes: str, sampling: ReferenceSampling | None = None) -> Samples:
    return select_samples(*drawing.read(), classes or ("cat", "dog"), sampling)


def ids(samples: Samples) -> list[int]:
    found: list[int] = samples.images.ids[samples.drawn].tolist()
    return found


def test_training_frames_of_videos_and_listed_stills_are_drawn(drawing: Drawing) -> None:
    drawing.video(range(5), drawn={1: True, 3: True})
    drawing.still(is_vid_train_frame=True)
    drawing.still(is_vid_train_frame=False)
    drawing.still()
    samples = select(drawing)
    assert ids(samples) == [2, 4, 6, 8]
    assert (samples.count.frames, samples.count.stills, len(samples)) == (2, 2, 4)
    assert [samples.is_still(int(image)) for image in samples.drawn] == [False, False, True, True]


def test_on_request_every_image_is_drawn(drawing: Drawing) -> None:
    drawing.video(range(5), drawn={1: True})
    drawing.still(is_vid_train_frame=False)
    samples = select_samples(*drawing.read(), ("cat", "dog"), None, all_frames=True)
    assert ids(samples) == [1, 2, 3, 4, 5, 6]


def test_classes_are_matched_by_name_and_the_others_are_counted(drawing: Drawing) -> None:
    drawing.classes = ("cat", "tree", "dog")
    first, second, third = (drawing.image() for _ in range(3))
    for image, category in ((third, 3), (first, 1), (first, 2), (third, 1), (second, 2)):
        drawing.box(image, (category, 2, 30, 20), category)
    samples = select(drawing, "fox", "dog", "cat")
    assert ids(samples) == [first, third]
    assert samples.targets(0)[1].tolist() == [2]
    assert samples.targets(2)[1].tolist() == [1, 2]
    assert samples.targets(2)[0].tolist() == [[3, 2, 33, 22], [1, 2, 31, 22]]
    assert samples.count.of_other_classes == {"tree": 2}
    assert samples.count.without_targets == 1
    assert samples.count.targets == (0, 1, 2)


def test_boxes_are_cut_to_the_image_and_what_is_thinner_than_a_pixel_goes(drawing: Drawing) -> None:
    image = drawing.image(size=(48, 64))
    for box in ((-5, -6, 20, 20), (60, 40, 30, 30), (63.5, 0, 20, 20), (10, 47, 8, 1), (5, 5, 0.9, 30), (70, 3, 5, 5)):
        drawing.box(image, box)
    samples = select(drawing)
    assert samples.targets(0)[0].tolist() == [[0, 0, 15, 14], [60, 40, 64, 48], [10, 47, 18, 48]]
    assert samples.count.slivers == 3


def test_crowds_are_no_targets(drawing: Drawing) -> None:
    first, second = drawing.image(), drawing.still()
    drawing.box(first, (4, 6, 20, 20), iscrowd=1)
    drawing.box(second, (4, 6, 20, 20), iscrowd=1)
    samples = select(drawing)
    assert ids(samples) == [second]
    assert (samples.count.crowds, samples.count.without_targets, samples.count.targets) == (2, 1, (1, 0))


def test_small_images_are_left_out(drawing: Drawing) -> None:
    for size in ((31, 64), (48, 31), (32, 32)):
        drawing.still(size=size)
    samples = select(drawing)
    assert ids(samples) == [3]
    assert (samples.count.too_small, samples.count.without_targets) == (2, 0)


def test_what_lies_on_frames_that_are_not_drawn_counts_nowhere(drawing: Drawing) -> None:
    first, second = drawing.video([0, 1], drawn={0: True})
    drawing.box(second, (4, 6, 20, 20), iscrowd=1)
    drawing.box(first, (4, 6, 0, 0))
    drawing.image(is_vid_train_frame=False, size=(10, 10))
    count = select(drawing).count
    assert (count.targets, count.crowds, count.slivers, count.too_small, count.without_targets) == ((1, 0), 0, 1, 0, 0)


def test_frames_without_another_in_reach_are_counted(drawing: Drawing) -> None:
    drawing.video([0, 2, 5, 9, 10])
    drawing.video([10])
    drawing.video([11])
    drawing.still()
    assert select(drawing, sampling=NEAR).count.lonely == 3
    assert select(drawing, sampling=None).count.lonely == 0


def test_references_are_frames_of_the_same_video_by_number(drawing: Drawing) -> None:
    drawing.video([7])
    forwards = drawing.video([3, 4, 5])
    backwards = drawing.video([5, 4, 3])
    samples = select(drawing)
    rng = np.random.default_rng(0)
    for video, wanted in ((forwards, (1, 3)), (backwards, (3, 1))):
        place = {number: video[0] - 1 + offset for offset, number in enumerate((1, 2, 3))}
        assert samples.references(place[2], NEAR, rng) == (place[wanted[0]], place[wanted[1]])
    assert samples.references(0, NEAR, rng) == (0, 0)


def test_used_are_what_is_drawn_and_what_can_be_its_reference(drawing: Drawing) -> None:
    drawing.video([0, 4, 5, 6, 7, 8, 9], drawn={6: True})
    drawing.video([6, 7], drawn={})
    drawing.still(is_vid_train_frame=False)
    drawing.still()
    samples = select(drawing)
    assert samples.images.ids[samples.used(NEAR)].tolist() == [2, 3, 4, 5, 6, 11]
    assert samples.images.ids[samples.used(None)].tolist() == [4, 11]


def test_the_references_of_a_still_are_copies_of_it(drawing: Drawing) -> None:
    drawing.still()
    drawing.still()
    assert select(drawing).references(1, NEAR, np.random.default_rng(0)) == (1, 1)


def test_a_video_that_changes_its_size_is_named(drawing: Drawing) -> None:
    drawing.video([0, 1, 2])
    drawing.images[1] |= {"width": 66}
    with pytest.raises(
        DataError, match=r"data\.json: video 'video 1' begins with 64x48 px, but image 2 of it is 66x48"
    ):
        select(drawing)


def test_pictures_come_as_rgb_whatever_they_are(drawing: Drawing, tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        name = f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new("RGB", (64, 48), (255, 255, 255)).convert(mode).save(tmp_path / name)
        drawing.still(file_name=name, write=False)
    samples = select(drawing)
    for image in range(5):
        picture = samples.picture(image)
        assert picture.shape == (48, 64, 3)
        assert picture.min() > 250


def test_a_name_may_be_in_any_language(drawing: Drawing) -> None:
    drawing.still(file_name="vidéo/кадр 1.png")
    samples = select(drawing)
    assert samples.path(0).name == "кадр 1.png"
    assert samples.picture(0)[0, 0, 0] == grey_of(1)


@pytest.mark.parametrize(("stated", "red"), [((64, 48), (2, 20)), ((48, 64), (20, 2))])
def test_a_picture_is_turned_upright_where_the_annotations_say_so(
    stated: tuple[int, int], red: tuple[int, int], drawing: Drawing, tmp_path: Path
) -> None:
    picture = Image.new("RGB", (64, 48))
    picture.paste((255, 0, 0), (0, 0, 8, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    picture.save(tmp_path / "turned.png", exif=exif)
    drawing.still(file_name="turned.png", size=stated, write=False)
    found = select(drawing).picture(0)
    assert found.shape == (*stated, 3)
    assert found[red].tolist() == [255, 0, 0]
    assert found[red[::-1]].tolist() == [0, 0, 0]


def test_a_missing_picture_is_named(drawing: Drawing, tmp_path: Path) -> None:
    drawing.still(id=71, write=False)
    drawing.annotations[0]["image_id"] = 71
    samples = select(drawing)
    with pytest.raises(DataError, match=r"data\.json: image 71: there is no file .*1\.png; the images may lie below"):
        samples.picture(0)


@pytest.mark.parametrize("content", [b"", b"no picture", "half"])
def test_a_damaged_picture_is_named(drawing: Drawing, tmp_path: Path, content: bytes | str) -> None:
    drawing.still(file_name="a.jpg")
    path = tmp_path / "a.jpg"
    path.write_bytes(path.read_bytes()[:-40] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"data\.json: image 1: .*a\.jpg cannot be read"):
        select(drawing).picture(0)


def test_a_folder_in_the_place_of_a_picture_is_named(drawing: Drawing, tmp_path: Path) -> None:
    drawing.still(write=False)
    (tmp_path / "1.png").mkdir()
    with pytest.raises(DataError, match=r"image 1: .*1\.png cannot be read"):
        select(drawing).picture(0)


def test_a_picture_of_another_size_is_named(drawing: Drawing) -> None:
    drawing.still()
    drawing.images[0] |= {"width": 128, "height": 96}
    with pytest.raises(DataError, match=r"image 1: .*1\.png is 64x48 px, the annotations say 128x96"):
        select(drawing).picture(0)


def test_a_data_set_without_objects_has_nothing_to_draw(drawing: Drawing) -> None:
    drawing.image()
    assert len(select(drawing)) == 0


def test_a_million_images_are_few_arrays(drawing: Drawing) -> None:
    drawing.video(range(4))
    images = select(drawing).images
    assert images.names.dtype.kind == "S"
    assert all(isinstance(getattr(images, name), np.ndarray) for name in images.__slots__)


def test_a_file_name_that_is_not_utf_8(drawing: Drawing) -> None:
    if os.fsencode("\udce9") != b"\xe9":
        pytest.skip("this system has no such names")
    (image,) = drawing.video([0])
    old = drawing.folder / drawing.images[image - 1]["file_name"]
    name = "caf\udce9.png"
    os.rename(old, drawing.folder / name)
    drawing.images[image - 1]["file_name"] = name
    data, folder = drawing.read()
    samples = select_samples(data, folder, ("cat", "dog"), None)
    assert samples.path(0) == folder / name
    assert samples.picture(0).shape[2] == 3
