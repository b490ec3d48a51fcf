"""The tables and the plot of docs/flow.md, and what is compared there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evidence_pages import interval, table
from matplotlib.figure import Figure

__all__ = [
    "CAMERA_SPEEDS",
    "MIDDLE_SPEEDS",
    "MOVING",
    "RADII",
    "RADIUS",
    "SPEEDS",
    "STRIDES",
    "plot",
    "tables_of",
]

STRIDES = (8, 16, 32)
SPEEDS = (0, 2, 4, 8, 16, 32)  # px a frame
MOVING = SPEEDS[1:]
MIDDLE_SPEEDS = (4, 8, 16)
CAMERA_SPEEDS = (0, *MIDDLE_SPEEDS)
RADIUS = 5  # of the window unless a table says otherwise
RADII = {0: (RADIUS, 9), 3: (1, 2, RADIUS, 9)}
"""Radii of the windows that are compared, by the number of degraded frames."""
_SHOWN = 0.0005  # what is less is 0.0 points
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def tables_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tables in Markdown, by the name of their marks."""
    crossing, camera = metrics["crossing"], metrics["camera"]
    flows = list(crossing["all"][f"0 {RADIUS} 0"]["over none"])
    shown = [name for name in flows if name not in {"exact, masked", "exact or none"}]
    windowed = list(crossing["all"][f"0 {RADII[0][-1]} {MIDDLE_SPEEDS[0]}"]["over none"])
    real_flows = list(metrics["real"]["0"]["over none"])

    def row(cells: Mapping[str, Any], names: Sequence[str]) -> list[str]:
        ap = cells["AP50"]
        return [
            *(f"{100 * ap[name]:.1f}" for name in ("single", "none")),
            *(interval(cells["over none"][name]) for name in names),
        ]

    tables = {}
    for mark, spoilt in (("clean", 0), ("three", 3)):
        tables[f"crossing {mark}"] = table(
            ["px a frame", "single", "no flow", *flows],
            [[str(speed), *row(crossing["all"][f"{spoilt} {RADIUS} {speed}"], flows)] for speed in SPEEDS],
        )
    tables["crossing one and two"] = table(
        ["degraded", "px a frame", "single", "no flow", *shown],
        [
            [str(spoilt), str(speed), *row(crossing["all"][f"{spoilt} {RADIUS} {speed}"], shown)]
            for spoilt in (1, 2)
            for speed in MIDDLE_SPEEDS
        ],
    )
    groups = {"all": 1} | {str(stride): stride for stride in STRIDES}
    units = ["px", *(f"cells of {stride} px" for stride in STRIDES)]
    counts = [f"{crossing['clips'][group]} clips, {crossing['photographs'][group]} photographs" for group in groups]
    tables["boundary"] = table(
        ["degraded", "window", *(f"{unit} a frame ({count})" for unit, count in zip(units, counts, strict=True))],
        [
            [str(spoilt), f"{radius} + {radius}"]
            + [pays(crossing[group], f"{spoilt} {radius}", stride) for group, stride in groups.items()]
            for spoilt, radii in RADII.items()
            for radius in radii
        ],
    )
    tables["strides"] = table(
        ["stride", "px a frame", "cells a frame", "single", "no flow", *shown],
        [
            [str(stride), str(speed), f"{speed / stride:g}", *row(crossing[str(stride)][f"3 {RADIUS} {speed}"], shown)]
            for stride in STRIDES
            for speed in SPEEDS
        ],
    )
    tables["windows"] = table(
        ["degraded", "window", "px a frame", "single", "no flow", *windowed],
        [
            [
                str(spoilt),
                f"{radius} + {radius}",
                str(speed),
                *row(crossing["all"][f"{spoilt} {radius} {speed}"], windowed),
            ]
            for spoilt, radii in RADII.items()
            for radius in radii
            for speed in (MIDDLE_SPEEDS if radius > RADIUS else MOVING)
        ],
    )
    tables["camera"] = table(
        ["degraded", "px a frame", "single", "no flow", *flows],
        [
            [str(spoilt), str(speed), *row(camera["all"][f"{spoilt} {RADIUS} {speed}"], flows)]
            for spoilt in (0, 3)
            for speed in CAMERA_SPEEDS
        ],
    )
    tables["real"] = table(
        ["degraded in a row", "single", "no flow", *real_flows],
        [[spoilt, *row(metrics["real"][spoilt], real_flows)] for spoilt in "0123"],
    )
    tables["crops"] = table(
        ["crop", "degraded", "single", "no flow", *real_flows],
        [
            [label, str(spoilt), *row(metrics["crops"][f"{name} {spoilt}"], real_flows)]
            for name, label in (("still", "stands still"), ("following", "follows the camera"))
            for spoilt in (0, 3)
        ],
    )
    tables["cropped clips"] = table(
        ["clip", "frames judged", "widths", "px a frame", "degraded", "single", "no flow", *real_flows],
        [
            [*facts_of(name, clip), str(spoilt)]
            + [f"{100 * clip[f'still {spoilt}'][method]:.1f}" for method in ("single", "none", *real_flows)]
            for name, clip in metrics["cropped clips"].items()
            if clip["speeds"]
            for spoilt in (0, 3)
        ],
    )
    return tables


def facts_of(name: str, clip: Mapping[str, Any]) -> list[str]:
    """Returns the name of a cropped clip, and of its crops: number, widths and the median speed of the object."""
    widths = ", ".join(map(str, sorted(set(clip["widths"]))))
    return [name, f"{len(clip['speeds'])} of {clip['frames']}", widths, f"{np.median(clip['speeds']):.0f}"]


def pays(cells: Mapping[str, Any], setting: str, stride: int) -> str:
    """Returns at which speeds the shipped flow gains, in cells of the stride: its interval lies above 0."""
    gains = {
        speed: cells[f"{setting} {speed}"]["over none"]["shipped"] for speed in MOVING if f"{setting} {speed}" in cells
    }
    above = [speed for speed, gain in gains.items() if gain["low"] > _SHOWN]
    below = [speed for speed, gain in gains.items() if gain["high"] < -_SHOWN]
    parts = [speeds_text(above, list(gains), stride)] if above else []
    parts += [f"loses at {speeds_text(below, list(gains), stride)}"] if below else []
    return "; ".join(parts) or "nowhere"


def speeds_text(speeds: Sequence[int], measured: Sequence[int], stride: int) -> str:
    """Returns speeds in cells of the stride: "2 to 8" for all that were measured between, else one by one."""
    first, last = measured.index(speeds[0]), measured.index(speeds[-1])
    if len(speeds) > 2 and len(speeds) == last - first + 1:
        return f"{speeds[0] / stride:g} to {speeds[-1] / stride:g}"
    return ", ".join(f"{speed / stride:g}" for speed in speeds)


def plot(metrics: Mapping[str, Any], path: Path) -> None:
    """Draws the gain of each flow over none against the speed in cells, by stride, clean and degraded."""
    crossing = metrics["crossing"]
    names = [name for name in crossing["all"][f"0 {RADIUS} 0"]["over none"] if " " not in name]
    figure = Figure(figsize=(9, 5), layout="constrained")
    panels = figure.subplots(2, len(STRIDES), sharex=True, sharey=True)
    for row, (spoilt, label) in zip(panels, ((0, "clean"), (3, "three degraded")), strict=True):
        for axes, stride in zip(row, STRIDES, strict=True):
            for name, colour in zip(names, _COLOURS, strict=False):
                cells = crossing[str(stride)]
                gains = [cells[f"{spoilt} {RADIUS} {speed}"]["over none"][name] for speed in MOVING]
                value, low, high = ([100 * gain[part] for gain in gains] for part in ("value", "low", "high"))
                at = [speed / stride for speed in MOVING]
                axes.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)
                axes.plot(at, value, "o-", color=colour, label=name, markersize=4)
            axes.axhline(0, color="#777777", linewidth=1)
            axes.set_xscale("log", base=2)
            axes.set_title(f"stride {stride}, {label}", fontsize=10)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        row[0].set_ylabel("AP50 over no flow")
    for axes in panels[-1]:
        axes.set_xticks([2.0**n for n in range(-4, 3)], ["1/16", "1/8", "1/4", "1/2", "1", "2", "4"])
        axes.set_xlabel("speed, cells a frame")
    panels[0][0].legend(frameon=False)
    figure.savefig(path)
