import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowdet.class_names import VID_CLASSES
from flowdet.data.augmentation import STRONGER_AUGMENTATION, Augmentation
from flowdet.data.cocovid import read_cocovid
from flowdet.data.sampling import ReferenceSampling
from flowdet.errors import DataError
from flowdet.inputs import InputConfig, prepare
from flowdet.systems.recipes import dff_r50, fgfa_lite, fgfa_r50, single_r50
from flowdet.training.dataset import Clip, ClipDataset, Samples, select_samples
from tests.data.annotated import Drawing, grey_of
from tests.data.pictures import waves

INPUTS = InputConfig(long_side=96, short_side=64)
CLASSES = ("cat", "dog")
NEAR = ReferenceSampling(count=2, reach=2, both_sides=True)
ILSVRC = Path(__file__).resolve().parents[3] / "shared" / "evaluation" / "ilsvrc_tiny"


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    return Drawing(tmp_path)


def dataset(
    drawing: Drawing, sampling: ReferenceSampling | None = NEAR, augmentation: Augmentation | None = None
) -> ClipDataset:
    return ClipDataset.of([drawing.read()], CLASSES, INPUTS, sampling, augmentation or Augmentation(flip=0))


def draw(source: ClipDataset, index: int, seed: int = 0) -> Clip:
    return source.draw(index, np.random.default_rng(seed))


def greys(clip: Clip) -> list[int]:
    assert all(frame.min() == frame.max() for frame in clip.frames)
    return [int(frame[0, 0, 0]) for frame in clip.frames]


def test_each_method_has_its_published_references() -> None:
    assert single_r50().method.references is None
    assert dff_r50().method.references == ReferenceSampling(count=1, reach=9, both_sides=False, itself=True)
    of_fgfa = ReferenceSampling(count=2, reach=9, both_sides=True, itself=False)
    assert fgfa_r50().method.references == fgfa_lite().method.references == of_fgfa


def test_a_clip_is_a_frame_and_frames_around_it(drawing: Drawing) -> None:
    drawing.video(range(5))
    clips = [draw(dataset(drawing), 2, seed) for seed in range(20)]
    found = {tuple(greys(clip)) for clip in clips}
    assert found == {(grey_of(3), grey_of(before), grey_of(after)) for before in (1, 2) for after in (4, 5)}
    assert clips[0].name == str(drawing.folder / "3.png")
    assert not clips[0].still


def test_a_still_comes_with_copies_of_it(drawing: Drawing) -> None:
    drawing.video([0, 1])
    drawing.still()
    clip = draw(dataset(drawing), 2)
    assert greys(clip) == [grey_of(3)] * 3
    assert clip.still


def test_single_frames_come_alone(drawing: Drawing) -> None:
    drawing.video([0, 1])
    assert greys(draw(dataset(drawing, None), 1)) == [grey_of(2)]


def test_frames_and_boxes_are_those_of_detection(drawing: Drawing, tmp_path: Path) -> None:
    picture = waves((70, 120), 0)
    Image.fromarray(picture).save(tmp_path / "waves.png")
    drawing.image(size=(70, 120), file_name="waves.png", write=False)
    drawing.box(1, (10, 20, 30, 40), 2)
    clip = draw(dataset(drawing), 0)
    prepared = prepare([picture], InputConfig(96, 64, mean=(0.0,) * 3, std=(1.0,) * 3))
    height, width = prepared.geometries[0].valid
    assert clip.frames[0].shape == (height, width, 3)
    assert torch.equal(clip.frames[0].permute(2, 0, 1).float(), prepared.images[0, :, :height, :width])
    x, y = prepared.geometries[0].scale
    torch.testing.assert_close(clip.targets.boxes, torch.tensor([[10 * x, 20 * y, 40 * x, 60 * y]]))
    assert clip.targets.boxes.dtype == torch.float32
    assert clip.targets.labels.tolist() == [1]


def test_all_frames_of_a_clip_are_changed_alike(drawing: Drawing, tmp_path: Path) -> None:
    drawing.video(range(3))
    picture = waves((48, 64), 1)
    for number in (1, 2, 3):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    source = dataset(drawing, augmentation=STRONGER_AUGMENTATION)
    clips = [draw(source, 1, seed) for seed in range(12)]
    for clip in clips:
        assert all(torch.equal(clip.frames[0], frame) for frame in clip.frames[1:])
    assert any(not torch.equal(clips[0].frames[0].flip(1), clip.frames[0]) for clip in clips)
    assert len({clip.frames[0].shape for clip in clips}) > 3


def test_a_box_that_is_cut_away_takes_its_label_with_it(drawing: Drawing) -> None:
    image = drawing.image()
    drawing.box(image, (0, 0, 10, 10), 1)
    drawing.box(image, (54, 38, 10, 10), 2)
    source = dataset(drawing, augmentation=Augmentation(zoom=(3.0, 3.0)))
    seen = {tuple(draw(source, 0, seed).targets.labels.tolist()) for seed in range(20)}
    assert seen == {(0,), (1,)}


def test_the_same_chance_draws_the_same_clip(drawing: Drawing) -> None:
    drawing.video(range(5))
    source = dataset(drawing, augmentation=STRONGER_AUGMENTATION)
    one, same, other = (draw(source, 2, seed) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(one.frames, same.frames, strict=True))
    assert torch.equal(one.targets.boxes, same.targets.boxes)
    assert not torch.equal(one.targets.boxes, other.targets.boxes)


def test_several_data_sets_follow_one_another(tmp_path: Path) -> None:
    videos, stills = (Drawing(tmp_path / name) for name in ("videos", "stills"))
    videos.video([0, 1])
    stills.classes = ("dog", "other")
    for _ in range(3):
        stills.still()
    sources = [part.read() for part in (videos, stills)]
    source = ClipDataset.of(sources, CLASSES, INPUTS, NEAR)
    assert len(source) == 5
    assert [draw(source, index).name for index in range(5)] == [
        *(str(tmp_path / "videos" / f"{number}.png") for number in (1, 2)),
        *(str(tmp_path / "stills" / f"{number}.png") for number in (1, 2, 3)),
    ]
    assert [draw(source, index).targets.labels.tolist() for index in range(5)] == [[0]] * 2 + [[1]] * 3


def test_it_says_what_is_drawn_and_what_is_left_out(drawing: Drawing) -> None:
    drawing.classes = ("cat", "tree")
    (frame,) = drawing.video([4])
    drawing.box(frame, (4, 6, 20, 20), 2)
    drawing.box(frame, (4, 6, 20, 20), iscrowd=1)
    drawing.box(frame, (4, 6, 20, 0))
    drawing.still(size=(20, 20))
    drawing.image()
    path = drawing.folder / "data.json"
    assert dataset(drawing).describe(CLASSES) == [
        f"{path}: training frames of videos: 1, stills: 0, objects: 1; "
        "left out images without an object of the wanted classes: 1; left out images with a side below 32 px: 1; "
        "left out objects of other classes: 1 (tree); left out crowd regions: 1; "
        "left out objects with less than 1 px of width or height in the image: 1; "
        "frames without another frame in reach, which are their own reference: 1",
        "no object to learn from: dog",
    ]


def test_classes_that_are_left_out_are_named_the_most_frequent_first(drawing: Drawing) -> None:
    drawing.classes = ("cat", *(f"c{number}" for number in range(1, 8)))
    drawing.still()
    for number in range(1, 8):
        for _ in range(number):
            drawing.box(1, (3, 3, 20, 20), number + 1)
    told = dataset(drawing).describe(CLASSES)[0]
    assert told.endswith("left out objects of other classes: 28 (c7 7, c6 6, c5 5, c4 4, c3 3 and 2 more)")


def test_nothing_to_say_of_what_is_whole(drawing: Drawing) -> None:
    drawing.classes = CLASSES
    drawing.video([0, 1])
    drawing.box(1, (3, 3, 20, 20), 2)
    path = drawing.folder / "data.json"
    assert dataset(drawing).describe(CLASSES) == [f"{path}: training frames of videos: 2, stills: 0, objects: 3"]


def test_no_object_of_the_wanted_classes(drawing: Drawing) -> None:
    drawing.still()
    with pytest.raises(
        DataError,
        match=r"nothing to train on: no training frame of .*data\.json \(its classes: cat, dog\) shows one of fox, owl",
    ):
        ClipDataset.of([drawing.read()], ("fox", "owl"), INPUTS, None)


def test_a_source_that_gives_nothing_is_named(tmp_path: Path) -> None:
    some, none = (Drawing(tmp_path / name) for name in ("some", "none"))
    none.classes = ("fox",)
    for drawing in (some, none):
        drawing.still()
    with pytest.raises(DataError, match=r"of \S*none/data\.json \(its classes: fox\) shows one of cat, dog") as caught:
        ClipDataset.of([some.read(), none.read()], CLASSES, INPUTS, None)
    assert "some" not in str(caught.value)


def test_a_file_that_marks_no_training_frame(drawing: Drawing) -> None:
    drawing.video([0, 1], drawn={})
    with pytest.raises(DataError, match=r"data\.json marks none of its 2 images as a training frame .* all frames"):
        dataset(drawing)
    assert len(ClipDataset.of([drawing.read()], CLASSES, INPUTS, None, all_frames=True)) == 2


def test_a_wrong_folder_is_told_at_once(drawing: Drawing, tmp_path: Path) -> None:
    drawing.still()
    data, _ = drawing.read()
    with pytest.raises(DataError, match=r"data\.json: 1 of the 1 images to train on are not below .*nowhere: 1\.png"):
        ClipDataset.of([(data, tmp_path / "nowhere")], CLASSES, INPUTS, None)


def test_all_missing_pictures_are_told_before_the_training(drawing: Drawing) -> None:
    drawing.video(range(9), drawn={0: True, 8: True})
    for number in (1, 2, 3, 4, 7, 9):
        (drawing.folder / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r": 2 of the 2 images .*: 1\.png \(image 1\), 9\.png \(image 9\); is this the"):
        dataset(drawing, None)
    with pytest.raises(DataError, match=r"data\.json: 5 of the 6 images .* 7\.png \(image 7\), 9\.png \(image 9\);"):
        dataset(drawing)
    for number in (5, 6, 8):
        (drawing.folder / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r"data\.json: 6 of the 6 images .*, 8\.png \(image 8\) and 1 more;"):
        dataset(drawing)


def test_a_damaged_first_picture_is_told_at_once(drawing: Drawing) -> None:
    drawing.still()
    (drawing.folder / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        dataset(drawing)


def test_a_missing_reference_is_named(drawing: Drawing) -> None:
    drawing.video([0, 1])
    source = dataset(drawing)
    (drawing.folder / "2.png").unlink()
    with pytest.raises(DataError, match="image 2: there is no file"):
        draw(source, 0)


@pytest.mark.skipif(not ILSVRC.is_dir(), reason=f"the tiny ImageNet is not here: {ILSVRC}")
def test_imagenet_det_and_vid_together() -> None:
    video = read_cocovid(ILSVRC / "expected" / "imagenet_vid_train.json")
    stills = read_cocovid(ILSVRC / "expected" / "imagenet_det_30plus1cls.json")
    sources = [(video, ILSVRC / "ILSVRC/Data/VID"), (stills, ILSVRC / "ILSVRC/Data/DET")]
    source = ClipDataset.of(sources, VID_CLASSES, fgfa_r50().inputs, fgfa_r50().method.references)
    frames, det = (part.count for part in source.parts)
    assert (frames.frames, frames.stills, frames.without_targets, frames.too_small) == (18, 0, 0, 0)
    # One of the 14 listed stills shows nothing.
    assert (det.frames, det.stills, det.without_targets, det.too_small) == (0, 13, 1, 0)
    assert (frames.of_other_classes, det.of_other_classes) == ({}, {"other_categeries": 6})
    assert (sum(frames.targets), sum(det.targets)) == (80, 23)
    assert len(source) == 31
    for index in range(len(source)):
        clip = draw(source, index)
        assert len(clip.frames) == 3
        assert clip.still == (index >= 18)
        assert len(clip.targets.labels) > 0


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
    with pytest.raises(DataError, match=r"data\.json: video 'video 1' begins with 64x48 px, but its image 2 is 66x48"):
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


def test_pictures_of_16_bits_are_as_bright_as_their_8_bit_copies(drawing: Drawing) -> None:
    still = drawing.still()
    file = drawing.folder / drawing.images[still - 1]["file_name"]
    grey = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    Image.fromarray(grey.astype(np.uint16) * 257).save(file)
    assert np.array_equal(select(drawing).picture(0), np.repeat(grey[..., None], 3, axis=2))
