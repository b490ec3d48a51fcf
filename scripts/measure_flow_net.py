"""Measures the shipped flow net: end-point errors on held-out synthetic clips, and processor time.

    python scripts/measure_flow_net.py errors
    python scripts/measure_flow_net.py speed

Needs OpenCV and OpenVINO. The figures go to docs/evidence/flow-net.json, the tables into docs/flow-net.md between their
marks.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import quantiles
from typing import Any

import cv2
import torch
from cyclopts import App
from evidence_pages import fill, table
from flow_errors import ZeroFlow, end_point_errors, error_differences, flow_pairs, pair_errors

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.benchmark import Benchmark
from flowdet.flow.base import FlowNet
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.inputs import InputConfig, prepare
from flowdet.systems.load import load
from flowdet.systems.recipes import fgfa_lite

app = App(help=__doc__)

_ROOT = Path(__file__).parents[1]
_METRICS = _ROOT / "docs" / "evidence" / "flow-net.json"
_PAGE = _ROOT / "docs" / "flow-net.md"
_GAPS = (1, 2, 5, 9, 15)
_SIZES = {"416x256": InputConfig(416, 416, multiple=32), "512x320": InputConfig(512, 320, multiple=32)}
_DIS = {"DIS fast": DISFlowConfig(), "DIS ultrafast, stride 2": DISFlowConfig("ultrafast", 2)}


@app.command
def errors() -> None:
    """Measures end-point errors, and writes the page."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    inputs = fgfa_lite().inputs
    pairs = list(flow_pairs(Benchmark("val", VID_CLASSES), range(0, 180, 3), _GAPS))
    nets = {name: trained(*of) for name, of in _NETS.items()}
    nets |= {name: DISFlow(config, inputs) for name, config in _DIS.items()} | {"no flow": ZeroFlow()}
    found = {name: end_point_errors(net, inputs, pairs) for name, net in nets.items()}
    shipped, dis = (pair_errors(nets[name], inputs, pairs) for name in ("shipped", "DIS fast"))
    write({"errors": {name: by_gap(each) for name, each in found.items()}, "over DIS": error_differences(shipped, dis)})


def by_gap(errors: Mapping[int, Any]) -> dict[int, Any]:
    """Returns the errors as JSON holds them."""
    return {gap: asdict(each) for gap, each in errors.items()}


@app.command
def speed(*, turns: int = 60) -> None:
    """Measures processor time on one thread, all flow nets in turn, and writes the page.

    Args:
        turns: How often each is measured.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    clip = Benchmark("val", VID_CLASSES).clip(0)
    images = [clip.frame(number).image for number in (17, 18)]
    times: dict[str, dict[str, Any]] = {}
    for size, config in _SIZES.items():
        nets: dict[str, FlowNet] = {name: DISFlow(each, config) for name, each in _DIS.items()}
        for backend in ("torch", "openvino"):
            nets |= {f"{name}, {backend}": trained(*of, backend=backend) for name, of in _NETS.items()}
        times[size] = {name: {} for name in nets}
        calls: dict[tuple[str, str], Callable[[], object]] = {}
        for name, net in nets.items():
            current, reference = (prepare([image], config) for image in images)
            pair = net.as_current(net.prepare(current)), net.as_reference(net.prepare(reference))
            calls[name, "frame"] = lambda net=net, frame=current: net.as_current(net.prepare(frame))
            calls[name, "pair"] = lambda net=net, pair=pair: net(*pair)
            five = pair[0].expand(5, *pair[0].shape[1:]), pair[1].expand(5, *pair[1].shape[1:])
            calls[name, "five pairs"] = lambda net=net, five=five: net(*five)
        measured: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        with torch.inference_mode():
            for _ in range(turns):
                for key, call in calls.items():
                    call()
                    began = time.process_time()
                    call()
                    measured[key].append(1000 * (time.process_time() - began))
        for (name, what), values in measured.items():
            times[size][name][what] = quantiles(values, n=4)
    write({"ms": times})


_NETS = {"shipped": ("fgfa-nano", "aligned"), "shipped, reduction 4": ("dff-nano",), "lite": ("dff-lite",)}


def trained(system: str, variant: str | None = None, *, backend: str = "torch") -> FlowNet:
    """Returns the flow net of a shipped system."""
    flow_net = load(system, variant=variant, backend=backend).parts.flow_net
    assert flow_net
    return flow_net


def write(figures: Mapping[str, Any]) -> None:
    """Puts figures beside those measured before, and all tables into the page."""
    together = (json.loads(_METRICS.read_bytes()) if _METRICS.exists() else {}) | json.loads(json.dumps(figures))
    _METRICS.write_text(json.dumps(together, indent=1) + "\n")
    fill(_PAGE, tables_of(together))


def tables_of(figures: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tables in Markdown, by the name of their marks."""
    found = {}
    if "errors" in figures:
        rows = [
            [name, *(f"{each['everywhere']:.2f} ({each['visible']:.2f})" for each in of_net.values())]
            for name, of_net in figures["errors"].items()
        ]
        ends = (f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" for mean, low, high in figures["over DIS"].values())
        rows.insert(1, ["shipped over DIS fast", *ends])
        found["errors"] = table(["px, frames apart:", *map(str, _GAPS)], rows)
    if "ms" in figures:
        header = [f"{size}, {what}" for size in _SIZES for what in ("frame", "pair", "five pairs")]
        names = next(iter(figures["ms"].values()))
        rows = [
            [name, *(spread(figures["ms"][size][name][what]) for size in _SIZES for what in names[name])]
            for name in names
        ]
        found["speed"] = table(["ms", *header], rows)
    return found


def spread(quartiles: list[float]) -> str:
    """Returns the median and the quartiles as text."""
    low, middle, high = quartiles
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    app()
