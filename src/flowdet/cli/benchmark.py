"""flowdet benchmark: what a system costs on this machine."""

import json as json_format
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

import flowdet
from flowdet.benchmark.benchmark import benchmark as measure
from flowdet.benchmark.report import FrameCost, Machine, Report, Spread, SystemCost, to_json
from flowdet.benchmark.subject import Subject
from flowdet.cli import console
from flowdet.cli.outcome import check_outputs, parse_size, status
from flowdet.files import write_text
from flowdet.systems.modes import Mode

__all__ = ["benchmark"]

_SHOWN_FROM = 5e-4  # of a frame's seconds

_TITLES = {
    "decode": "decoding",
    "rpn": "RPN",
    "roi_head": "RoI head",
    "nms": "NMS",
    "other": "what lies between",
}


def benchmark(
    system: str | None = None,
    *,
    size: str | None = None,
    frames: int = 20,
    threads: int | None = None,
    device: str = "cpu",
    weights: Path | None = None,
    causal: bool = False,
    mode: Mode = "exact",
    runtime: str = "auto",
    vs: str | None = None,
    vs_weights: Path | None = None,
    vs_causal: bool = False,
    vs_mode: Mode = "exact",
    vs_size: str | None = None,
    vs_runtime: str | None = None,
    json: Path | None = None,
) -> int:
    """Measure what a system costs on this machine, part by part.

    Figures are for one stream in its steady state, one step after the other. Without weights at hand they are random.

    Args:
        system: One of `flowdet models`. [default: fgfa-lite]
        size: Height x width of the frames. [default: the largest the system takes, 600x1000 for published ones]
        frames: Measure so many at least: whole key-frame periods of DFF, and three of them.
        threads: Of torch. [default: one a core]
        device: Where the model runs, "cuda" for instance.
        weights: A weight file of your own: native (.safetensors) or an mmtracking checkpoint (.pth).
        causal: FGFA for live video: no waiting for later frames. Not the published protocol.
        mode: Less arithmetic for other numbers: early, composed, fast or recursive (FGFA), adaptive (DFF).
        runtime: torch, optimised, openvino, a folder of `flowdet quantise`, or auto: the fastest that is installed.
        vs: Another system to measure in alternation; with one of the next five options the same one if left out.
        vs_weights: Its weight file.
        vs_causal: Its FGFA is the one for live video.
        vs_mode: Its mode.
        vs_size: Its frames. [default: as the first]
        vs_runtime: Its runtime. [default: as the first]
        json: Also write all figures to this file.
    """
    check_outputs(None, json)
    subject = Subject(system, weights, causal, parse_size(size), mode, runtime)
    other = None
    if vs or vs_weights or vs_causal or vs_size or vs_runtime or vs_mode != "exact":
        name = vs or (None if vs_weights else system)
        other = Subject(name, vs_weights, vs_causal, parse_size(vs_size), vs_mode, vs_runtime or runtime)
    with status() as tell:
        report = measure(subject, other, frames=frames, threads=threads, device=device, tell=tell)
    _show(report)
    if json:
        document = {"flowdet": flowdet.__version__, **to_json(report)}
        write_text(json, json_format.dumps(document, indent=2) + "\n")
    return 0


def _show(report: Report) -> None:
    _show_machine(report.machine)
    for cost in (report.system, report.versus):
        if cost:
            _show_system(cost, report.machine.best)
    if report.versus and report.ratio and report.ratio_everything:
        console.out.print(
            f"\n{_name(report.versus)} takes {_times(report.ratio)} the time of {_name(report.system)} in forward and "
            f"post-processing, {_times(report.ratio_everything)} from decoding to encoding (median and quartiles over "
            "the turns)."
        )
    if report.machine.doubts:
        console.out.print("\nNot to be trusted; measure again when the machine has nothing else to do:", style="yellow")
    for doubt in report.machine.doubts:
        console.out.print(f"- {doubt}", style="yellow")


def _show_machine(machine: Machine) -> None:
    others = "" if machine.others_cores is None else f"; other processes used {machine.others_cores:.1f}"
    console.out.print(
        f"{machine.processor}, {machine.threads} threads on {machine.cores} cores{others}, torch {machine.torch}\n"
        f"peak: float32 matrix products at {machine.best:.1f} GFLOP/s"
    )


def _show_system(cost: SystemCost, peak: float) -> None:
    height, width = cost.padded
    console.out.print(
        f"\n{_name(cost)}: frames {cost.size[0]}x{cost.size[1]}, network input {height}x{width}, {cost.weights} weights"
    )
    for kind, frame in cost.frames.items():
        title = "" if kind == "frame" else f"{'key' if kind == 'key' else 'other'} frames, "
        console.out.print(_table(f"{title}{frame.count} measured", frame, peak))
    if len(cost.frames) > 1:
        mean = cost.mean
        console.out.print(
            f"mean over a key-frame period of {len(cost.kinds)}: {_ms(mean.forward)} ms forward and post-processing, "
            f"{_ms(mean.everything)} ms everything, {mean.gflop:.1f} GFLOP a frame, "
            f"{_share(mean.gflop, mean.forward, peak)} of peak"
        )
    waits = f"; its frames wait for {cost.lookahead} later ones" if cost.lookahead else ""
    console.out.print(f"first detections after {cost.first_seconds:.2f} s in a new process{waits}")
    if cost.memory.peak is not None and cost.memory.before is not None:
        console.out.print(
            f"peak memory {cost.memory.peak / 1e6:.0f} MB, of it {cost.memory.before / 1e6:.0f} MB before the system "
            "was built"
        )
    for note in cost.notes:
        console.out.print(f"note: {note}")


def _table(title: str, frame: FrameCost, peak: float) -> Table:
    table = Table(title, "ms", "quartiles", "GFLOP", "of peak", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in _rows(frame, peak):
        table.add_row(*row)
    return table


def _rows(frame: FrameCost, peak: float) -> Iterator[tuple[str, ...]]:
    for name, part in frame.parts.items():
        if part.gflop or part.seconds.median > _SHOWN_FROM * frame.everything.median:
            yield _row(_TITLES.get(name, name), part.seconds, part.gflop, peak)
    yield _row("forward and post-processing", frame.forward, frame.gflop, peak)
    yield _row("everything", frame.everything, 0, peak)


def _row(name: str, seconds: Spread, gflop: float, peak: float) -> tuple[str, ...]:
    arithmetic = (f"{gflop:.2f}", _share(gflop, seconds, peak)) if gflop else ("", "")
    return name, _ms(seconds), f"{_number(seconds.low)} to {_number(seconds.high)}", *arithmetic


def _share(gflop: float, seconds: Spread, peak: float) -> str:
    return f"{100 * gflop / max(seconds.median, 1e-9) / peak:.0f} %"


def _ms(seconds: Spread) -> str:
    return _number(seconds.median)


def _number(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds >= 0.01 else f"{1000 * seconds:.2f}"


def _name(cost: SystemCost) -> str:
    options = [
        *(["causal"] if cost.causal else []),
        *([cost.mode] if cost.mode != "exact" else []),
        *([cost.runtime] if cost.runtime != "torch" else []),
    ]
    return f"{cost.system} ({', '.join(options)})" if options else cost.system


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) times"
