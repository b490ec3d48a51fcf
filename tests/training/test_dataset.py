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
from flowdet.training.dataset import Clip, ClipDataset
from tests.data.annotated import Drawing, grey_of
from tests.data.pictures import waves

INPUTS = InputConfig(long_side=96, short_side=64)
CLASSES = ("cat", "dog")
TWO = ReferenceSampling(count=2, reach=2, both_sides=True)
ILSVRC = Path(__file__).resolve().parents[3] / "shared" / "evaluation" / "ilsvrc_tiny"


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    return Drawing(tmp_path)


def dataset(
    drawing: Drawing, sampling: ReferenceSampling | None = TWO, augmentation: Augmentation | None = None
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
    source = ClipDataset.of(sources, CLASSES, INPUTS, TWO)
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
    assert dataset(drawing).report(CLASSES) == [
        f"{path}: training frames of videos: 1, stills: 0, objects: 1; "
        "left out images without an object of the wanted classes: 1; left out images with a side below 32 px: 1; "
        "left out objects of other classes: 1 (tree); left out crowd regions: 1; "
        "left out objects with less than 1 px of width or height in the image: 1; "
        "frames that are their own reference since no other one is in reach: 1",
        "no object to learn from: dog",
    ]


def test_classes_that_are_left_out_are_named_the_most_frequent_first(drawing: Drawing) -> None:
    drawing.classes = ("cat", *(f"c{number}" for number in range(1, 8)))
    drawing.still()
    for number in range(1, 8):
        for _ in range(number):
            drawing.box(1, (3, 3, 20, 20), number + 1)
    told = dataset(drawing).report(CLASSES)[0]
    assert told.endswith("left out objects of other classes: 28 (c7 7, c6 6, c5 5, c4 4, c3 3 and 2 more)")


def test_nothing_to_say_of_what_is_whole(drawing: Drawing) -> None:
    drawing.classes = CLASSES
    drawing.video([0, 1])
    drawing.box(1, (3, 3, 20, 20), 2)
    path = drawing.folder / "data.json"
    assert dataset(drawing).report(CLASSES) == [f"{path}: training frames of videos: 2, stills: 0, objects: 3"]


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
