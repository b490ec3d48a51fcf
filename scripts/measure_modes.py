"""What every variant finds and costs: the tables of docs/variants.md from the shipped weights.

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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from evidence_pages import fill, interval, table
from evidence_runs import Variant, detect_variants, seconds_per_frame, work_of
from make_evidence import Judge, degraded_frames, real_clips
from restrict import restrict
from rich.progress import Progress
from torch.utils.flop_counter import FlopCounterMode

from flowdet.benchmark.meter import warm_up
from flowdet.cli import keep_memory
from flowdet.data.cocovid import read_cocovid
from flowdet.data.motion import motion_iou
from flowdet.detectors.faster_rcnn import FasterRCNN
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.protocols import evaluate
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig
from flowdet.systems.load import weights_of
from flowdet.systems.options import SystemOptions, apply_options
from flowdet.systems.recipes import recipe
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.types import Geometry, NetworkInput

app = App(help=__doc__)

_ROOT = Path(__file__).parents[1]
_FIGURES = _ROOT / "docs" / "evidence" / "modes.json"
_PAGE = _ROOT / "docs" / "variants.md"
_ROWS: Sequence[SystemOptions] = (
    SystemOptions(system="single"),
    SystemOptions(system="fgfa"),
    *(SystemOptions(system="fgfa", variant=variant) for variant in ("early", "composed", "fast")),
    SystemOptions(system="fgfa", causal=True),
    SystemOptions(system="fgfa", causal=True, variant="fast"),
    SystemOptions(system="fgfa", variant="recursive"),
    SystemOptions(system="dff"),
    SystemOptions(system="dff", key_frame_interval=5),
)
_COMPARED_WITH = {"single": "fgfa, exact", "fgfa": "fgfa, exact", "dff": "dff, exact"}
_PARTS = ("AP50", "sharp", "degraded", "slow", "medium", "fast")
_SIZE = (608, 1008)  # px, what frames of 600x1000 are padded to
_TIMED_VIDEOS, _COUNTED_VIDEOS = 2, 6


def _name(row: SystemOptions) -> str:
    interval = f"interval {row.key_frame_interval}" if row.key_frame_interval else ""
    parts = (row.system, "causal" if row.causal else "", row.variant or interval or "exact")
    return ", ".join(part for part in parts if part)


def _config(row: SystemOptions, backbone: str) -> SystemConfig:
    return apply_options(recipe(f"{row.system}-{backbone}"), row)


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
    rows = [Variant(_name(row), _config(row, "lite").method, shipped) for row in _ROWS]
    data = read_cocovid(synthetic / "annotations" / "synthetic_val.json")
    degraded = degraded_frames(data)
    taken = np.array([image.video is not None and image.video < (clips or len(data.videos)) for image in data.images])
    nothing = DetectionTable(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    data, _ = restrict(data, nothing, images=taken)
    with Progress() as bars:
        task = bars.add_task("clips", total=len(data.videos))
        found = detect_variants(rows, data, synthetic, work, processes=processes, progress=partial(bars.advance, task))
    motion = motion_iou(data)
    judges = [Judge(data, degraded[taken], motion, found[_COMPARED_WITH[str(row.system)]], samples) for row in _ROWS]
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
        "gflop": {_name(row): gflop_of(_config(row, "r50")) for row in _ROWS},
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
    if isinstance(config.method, FGFAConfig):
        config = replace(config, method=replace(config.method, drift_limit=None))
    system = build(config).to("meta")
    method, kinds, detector = system.method, config.method.kinds, system.detector
    assert isinstance(detector, FasterRCNN)
    inputs = NetworkInput(torch.empty(1, 3, *_SIZE, device="meta"), (Geometry(_SIZE, _SIZE, _SIZE),))
    heads = detector.config.roi_head, detector.config.rpn
    pooled = torch.empty(heads[1].post_nms_top_n, detector.channels[0], heads[0].bins, heads[0].bins, device="meta")
    state, counted = method.initial_state(), {}
    with torch.inference_mode():
        for _ in range(method.lookahead + warm_up(config.method)):
            _, state = method.step(inputs, state)
        for kind in kinds:
            with FlopCounterMode(display=False) as counter:
                (features,), state = method.step(inputs, state)
                detector.rpn(*features.maps)
                detector.roi_head(pooled)
            counted[kind] = counter.get_total_flops() / 1e9
    return {**counted, "mean": sum(counted[kind] for kind in kinds) / len(kinds)}


def tables_of(figures: Mapping[str, Any]) -> dict[str, str]:
    """The tables in Markdown, by the name of their marks."""
    found, seconds, work = figures["found"], figures["seconds"], figures["work"]
    accuracy, cost = [], []
    for row, (name, document) in zip(_ROWS, found.items(), strict=True):
        assert name == _name(row)
        exact = _COMPARED_WITH[str(row.system)]
        gain = "0" if name == exact else interval(document["gain"]["AP50"])
        real = f"{100 * figures['real'][name]:.1f}" if figures["real"] else ""
        accuracy.append([name, *(f"{100 * document['figures'][part]:.1f}" for part in _PARTS), gain, real])
        done, gflop = work[name], figures["gflop"][name]["mean"]
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
