"""flowdet benchmark: what a system costs on this machine."""

import json as json_format
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

import flowdet
from flowdet.benchmark.benchmark import Contender
from flowdet.benchmark.benchmark import benchmark as measure
from flowdet.benchmark.report import FrameCost, Report, Spread, SystemCost, to_json
from flowdet.cli import console
from flowdet.cli.arguments import DEFAULTS, Options, check_outputs, parse_size
from flowdet.cli.console import status
from flowdet.errors import counted
from flowdet.files import write_text
from flowdet.systems.options import SystemOptions

__all__ = ["benchmark"]

_SHOWN_FROM = 5e-4  # of a frame's seconds

_BEYOND_PEAK = (
    "more than 100 % of peak: the backend needs fewer operations than are counted, as with Winograd's method, or "
    "computes in less than float32, in which the peak was measured"
)
_TITLES = {
    "decode": "decoding",
    "features": "backbone and neck",
    "rpn": "RPN",
    "roi_head": "RoI head",
    "after roi_head": "after RoI head",
    "after rpn": "after RPN",
}


@dataclass(frozen=True, kw_only=True)
class _Other(SystemOptions):
    """Another system to measure in alternation.

    Attributes:
        system: The name of another system; with an option of it alone it is the same one.
        size: Height x width of its frames. [default: as the first]
        backend: What computes it. [default: as the first]
    """

    system: Annotated[str | None, Parameter(name="--vs")] = None
    size: str | None = None
    device: Annotated[str, Parameter(parse=False)] = ""
    backend: Annotated[str, Parameter(show_default=False)] = ""


_NO_OTHER = _Other()


def benchmark(
    system: str | None = None,
    *,
    options: Options = DEFAULTS,
    size: str | None = None,
    frames: int = 20,
    threads: int | None = None,
    versus: Annotated[_Other, Parameter(name="vs")] = _NO_OTHER,
    json: Path | None = None,
) -> int:
    """Measure what a system costs on this machine, part by part.

    Times are for one stream in its steady state, one step after the other. Without weights at hand they are random.

    Args:
        system: One of `flowdet models`. [default: fgfa-nano]
        options: Which system, and how it detects.
        size: Height x width of the frames. [default: the largest the system takes, 600x1000 for published ones]
        frames: The least number of frames to measure: whole key frame intervals, and three of them.
        threads: Of torch. [default: one a core]
        versus: Another system to measure in alternation.
        json: Also write all numbers to this file.
    """
    check_outputs(None, json)
    contender, other = Contender(replace(options, system=system), parse_size(size)), None
    if versus != _NO_OTHER:
        name = versus.system or (None if versus.weights else system)
        backend = versus.backend or options.backend
        other = Contender(replace(versus, system=name, device=options.device, backend=backend), parse_size(versus.size))
    with status() as tell:
        report = measure(contender, other, frames=frames, threads=threads, tell=tell)
    _show(report)
    if json:
        document = {"flowdet": flowdet.__version__, **to_json(report)}
        write_text(json, json_format.dumps(document, indent=2) + "\n")
    return 0


def _show(report: Report) -> None:
    machine = report.machine
    others = "" if machine.others_cores is None else f"; other processes used {machine.others_cores:.1f}"
    console.out.print(
        f"{machine.processor}, {counted(machine.threads, 'thread')} on {counted(machine.cores, 'core')}{others}, "
        f"torch {machine.torch}\n"
        f"peak: float32 matrix products at {machine.best:.1f} GFLOP/s"
    )
    _show_system(report.system, machine.best)
    if report.versus:
        versus = report.versus
        _show_system(versus.system, machine.best)
        console.out.print(
            f"\n{_name(versus.system)} takes {_times(versus.ratio)} the time of {_name(report.system)} in forward and "
            f"post-processing, {_times(versus.ratio_everything)} from decoding to encoding (median and quartiles over "
            "the turns)."
        )
    if report.warnings:
        console.out.print("\nNot to be trusted; measure again when the machine has nothing else to do:", style="yellow")
    for warning in report.warnings:
        console.out.print(f"- {warning}", style="yellow")


def _show_system(cost: SystemCost, peak: float) -> None:
    height, width = cost.padded
    console.out.print(
        f"\n{_name(cost)}: frames {cost.size[0]}x{cost.size[1]}, network input {height}x{width}, {cost.weights} weights"
    )
    for kind, frame in cost.frames.items():
        together = len(cost.frames) == 1 and len(cost.kinds) > 1
        title = "" if len(cost.frames) == 1 else f"{kind} frames, "
        title += f"a frame of {frame.count} turns of {len(cost.kinds)}" if together else f"{frame.count} measured"
        console.out.print(_table(title, frame, peak))
    if len(cost.frames) > 1:
        mean = cost.mean
        console.out.print(
            f"mean over a turn of {len(cost.kinds)} frames: {_ms(mean.forward.median)} ms forward and post-processing, "
            f"{_ms(mean.everything.median)} ms everything, {mean.gflop:.1f} GFLOP a frame, "
            f"{_share(mean.gflop, mean.forward, peak)} of peak"
        )
    waits = f"; its frames wait for at most {counted(cost.lookahead, 'later one')}" if cost.lookahead else ""
    console.out.print(f"first detections after {cost.first.seconds:.2f} s in a new process{waits}")
    if cost.first.memory is not None and cost.first.memory_before is not None:
        console.out.print(
            f"peak memory {cost.first.memory / 1e6:.0f} MB, of it {cost.first.memory_before / 1e6:.0f} MB before the "
            "system was loaded"
        )
    notes = [*cost.notes, *([_BEYOND_PEAK] if any(_exceeds(peak, frame) for frame in cost.frames.values()) else [])]
    for note in notes:
        console.out.print(f"note: {note}")


def _exceeds(peak: float, frame: FrameCost) -> bool:
    """Whether a share of the peak is shown as more than 100 %."""
    rates = [(frame.gflop, frame.forward), *((part.gflop, part.seconds) for part in frame.parts.values())]
    return any(gflop > 1.005 * peak * seconds.median for gflop, seconds in rates)


def _table(title: str, frame: FrameCost, peak: float) -> Table:
    table = Table(title, "ms", "quartiles", "GFLOP", "of peak", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, part in frame.parts.items():
        if part.gflop or part.seconds.median > _SHOWN_FROM * frame.everything.median:
            table.add_row(*_row(_TITLES.get(name, name), part.seconds, part.gflop, peak))
    table.add_row(*_row("forward and post-processing", frame.forward, frame.gflop, peak))
    table.add_row(*_row("everything", frame.everything, 0, peak))
    return table


def _row(name: str, seconds: Spread, gflop: float, peak: float) -> tuple[str, ...]:
    arithmetic = (f"{gflop:.2f}", _share(gflop, seconds, peak)) if gflop else ("", "")
    return name, _ms(seconds.median), f"{_ms(seconds.low)} to {_ms(seconds.high)}", *arithmetic


def _share(gflop: float, seconds: Spread, peak: float) -> str:
    return f"{100 * gflop / max(seconds.median, 1e-9) / peak:.0f} %"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds >= 0.01 else f"{1000 * seconds:.2f}"


def _name(cost: SystemCost) -> str:
    given = {name: getattr(cost.options, name) for name in ("variant", "causal", "key_frame_interval", "flow")}
    given["precision"] = cost.options.precision if cost.options.precision != "float32" else None
    shown = [name if value is True else f"{name} {value}".replace("_", " ") for name, value in given.items() if value]
    return f"{cost.system} ({', '.join([*shown, cost.backend])})"


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) times"
