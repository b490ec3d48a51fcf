"""Tables and plots of docs/evidence.md from the figures in docs/evidence/figures.json."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

__all__ = ["fill", "interval", "table", "write_pages"]

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#777777"
_PARTS = {"AP50": "all", "sharp": "sharp", "degraded": "degraded", "slow": "slow", "medium": "medium", "fast": "fast"}


def write_pages(document: Path, folder: Path) -> None:
    """Puts the tables between their marks in a document, and the plots into a folder."""
    figures = json.loads((folder / "figures.json").read_bytes())
    fill(document, tables(figures))
    _plot_line(figures, "window", "frames in the window of fgfa-lite", folder / "windows.png")
    _plot_line(figures, "interval", "key-frame interval of dff-lite", folder / "intervals.png")
    _plot_gains(figures, folder / "gains.png")


def fill(document: Path, tables: Mapping[str, str]) -> None:
    """Puts tables between the marks with their names in a document."""
    text = document.read_text()
    for name, content in tables.items():
        opening, closing = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if opening not in text or closing not in text:
            raise SystemExit(f"{document} lacks the marks {opening} and {closing}")
        before, rest = text.split(opening)
        text = f"{before}{opening}\n{content}\n{closing}{rest.split(closing)[1]}"
    document.write_text(text)


def tables(figures: Mapping[str, Any]) -> dict[str, str]:
    """The tables in Markdown, by the name of their marks."""
    systems, rows, seconds = figures["systems"], figures["ablations"], figures["seconds"]
    single = seconds["single-lite"]
    seconds |= {"window 1": single, "interval 1": single}

    def found(name: str, *parts: str, group: Mapping[str, Any] = rows) -> list[str]:
        return [f"{100 * group[name]['figures'][part]:.1f}" for part in parts]

    def time(name: str) -> list[str]:
        took = seconds.get(name)
        return [f"{1000 * took:.1f}", f"{single / took:.2f}"] if took else ["", ""]

    def numbered(kind: str) -> Iterable[tuple[str, list[str]]]:
        for name in sorted((n for n in rows if n.startswith(f"{kind} ")), key=_number):
            cells = [*found(name, "AP50"), interval(rows[name]["gain"]["AP50"])]
            yield name.removeprefix(f"{kind} "), [*cells, *found(name, "degraded", "fast"), *time(name)]

    ablations = ["fgfa-lite", *(n for n in rows if n.startswith("fgfa, ")), "dff-lite"]
    ablations += [name for name in rows if name.startswith(("dff, ", "single, "))]
    common = ["AP50", "against single-lite", "degraded", "fast", "ms a frame", "times as fast"]
    return {
        "systems": table(
            ["", "AP", "AP50", *list(_PARTS.values())[1:], "ms a frame", "times as fast"],
            [[n, *found(n, "AP", *_PARTS, group=systems), *time(n)] for n in systems],
        ),
        "gains": table(
            ["AP50 or mAP against single-lite", *_PARTS.values()],
            [[n, *(interval(s["gain"][part]) for part in _PARTS)] for n, s in systems.items() if n != "single-lite"],
        ),
        "windows": table(["frames", *common], [[n, *cells] for n, cells in numbered("window")]),
        "intervals": table(["interval", *common], [[n, *cells] for n, cells in numbered("interval")]),
        "ablations": table(
            ["", *common],
            [
                [n, *found(n, "AP50"), interval(rows[n]["gain"]["AP50"]), *found(n, "degraded", "fast"), *time(n)]
                for n in ablations
            ],
        ),
        "flow": _flow_table(figures["flow"]),
        "real": _real_table(figures["real"]),
    }


def _number(name: str) -> int:
    return int(name.rpartition(" ")[2])


def _flow_table(flow: Mapping[str, Any]) -> str:
    gaps = list(next(iter(flow.values())))

    def cells(errors: Mapping[str, Any]) -> list[str]:
        return [f"{errors[gap]['everywhere']:.2f} ({errors[gap]['visible']:.2f})" for gap in gaps]

    header = ["px, frames apart:", *gaps]
    return table(header, [[name, *cells(errors)] for name, errors in flow.items()])


def _real_table(real: Mapping[str, Any]) -> str:
    classes = [name for name, ap in next(iter(real.values()))["per_class"].items() if ap is not None]
    return table(
        ["six real clips", "AP", "AP50", "against single-lite", *classes],
        [
            [
                name,
                f"{100 * row['AP']:.1f}",
                f"{100 * row['AP50']:.1f}",
                interval(row["gain"]),
                *(f"{100 * row['per_class'][c]:.1f}" for c in classes),
            ]
            for name, row in real.items()
        ],
    )


def interval(gain: Mapping[str, float]) -> str:
    """A difference with its interval, in points of 100."""
    value, low, high = (100 * gain[part] for part in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if value or low or high else "0"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plot_line(figures: Mapping[str, Any], kind: str, label: str, path: Path) -> None:
    """AP50 with its interval against single-lite's, and the time of a frame, over a parameter."""
    rows = figures["ablations"]
    names = sorted((name for name in rows if name.startswith(f"{kind} ")), key=_number)
    numbers = [_number(name) for name in names]
    gains = [rows[name]["gain"]["AP50"] for name in names]
    base = 100 * rows["single-lite"]["figures"]["AP50"]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    values = [base + 100 * gain["value"] for gain in gains]
    low, high = ([base + 100 * gain[end] for gain in gains] for end in ("low", "high"))
    axes.fill_between(numbers, low, high, color=_BLUE, alpha=0.15, linewidth=0)
    axes.plot(numbers, values, "o-", color=_BLUE)
    axes.axhline(base, color=_GREY, linestyle=":", linewidth=1)
    axes.annotate(
        "single-lite", (numbers[-1], base), xytext=(0, 3), textcoords="offset points", ha="right", color=_GREY
    )
    axes.set_xlabel(label)
    axes.set_xticks(numbers)
    axes.set_ylabel("AP50", color=_BLUE)
    times = axes.twinx()
    times.plot(numbers, [1000 * figures["seconds"][name] for name in names], "s--", color=_ORANGE, markersize=4)
    times.set_ylabel("ms a frame", color=_ORANGE)
    times.set_ylim(bottom=0)
    for side in (axes, times):
        side.spines["top"].set_visible(False)
    figure.savefig(path, dpi=110)


def _plot_gains(figures: Mapping[str, Any], path: Path) -> None:
    """What each system gains over single-lite on each part of the benchmark, with intervals."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    shown = {"dff-lite": _ORANGE, "fgfa-lite": _BLUE}
    for number, (name, colour) in enumerate(shown.items()):
        gains = [figures["systems"][name]["gain"][part] for part in _PARTS]
        places = [place + 0.24 * (number - 0.5) for place in range(len(gains))]
        values = [100 * gain["value"] for gain in gains]
        errors = [[100 * abs(gain["value"] - gain[end]) for gain in gains] for end in ("low", "high")]
        axes.errorbar(places, values, errors, fmt="o", color=colour, capsize=3, label=name)
    axes.axhline(0, color=_GREY, linewidth=1)
    axes.set_xticks(range(len(_PARTS)), list(_PARTS.values()))
    axes.set_ylabel("points against single-lite")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
