"""Measures tracks on the six labelled real clips and on synthetic ones, and what rescoring along time does to AP.

    pip install --no-deps trackeval tabulate
    flowdet data synthesize synthetic --split val --clips 60
    python scripts/measure_tracks.py REAL_VID synthetic

The metrics go to docs/evidence/tracks.json, the tables into docs/tracking.md between their marks. REAL_VID is a folder
in the layout of ImageNet VID, with annotations/davis_vid_val.json. It labels one object a clip: every other object
of its class that is found counts as a false positive, in MOTA and HOTA too.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from evidence_pages import fill, table
from measure_nano import pictures_of
from torchvision.ops import box_iou
from trackeval.metrics import CLEAR, HOTA, Identity

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.metrics.detections import DetectionTable, concatenate, map_classes
from flowdet.metrics.protocols import evaluate
from flowdet.systems.load import load
from flowdet.tracking.online import TrackerConfig, track
from flowdet.tracking.seq_nms import seq_nms
from flowdet.types import Detections, Frame
from flowdet.video.pictures import read_picture

app = App(help=__doc__)

_DOCS = Path(__file__).parents[1] / "docs"
_SCORE = 0.3
_SYNTHETIC_FPS = 25.0  # the benchmark states none


@app.default
def measure(real: Path, synthetic: Path, *, fps: float = 24.0, threads: int = 1) -> None:
    """Measures everything and writes the page.

    Args:
        real: The folder of the labelled real clips.
        synthetic: The folder of the synthetic benchmark, or of its first clips.
        fps: Of the real clips, their frames a second.
        threads: Of torch.
    """
    torch.set_num_threads(threads)
    data = read_cocovid(real / "annotations" / "davis_vid_val.json")
    system = load("fgfa-nano")
    pictures = pictures_of(data, real / "Data" / "VID")
    labels = map_classes(system.config.class_names, data).labels
    found = {}
    for number, video in enumerate(data.videos):
        frames = [Frame(index, index / fps, pictures[place]) for index, place in enumerate(video.frames)]
        found[number] = [known(each, labels) for each in system.detect(frames)]
    plain = table_of(data, found)
    # Every detection has a track here, so that AP compares the same detections.
    everything = TrackerConfig(new_score=0.0, low_score=0.0, new_iou=math.inf, rescores=True)
    live = table_of(data, {number: list(track(each, everything)) for number, each in found.items()})
    tables = {"plain": plain, "--rescore tracks": live, "--rescore seq-nms": seq_nms(data, plain)}
    headlines = {name: evaluate(data, each, "coco").headline for name, each in tables.items()}
    metrics = {
        "AP": {name: {key: float(each[key]) for key in ("AP50", "AP")} for name, each in headlines.items()},
        "tracks": {
            video.name: judged({"": sequence_of(data, number, [each.select(_SCORE) for each in track(found[number])])})
            for number, video in enumerate(data.videos)
        },
        "synthetic": measure_synthetic(synthetic),
    }
    (_DOCS / "evidence" / "tracks.json").write_text(json.dumps(metrics, indent=1) + "\n")
    fill(_DOCS / "tracking.md", tables_of(metrics))


def known(found: Detections, labels: np.ndarray[Any, Any]) -> Detections:
    """Returns the detections of classes that the data set has, with its labels."""
    keep = labels[found.labels] >= 0
    return replace(found, boxes=found.boxes[keep], scores=found.scores[keep], labels=labels[found.labels[keep]])


def table_of(data: CocoVID, found: Mapping[int, Sequence[Detections]]) -> DetectionTable:
    """Returns the detections of all videos, each a list by frame, as one table."""
    parts = []
    for number, video in enumerate(data.videos):
        for place, each in zip(video.frames, found[number], strict=True):
            images = np.full(len(each), place)
            parts.append(DetectionTable(images, each.labels, each.boxes.astype(float), each.scores.astype(float)))
    return concatenate(parts)


def sequence_of(data: CocoVID, number: int, tracked: Sequence[Detections]) -> dict[str, Any]:
    """Returns one video as TrackEval wants it, of the classes labelled in it; other classes do not match."""
    objects, frames = data.objects, data.videos[number].frames
    classes = np.unique(objects.labels[np.isin(objects.images, frames)])
    seen: dict[int, int] = {}
    truths: dict[int, int] = {}
    sequence: dict[str, Any] = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    for place, each in zip(frames, tracked, strict=True):
        rows, wanted = np.flatnonzero(objects.images == place), np.isin(each.labels, classes)
        assert each.track_ids is not None
        ids = [seen.setdefault(int(one), len(seen)) for one in each.track_ids[wanted]]
        own = [truths.setdefault(int(one), len(truths)) for one in objects.tracks[rows]]
        sequence["gt_ids"].append(np.array(own, int))
        sequence["tracker_ids"].append(np.array(ids, int))
        boxes = torch.from_numpy(each.boxes[wanted]).double()
        ious = box_iou(torch.from_numpy(objects.boxes[rows]), boxes).numpy()
        sequence["similarity_scores"].append(np.where(objects.labels[rows][:, None] == each.labels[wanted], ious, 0))
    return sequence | {
        "num_timesteps": len(frames),
        "num_gt_ids": len(truths),
        "num_tracker_ids": len(seen),
        "num_gt_dets": sum(map(len, sequence["gt_ids"])),
        "num_tracker_dets": sum(map(len, sequence["tracker_ids"])),
    }


def judged(sequences: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Returns TrackEval's metrics of videos taken together."""
    quiet = {"PRINT_CONFIG": False}
    found: dict[str, Any] = {}
    for metric in (HOTA(), CLEAR(quiet), Identity(quiet)):
        found |= metric.combine_sequences({name: metric.eval_sequence(each) for name, each in sequences.items()})
    return {
        **{name: float(np.mean(found[name])) for name in ("HOTA", "AssA", "IDF1", "MOTA")},
        "switches": int(found["IDSW"]),
        "false positives": int(found["CLR_FP"]),
        "misses": int(found["CLR_FN"]),
        "frames": sum(each["num_timesteps"] for each in sequences.values()),
    }


def measure_synthetic(folder: Path) -> dict[str, dict[str, float]]:
    """Returns the metrics of fgfa-lite on clips of the synthetic benchmark: of all, and by the amplitude of motion."""
    path = folder / "annotations" / "synthetic_val.json"
    data, motion = read_cocovid(path), [video["motion"] for video in json.loads(path.read_bytes())["videos"]]
    system = load("fgfa-lite")
    labels = map_classes(system.config.class_names, data).labels
    sequences = {}
    for number, video in enumerate(data.videos):
        pictures = (read_picture(folder / data.images[place].file_name) for place in video.frames)
        frames = (Frame(index, index / _SYNTHETIC_FPS, picture) for index, picture in enumerate(pictures))
        tracked = track(known(each, labels) for each in system.detect(frames))
        sequences[number] = sequence_of(data, number, [each.select(_SCORE) for each in tracked])
    groups = {"all": (0, 1), **{f"m from {a} to {b}": (a, b) for a, b in pairwise((0.007, 0.028, 0.112, 0.45))}}
    return {
        f"{name} ({len(own)} clips)": judged({str(number): sequences[number] for number in own})
        for name, (low, high) in groups.items()
        for own in [[number for number, amplitude in enumerate(motion) if low <= amplitude < high]]
    }


def tables_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tables in Markdown, by the name of their marks."""
    shares, counts = ("HOTA", "AssA", "IDF1", "MOTA"), ("switches", "false positives", "misses", "frames")
    return {
        **{
            mark: table(
                [head, *shares, *counts],
                [
                    [
                        name.split("_")[-1],
                        *(f"{100 * row[key]:.1f}" for key in shares),
                        *(str(row[key]) for key in counts),
                    ]
                    for name, row in metrics[mark].items()
                ],
            )
            for mark, head in (("tracks", "clip"), ("synthetic", "motion"))
        },
        "rescoring": table(
            ["", "AP50", "AP"],
            [[name, *(f"{100 * row[key]:.1f}" for key in ("AP50", "AP"))] for name, row in metrics["AP"].items()],
        ),
    }


if __name__ == "__main__":
    app()
