"""Curves of training runs, from their logs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdet.errors import ConfigError, FlowdetError
from flowdet.evaluation.plotting import check_plotting, readable_names
from flowdet.training.records import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_runs"]

_STYLES = ("-", "--", ":", "-.")
_SMOOTHED_SHARE = 0.02


def draw_runs(runs: Sequence[Path], path: Path) -> None:
    """Draws loss, learning rate and metrics of one or more runs against the epoch.

    Args:
        runs: The folders of the runs.
        path: The picture to write; its suffix decides the format: ".png", ".svg" or ".pdf".

    Raises:
        FlowdetError: A run has no log, or an empty one.
        ConfigError: The picture cannot be drawn; Matplotlib may be missing.
    """
    logs = [read_log(run) for run in runs]
    for run, log in zip(runs, logs, strict=True):
        if not any("loss" in entry for entry in log):
            raise FlowdetError(f"the log of {run} has no step yet")
    figure = _figure(3 if any("metrics" in entry for log in logs for entry in log) else 2)
    names = [run.name for run in runs]
    names = [run.name if names.count(run.name) == 1 else str(run) for run in runs]
    with readable_names(names) as named:
        for number, (name, log) in enumerate(zip(names, logs, strict=True)):
            _draw_run(figure.axes, named(name), log, f"C{number}")
        for axes in figure.axes:
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
        figure.axes[-1].set_xlabel("epoch")
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be drawn: {error}") from error


def _figure(panels: int) -> "Figure":
    check_plotting()
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 3 * panels), dpi=120, layout="constrained")
    figure.subplots(panels, sharex=True)
    for axes, label in zip(figure.axes, ("loss", "learning rate", "evaluation"), strict=False):
        axes.set_ylabel(label)
    return figure


def _draw_run(panels: Sequence["Axes"], name: str, log: Sequence[Mapping[str, Any]], colour: str) -> None:
    steps = [entry for entry in log if "loss" in entry]
    epochs = [entry["epoch"] for entry in steps]
    losses = [entry["loss"] for entry in steps]
    panels[0].plot(epochs, losses, color=colour, alpha=0.25, linewidth=0.7)
    panels[0].plot(epochs, list(_smoothed(losses)), color=colour, label=name)
    panels[1].plot(epochs, [entry["learning_rate"] for entry in steps], color=colour, label=name)
    evaluations = [(entry["epoch"], dict(_flat(entry["metrics"]))) for entry in log if "metrics" in entry]
    names = dict.fromkeys(key for _, metrics in evaluations for key in metrics)
    for key, style in zip(names, _STYLES, strict=False):
        points = [(epoch, metrics[key]) for epoch, metrics in evaluations if metrics.get(key) is not None]
        panels[2].plot(*zip(*points, strict=True), color=colour, linestyle=style, marker="o", label=f"{name}: {key}")


def _smoothed(values: Sequence[float]) -> Iterator[float]:
    """An exponential moving average over a fiftieth of the run."""
    share = max(1 / (1 + _SMOOTHED_SHARE * len(values)), 1e-9)
    mean = values[0]
    for value in values:
        mean += share * (value - mean)
        yield mean


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", value
