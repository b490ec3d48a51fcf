"""Makes every table and plot of docs/evidence.md from the shipped weights.

    flowdet data synthesize synthetic --split val
    python scripts/make_evidence.py synthetic --real REAL_VID

The figures go to docs/evidence/figures.json, plots beside it, and the tables into docs/evidence.md between their marks.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from evidence_pages import write_pages
from evidence_runs import Variant, detect_variants, seconds_per_frame
from flow_errors import ZeroFlow, end_point_errors, flow_pairs
from numpy.typing import NDArray
from restrict import restrict
from rich.progress import Progress

from flowdet.class_names import VID_CLASSES
from flowdet.cli import keep_memory
from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.data.motion import motion_iou
from flowdet.data.synthetic.benchmark import Benchmark
from flowdet.evaluation.run import detect_data_set
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.intervals import Interval, bootstrap, bootstrap_difference
from flowdet.metrics.protocols import evaluate
from flowdet.systems.load import load, weights_of
from flowdet.systems.recipes import fgfa_lite
from flowdet.temporal.base import MethodConfig
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.tracking.seq_nms import seq_nms

app = App(help=__doc__)

WINDOWS = (1, 5, 9, 13, 17, 21, 25, 31)
INTERVALS = (1, 2, 5, 10, 15, 20)
_SYSTEMS = ("single-lite", "dff-lite", "fgfa-lite")
_ROOT = Path(__file__).parents[1]
_OUT = _ROOT / "docs" / "evidence"
_FROZEN = Path(__file__).with_name("lite-frozen-flow.safetensors")
_CLIPS_OF_ABLATIONS = 60
_GAPS = (1, 2, 5, 9, 15)


def variants() -> list[Variant]:
    """Everything that is compared."""
    shipped = weights_of("fgfa-lite")
    fgfa = fgfa_lite().method
    assert isinstance(fgfa, FGFAConfig)
    dff = DFFConfig()

    def of_window(frames: int) -> MethodConfig:
        return replace(fgfa, past=frames // 2, future=frames // 2)

    return [
        *(Variant(n, m, shipped) for n, m in zip(_SYSTEMS, (SingleFrameConfig(), dff, fgfa), strict=True)),
        *(Variant(f"window {n}", of_window(n), shipped) for n in WINDOWS if n > 1),
        *(Variant(f"interval {n}", DFFConfig(key_frame_interval=n), shipped) for n in INTERVALS if n > 1),
        Variant("fgfa, no flow", fgfa, shipped, "none"),
        Variant("fgfa, equal weights", replace(fgfa, sharpness=0.0), shipped),
        Variant("fgfa, causal", replace(fgfa, future=0), shipped),
        Variant("fgfa, causal, 10 past", replace(fgfa, past=10, future=0), shipped),
        Variant("fgfa, DIS flow", fgfa, shipped, "dis"),
        Variant("dff, no flow", dff, shipped, "none"),
        Variant("dff, DIS flow", dff, shipped, "dis"),
        *(
            Variant(f"{name}, flow net not trained along", method, _FROZEN)
            for name, method in (("single", SingleFrameConfig()), ("dff", dff), ("fgfa", fgfa))
        ),
    ]


@dataclass(frozen=True, eq=False)
class Judge:
    """Compares results on the benchmark with what is annotated, and with the single-frame detector's.

    Attributes:
        data: The validation split.
        degraded: [i] whether each image is degraded.
        motion: [n] motion IoU of each object.
        first: The single-frame detector's.
        samples: Resamples of the confidence intervals.
    """

    data: CocoVID
    degraded: NDArray[np.bool_]
    motion: NDArray[np.float64]
    first: DetectionTable
    samples: int

    def __call__(self, name: str, table: DetectionTable) -> dict[str, Any]:
        """The figures of a result; its gains by speed and on degraded frames if it is a system's."""
        figures = {name: value for name, value in evaluate(self.data, table, "coco").headline.items() if name != "AP75"}
        for part, images in (("degraded", self.degraded), ("sharp", ~self.degraded)):
            figures[part] = evaluate(*restrict(self.data, table, images=images), "coco").headline["AP50"]
        figures |= evaluate(self.data, table, "ilsvrc-motion", motion_iou=self.motion).headline
        document: dict[str, Any] = {"figures": figures, "gain": {"AP50": self.gain(table, None)}}
        document["interval"] = bootstrap(self.data, table, "coco", samples=self.samples)["AP50"]
        if name.startswith(_SYSTEMS) and len(self.data.videos) > _CLIPS_OF_ABLATIONS:
            gain = document["gain"]
            gain |= {"degraded": self.gain(table, self.degraded), "sharp": self.gain(table, ~self.degraded)}
            gain |= bootstrap_difference(
                self.data, self.first, table, "ilsvrc-motion", motion_iou=self.motion, samples=self.samples
            )
        return document

    def gain(self, table: DetectionTable, images: NDArray[np.bool_] | None) -> Interval:
        """What AP50 gains over the single-frame detector on these images, or on all."""
        data, after = restrict(self.data, table, images=images)
        _, before = restrict(self.data, self.first, images=images)
        return bootstrap_difference(data, before, after, "coco", samples=self.samples)["AP50"]


@app.default
def main(
    synthetic: Path,
    *,
    real: Path | None = None,
    work: Path = Path("runs/evidence"),
    processes: int = 2,
    samples: int = 1000,
) -> None:
    """Runs everything; a call that was interrupted goes on.

    Args:
        synthetic: Folder of the benchmark's validation split.
        real: Folder in the layout of ImageNet VID with the labelled real clips; without it their figures stay.
        work: Takes what is found, video by video.
        processes: How many work at the same time.
        samples: Resamples of the confidence intervals.
    """
    keep_memory()
    _OUT.mkdir(exist_ok=True)
    path = _OUT / "figures.json"
    figures: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    rows = variants()
    data = read_cocovid(synthetic / "annotations" / "synthetic_val.json")
    degraded = degraded_frames(data)
    first = np.array([image.video is not None and image.video < _CLIPS_OF_ABLATIONS for image in data.images])
    with Progress() as bars:
        detect = partial(detect_variants, images=synthetic, processes=processes)
        task = bars.add_task("clips of the systems", total=len(data.videos))
        found = detect(rows[:3], data, folder=work / "systems", progress=partial(bars.advance, task))
        part, _ = restrict(data, found["single-lite"], images=first)
        task = bars.add_task("clips of the ablations", total=len(part.videos))
        varied = {name: restrict(data, table, images=first)[1] for name, table in found.items()}
        varied |= detect(rows[3:], part, folder=work / "ablations", progress=partial(bars.advance, task))
        varied |= {"window 1": varied["single-lite"], "interval 1": varied["single-lite"]}
        found |= {f"{name}, Seq-NMS": seq_nms(data, found[name]) for name in _SYSTEMS}
        task = bars.add_task("figures", total=len(found) + len(varied))
        judges = {
            "systems": (Judge(data, degraded, motion_iou(data), found["single-lite"], samples), found),
            "ablations": (Judge(part, degraded[first], motion_iou(part), varied["single-lite"], samples), varied),
        }
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            for group, (judge, tables) in judges.items():
                figures[group] = {}
                for name, document in zip(tables, pool.map(judge, tables, tables.values()), strict=True):
                    figures[group][name] = document
                    bars.advance(task)
    figures["flow"] = flow_errors()
    if real:
        figures["real"] = judge_real(real, work / "real", samples)
    torch.set_num_threads(1)
    figures["seconds"] = seconds_per_frame(rows, data, synthetic, videos=2, rounds=5)
    figures["threads"] = torch.get_num_threads()
    path.write_text(json.dumps(figures, indent=1, default=asdict) + "\n")
    write_pages(_OUT.with_suffix(".md"), _OUT)


def degraded_frames(data: CocoVID) -> NDArray[np.bool_]:
    """Whether each image [i] of the benchmark lies in a burst of defocus, shake or wrong exposure."""
    return np.array([image["degraded"] for image in json.loads(data.path.read_bytes())["images"]])


def flow_errors() -> dict[str, Any]:
    """End-point errors of the flow net of the lite systems, DIS and zero flow on pairs of held-out clips."""
    system = load("fgfa-lite")
    pairs = list(flow_pairs(Benchmark("val", VID_CLASSES), range(0, 180, 3), _GAPS))
    assert system.flow_net
    inputs = system.config.inputs
    nets = {"lite": system.flow_net, "DIS": DISFlow(DISFlowConfig(), inputs), "no flow": ZeroFlow()}
    return {name: end_point_errors(net, inputs, pairs) for name, net in nets.items()}


def real_clips(folder: Path) -> tuple[CocoVID, Path]:
    """The labelled real clips and the folder of their pictures."""
    return read_cocovid(folder / "annotations" / "davis_vid_val.json"), folder / "Data" / "VID"


def judge_real(folder: Path, work: Path, samples: int) -> dict[str, Any]:
    """The systems as they are shipped on the labelled real clips."""
    data, images = real_clips(folder)
    found = {name: detect_data_set(load(name), data, images, work / name).table for name in _SYSTEMS}
    found |= {f"{name}, Seq-NMS": seq_nms(data, found[name]) for name in _SYSTEMS}
    return {
        name: {
            **evaluate(data, table, "coco").headline,
            "per_class": evaluate(data, table, "coco").per_class["AP50"],
            "gain": bootstrap_difference(data, found["single-lite"], table, "coco", samples=samples)["AP50"],
        }
        for name, table in found.items()
    }


if __name__ == "__main__":
    app()
