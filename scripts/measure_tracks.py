"""Measures the tracks of fgfa-nano on the six labelled real clips, and what rescoring along time does to its AP.

    pip install --no-deps trackeval tabulate
    python scripts/measure_tracks.py REAL_VID

The metrics go to docs/evidence/tracks.json, the tables into docs/tracking.md between their marks. REAL_VID is a folder
in the layout of ImageNet VID, with annotations/davis_vid_val.json. It labels one object a clip: every other object
of its class that is found counts as a false positive, in MOTA and HOTA too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
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

app = App(help=__doc__)

_DOCS = Path(__file__).parents[1] / "docs"
_SCORE = 0.3


@app.default
def measure(real: Path, *, fps: float = 24.0, threads: int = 1) -> None:
    """Measures everything and writes the page.

    Args:
        real: The folder of the labelled real clips.
        fps: Their frames a second.
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
    # Weak detections start tracks here, so that AP compares the same detections.
    everything = TrackerConfig(new_score=0.0, low_score=0.0, rescores=True)
    live = table_of(data, {number: list(track(each, everything)) for number, each in found.items()})
    tables = {"plain": plain, "--rescore tracks": live, "--rescore seq-nms": seq_nms(data, plain)}
    headlines = {name: evaluate(data, each, "coco").headline for name, each in tables.items()}
    metrics = {
        "AP": {name: {key: float(each[key]) for key in ("AP50", "AP")} for name, each in headlines.items()},
        "tracks": {
            video.name: judged(data, number, [each.select(_SCORE) for each in track(found[number])])
            for number, video in enumerate(data.videos)
        },
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


def judged(data: CocoVID, number: int, tracked: Sequence[Detections]) -> dict[str, float]:
    """Returns TrackEval's metrics of one video, of the labelled classes in it."""
    objects, frames = data.objects, data.videos[number].frames
    mine = np.isin(objects.images, frames)
    classes = np.unique(objects.labels[mine])
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
        sequence["similarity_scores"].append(box_iou(torch.from_numpy(objects.boxes[rows]), boxes).numpy())
    sequence |= {
        "num_timesteps": len(frames),
        "num_gt_ids": len(truths),
        "num_tracker_ids": len(seen),
        "num_gt_dets": sum(map(len, sequence["gt_ids"])),
        "num_tracker_dets": sum(map(len, sequence["tracker_ids"])),
    }
    quiet = {"PRINT_CONFIG": False}
    clear, identity = CLEAR(quiet).eval_sequence(sequence), Identity(quiet).eval_sequence(sequence)
    return {
        "HOTA": float(np.mean(HOTA().eval_sequence(sequence)["HOTA"])),
        "AssA": float(np.mean(HOTA().eval_sequence(sequence)["AssA"])),
        "IDF1": float(identity["IDF1"]),
        "MOTA": float(clear["MOTA"]),
        "switches": int(clear["IDSW"]),
        "false positives": int(clear["CLR_FP"]),
        "misses": int(clear["CLR_FN"]),
        "frames": len(frames),
    }


def tables_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tables in Markdown, by the name of their marks."""
    shares, counts = ("HOTA", "AssA", "IDF1", "MOTA"), ("switches", "false positives", "misses", "frames")
    return {
        "tracks": table(
            ["clip", *shares, *counts],
            [
                [name.split("_")[-1], *(f"{100 * row[key]:.1f}" for key in shares), *(str(row[key]) for key in counts)]
                for name, row in metrics["tracks"].items()
            ],
        ),
        "rescoring": table(
            ["", "AP50", "AP"],
            [[name, *(f"{100 * row[key]:.1f}" for key in ("AP50", "AP"))] for name, row in metrics["AP"].items()],
        ),
    }


if __name__ == "__main__":
    app()
