import json
from pathlib import Path

import numpy as np
import pytest

from flowdet.errors import ConfigError, DataError
from flowdet.viewer.clips import frame_times, read_clips
from tests.viewer.results import write_result, write_truth


def test_boxes_scores_classes_and_times_are_those_of_the_file(tmp_path: Path) -> None:
    for suffix in ("json", "jsonl"):
        (clip,) = read_clips([write_result(tmp_path / f"clip.{suffix}", frames=4)])
        (layer,) = clip.layers
        assert clip.name == "clip"
        assert frame_times(clip) == pytest.approx([0, 0.04, 0.08, 0.12])
        np.testing.assert_allclose(layer.boxes[:2], [[10, 20, 40, 60], [11, 20, 41, 60]])
        assert [layer.class_names[label] for label in layer.labels] == ["cat"] * 4
        assert layer.scores.tolist() == pytest.approx([0.9] * 4)
        assert layer.frames.tolist() == [0, 1, 2, 3]
        assert layer.tracks.tolist() == [-1] * 4


def test_tracks_are_read_where_there_are_some(tmp_path: Path) -> None:
    path = write_result(tmp_path / "clip.json")
    document = json.loads(path.read_text())
    document["annotations"][1]["track_id"] = 7
    path.write_text(json.dumps(document))
    assert read_clips([path])[0].layers[0].tracks.tolist() == [-1, 7, -1, -1]
    lines = write_result(tmp_path / "clip.jsonl")
    first, *rest = lines.read_text().splitlines()
    frame = json.loads(rest[0]) | {"track_ids": [3]}
    lines.write_text("\n".join([first, json.dumps(frame), *rest[1:]]))
    assert read_clips([lines])[0].layers[0].tracks.tolist() == [3, -1, -1, -1]


def test_runs_on_one_video_are_layers_with_their_own_names(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    paths = [write_result(one / "clip.json"), write_result(other / "clip.json"), write_result(other / "second.json")]
    first, second = read_clips([one, other])
    assert [layer.name for layer in first.layers] == ["single-lite (one)", "single-lite (other)"]
    assert [clip.name for clip in (first, second)] == ["clip", "second"]
    assert first.path == paths[0]


def test_runs_over_different_frames_share_one_line_of_frames(tmp_path: Path) -> None:
    paths = [write_result(tmp_path / "a" / "clip.json", frames=3), write_result(tmp_path / "clip.json", every=2)]
    (clip,) = read_clips(paths)
    assert list(clip.frames) == [0, 1, 2, 4, 6]
    assert [layer.numbers.tolist() for layer in clip.layers] == [[0, 1, 2], [0, 2, 4, 6]]


def test_detections_below_the_score_are_left_out(tmp_path: Path) -> None:
    (clip,) = read_clips([write_result(tmp_path / "clip.json")], score=0.95)
    assert len(clip.layers[0].boxes) == 0
    assert len(clip.frames) == 4


@pytest.mark.parametrize("start", [0, 1])
def test_annotations_become_a_layer_and_the_worst_frames_a_list(start: int, tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", start=start)
    (clip,) = read_clips([write_result(tmp_path / "clip.json")], truth=truth)
    layer = clip.layers[1]
    assert layer.is_truth
    assert layer.frames.tolist() == [0, 1, 2, 3, 3]
    assert layer.tracks.tolist() == [5] * 5
    np.testing.assert_allclose(layer.boxes[1], [11, 20, 41, 60])
    found = [(one.layer, one.number, one.missed, one.false, one.cost) for one in clip.worst]
    assert found == [(0, 0, 1, 1, 1.9), (0, 3, 1, 0, 1.0)]


def test_annotations_take_the_names_that_the_run_has_for_classes(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", name="domestic cat")
    (clip,) = read_clips([write_result(tmp_path / "clip.json")], truth=truth)
    names = {clip.layers[1].class_names[label] for label in clip.layers[1].labels}
    assert names == {"cat"}


def test_coco_results_are_shown_on_the_images_of_their_data_set(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json")
    results = tmp_path / "results.json"
    results.write_text('[{"image_id": 11, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    (clip,) = read_clips([results], truth=truth)
    assert clip.name == "val/clip"
    assert [frame.file_name for frame in clip.frames.values()] == ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_allclose(clip.layers[0].boxes, [[1, 2, 4, 6]])
    assert clip.layers[0].frames.tolist() == [1]
    with pytest.raises(ConfigError, match="names no videos: add --truth"):
        read_clips([results])


def test_a_video_without_detections_has_frames(tmp_path: Path) -> None:
    (clip,) = read_clips([write_result(tmp_path / "clip.json", per_frame=0)])
    assert len(clip.frames) == 4
    assert clip.layers[0].boxes.shape == (0, 4)


@pytest.mark.parametrize(("key", "value"), [("frame_id", "first"), ("frame_id", -1), ("time", "soon"), ("time", -1)])
def test_a_frame_without_a_sensible_number_or_time_is_refused(key: str, value: object, tmp_path: Path) -> None:
    path = write_result(tmp_path / "clip.json")
    document = json.loads(path.read_text())
    document["images"][2][key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="a frame has a whole number and a time"):
        read_clips([path])


def test_a_result_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no result of one video"):
        read_clips([write_result(tmp_path / "clip.jsonl", frames=0)])
