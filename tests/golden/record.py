"""Draws the small numbers of this folder from the full reference, which is not part of the repository.

python -m tests.golden.record ../shared/reference ../shared/evaluation/expected_refs.json
"""

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from flowdet.weights.zoo import PUBLISHED
from tests.comparison import CASES, Case, read_full, thin, write_compact
from tests.golden import FOLDER, ROIS_FILE, SYSTEMS_FILE

__all__: list[str] = []

_RECORDED_ROIS = {"selsa_r50_short6_160x224": ("f000", "f005"), "troia_r50_a160x224": ("f001",)}


def _frames_with_values(case: Case) -> set[int]:
    if case.system.startswith("dff"):
        return {1, 10}
    return {0, 19} if case.size.startswith("b") else {0, 1}


def _record_systems(reference: Path) -> None:
    compact = {}
    for case in CASES:
        kept = _frames_with_values(case)
        frames = enumerate(read_full(case, reference))
        compact[case] = [thin(frame if number in kept else replace(frame, values={})) for number, frame in frames]
    write_compact(compact, SYSTEMS_FILE)


def _record_state_dicts(reference: Path) -> None:
    shapes = {}
    for system in PUBLISHED:
        folder = reference / "selsa_troia" if system.startswith(("selsa", "troia")) else reference
        content = json.loads((folder / f"state_dict_{system.removesuffix('-fp16').replace('-', '_')}.json").read_text())
        shapes[system] = {name: entry["shape"] for name, entry in content["state_dict"].items()}
    text = json.dumps(shapes, separators=(",", ":"))
    (FOLDER / "state_dicts.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def _record_rois(folder: Path) -> None:
    content = {}
    for case, frames in _RECORDED_ROIS.items():
        with np.load(folder / f"{case}.npz") as golden:
            content[f"{case}/num_frames"] = golden["meta/num_frames"]
            for frame in frames:
                content |= {f"{case}/{frame}/{name}": golden[f"{frame}/{name}"] for name in ("dets", "roi_cls")}
                content[f"{case}/{frame}/proposals"] = golden[f"{frame}/proposals"][:, :4]
    np.savez_compressed(ROIS_FILE, **content)
    steps = json.loads((folder / "train_r50.json").read_text())
    (FOLDER / "train_rois_r50.json").write_text(json.dumps(steps, separators=(",", ":")) + "\n")


def _record_windows(expected: Path) -> None:
    cases = [
        {
            "num_frames": case["num_frames"],
            "past": case["num_left_ref_imgs"],
            "stride": case["stride"],
            "slots": [step["aggregated"] for step in case["steps"]],
        }
        for case in json.loads(expected.read_text())["cases"]
    ]
    (FOLDER / "windows.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


def _main(reference: str, expected_windows: str) -> None:
    _record_systems(Path(reference))
    _record_state_dicts(Path(reference))
    _record_rois(Path(reference) / "selsa_troia" / "golden")
    _record_windows(Path(expected_windows))
    steps = json.loads((Path(reference) / "goldens" / "train_r50.json").read_text())
    (FOLDER / "train_r50.json").write_text(json.dumps(steps, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
