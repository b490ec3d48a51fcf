"""What every mode finds and costs: the tables of docs/variants.md from the shipped weights.

    flowdet data synthesize synthetic --split val
    python scripts/measure_modes.py synthetic --real REAL_VID

The figures go to docs/evidence/modes.json, the tables into docs/variants.md between their marks.
"""

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from evidence_pages import fill, interval, table
from evidence_runs import Variant, detect_variants, seconds_per_frame, work_of
from flowdet.benchmark.steady import frame_kinds, steady_state
from flowdet.systems.modes import Mode, in_mode
from flowdet.temporal.fast_fgfa import FastFGFAConfig
from make_evidence import Judge, degraded_frames, real_clips
from rich.progress import Progress
from torch.utils.flop_counter import FlopCounterMode

from flowdet.cli import keep_memory
from flowdet.data.cocovid import read_cocovid
from flowdet.data.motion import motion_iou
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.protocols import evaluate
from flowdet.metrics.restrict import restrict
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig
from flowdet.systems.load import weights_of
from flowdet.systems.recipes import recipe
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.types import Geometry, NetworkInput

app = App(help=__doc__)

_ROOT = Path(__file__).parents[1]
_FIGURES = _ROOT / "docs" / "evidence" / "modes.json"
_PAGE = _ROOT / "docs" / "variants.md"
# Each with the system that it is compared with.
_ROWS: Sequence[tuple[str, str, Mode, bool]] = (
    ("single", "fgfa", "exact", False),
    ("fgfa", "fgfa", "exact", False),
    ("fgfa", "fgfa", "early", False),
    ("fgfa", "fgfa", "composed", False),
    ("fgfa", "fgfa", "fast", False),
    ("fgfa", "fgfa", "exact", True),
    ("fgfa", "fgfa", "fast", True),
    ("fgfa", "fgfa", "recursive", False),
    ("dff", "dff", "exact", False),
    ("dff", "dff", "adaptive", False),
)
_PARTS = ("AP50", "sharp", "degraded", "slow", "medium", "fast")
_SIZE = (608, 1008)  # px, what frames of 600x1000 are padded to
_TIMED_VIDEOS, _COUNTED_VIDEOS = 2, 6


def _name(system: str, mode: Mode, causal: bool) -> str:
    return ", ".join((system, *(["causal"] if causal else []), mode))


def _config(system: str, backbone: str, mode: Mode, causal: bool) -> SystemConfig:
    config = recipe(f"{system}-{backbone}")
    if causal and isinstance(config.method, FGFAConfig):
        config = replace(config, method=replace(config.method, future=0))
    return in_mode(config, mode)


@app.default
def measure(
    synthetic: Path,
    *,
    real: Path | None = None,
    work: Path = Path("modes-work"),
    clips: int | None = None,
    processes: int = 2,
    samples: int = 1000,
    rounds: int = 5,
) -> None:
    """Runs everything; a call that was interrupted goes on.

    Args:
        synthetic: Folder of the benchmark's validation split.
        real: Folder in the layout of ImageNet VID with the labelled real clips; without it their column stays empty.
        work: Takes what is found, video by video; another one for other weights.
        clips: Only so many, the first ones.
        processes: How many work at the same time.
        samples: Resamples of the confidence intervals.
        rounds: How often the frames that times are taken of are gone through.
    """
    keep_memory()
    shipped = weights_of("fgfa-lite")
    rows = [Variant(_name(s, m, c), _config(s, "lite", m, c).method, shipped) for s, _, m, c in _ROWS]
    data = read_cocovid(synthetic / "annotations" / "synthetic_val.json")
    degraded = degraded_frames(data)
    taken = np.array([image.video is not None and image.video < (clips or len(data.videos)) for image in data.images])
    nothing = DetectionTable(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    data, _ = restrict(data, nothing, images=taken)
    with Progress() as bars:
        task = bars.add_task("clips", total=len(data.videos))
        found = detect_variants(rows, data, synthetic, work, processes=processes, progress=partial(bars.advance, task))
    motion = motion_iou(data)
    judges = [
        Judge(data, degraded[taken], motion, found[_name(against, "exact", causal=False)], samples)
        for _, against, _, _ in _ROWS
    ]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        documents = list(pool.map(_judge, judges, found, found.values()))
    torch.set_num_threads(1)
    figures = {
        "clips": len(data.videos),
        "frames": len(data.images),
        "found": dict(zip(found, documents, strict=True)),
        "real": on_real_clips(rows, real, work / "real", processes) if real else {},
        "seconds": seconds_per_frame(rows, data, synthetic, videos=_TIMED_VIDEOS, rounds=rounds),
        "work": work_of(rows, data, synthetic, videos=_COUNTED_VIDEOS),
        "gflop": {_name(s, m, c): gflop_of(_config(s, "r50", m, c)) for s, _, m, c in _ROWS},
    }
    _FIGURES.write_text(json.dumps(figures, indent=1, default=asdict) + "\n")
    fill(_PAGE, tables_of(json.loads(_FIGURES.read_bytes())))


def on_real_clips(rows: Sequence[Variant], folder: Path, work: Path, processes: int) -> dict[str, float]:
    """AP50 of each row on the labelled real clips."""
    data, images = real_clips(folder)
    found = detect_variants(rows, data, images, work, processes=processes, progress=lambda _: None)
    return {name: evaluate(data, table, "coco").headline["AP50"] for name, table in found.items()}


def _judge(judge: Judge, name: str, found: DetectionTable) -> dict[str, Any]:
    return judge(name, found)


def gflop_of(config: SystemConfig) -> dict[str, float]:
    """Arithmetic of the kinds of frames of a steady stream at 608x1008, counted without doing it.

    Composed flows are taken as they are: what a fallback costs is one of the flows.
    """
    if isinstance(config.method, FastFGFAConfig):
        config = replace(config, method=replace(config.method, drift_limit=None))
    elif config.name.startswith("dff"):  # the kinds of frames are the same, whatever decides on them
        config = recipe(config.name)
    system = build(config).to("meta")
    method, kinds = system.method, frame_kinds(system.method)
    geometry = (Geometry(_SIZE, _SIZE, _SIZE),)
    inputs = repeat(NetworkInput(torch.empty(1, 3, *_SIZE, device="meta"), geometry))
    state, counted = steady_state(method, method.initial_state(), inputs), {}
    proposals = torch.empty(config.heads.rpn.post_nms_top_n, 4, device="meta")
    with torch.inference_mode():
        for kind in kinds:
            with FlopCounterMode(display=False) as counter:
                (features,), state = method.step(next(inputs), state)
                system.detector.rpn(features.features)
                system.detector.roi_head(features.features, [proposals])
            counted[kind] = counter.get_total_flops() / 1e9
    return {**counted, "mean": sum(counted[kind] for kind in kinds) / len(kinds)}


def tables_of(figures: Mapping[str, Any]) -> dict[str, str]:
    """The tables in Markdown, by the name of their marks."""
    found, seconds, work = figures["found"], figures["seconds"], figures["work"]
    accuracy, cost = [], []
    for (system, against, mode, causal), (name, document) in zip(_ROWS, found.items(), strict=True):
        assert name == _name(system, mode, causal)
        exact = _name(against, "exact", causal=False)
        gain = "0" if name == exact else interval(document["gain"]["AP50"])
        real = f"{100 * figures['real'][name]:.1f}" if figures["real"] else ""
        accuracy.append([name, *(f"{100 * document['figures'][part]:.1f}" for part in _PARTS), gain, real])
        done, gflop = work[name], figures["gflop"][name]["mean"]
        if system == "dff":
            each, period = figures["gflop"][name], done["backbone"]
            gflop = period * each["key"] + (1 - period) * each["other"]
        times = seconds[exact] / seconds[name]
        counts = [f"{done['backbone']:.2f}", f"{done['flows']:.2f}", f"{done['fallbacks']:.2f}"]
        cost.append([name, f"{1000 * seconds[name]:.1f}", f"{times:.2f}", *counts, f"{gflop:.0f}"])
    return {
        "accuracy": table(["", *_PARTS, "AP50 against exact", "real clips"], accuracy),
        "cost": table(
            ["", "ms a frame", "times as fast as exact", "backbone", "flows", "fallbacks", "GFLOP, R-50"], cost
        ),
    }


if __name__ == "__main__":
    app()
