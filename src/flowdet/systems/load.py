"""One call from a system's name to a video detector with its weights."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from flowdet.backends.choice import with_backend
from flowdet.errors import CheckpointError, ConfigError
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.systems.options import DEFAULT_SYSTEM, Precision, SystemOptions, apply_options
from flowdet.systems.recipes import LITE_FLOW, RECIPES, REDUCED_FLOW, SHIPPED_FLOW, recipe
from flowdet.weights.download import cache_folder
from flowdet.weights.hub import HUB, hub_file
from flowdet.weights.native import read_system
from flowdet.weights.zoo import FLOW_NET_FILE, LITE_FILE, SHIPPED, STARTING, YOLOXWeights, published_file

__all__ = [
    "SHIPPED_FOLDER",
    "flow_net_of",
    "load",
    "load_random",
    "load_system",
    "starting_weights",
    "weight_file",
    "weights_of",
]

SHIPPED_FOLDER = Path(__file__).parents[1] / "weights"


def load(
    system: str | None = None,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    causal: bool = False,
    variant: str | None = None,
    key_frame_interval: int | None = None,
    flow: Literal["dis"] | None = None,
    agnostic_nms: bool = False,
    backend: str = "torch",
    precision: Precision = "float32",
) -> VideoDetector:
    """Builds a system and fills it with weights, ready to detect.

    Args:
        system: A name that `flowdet models` lists; it means the recipe of that name. May be left out for a native
            weight file, which is built as it was saved; without weights it is the default system. Or the address of
            such a file on the Hugging Face Hub, "hf://owner/name" or "hf://owner/name@revision", which is downloaded.
        weights: A native file (".safetensors"), a checkpoint of mmtracking or YOLOX (".pth"), or the name of a system
            whose weights are taken. Without it the shipped or the downloaded weights of the system are taken.
        device: Where the system runs.
        causal: The form that looks at no later frame, for live video; not the published protocol.
        variant: Another form of the method, see `MethodConfig.variants`.
        key_frame_interval: Frames from one key frame to the next, for methods with key frames.
        flow: Another flow net in place of the system's own: "dis" is OpenCV's, which needs no training.
        agnostic_nms: Whether detections of different classes suppress each other, too.
        backend: What computes, see `with_backend`. With any but "torch" the weights must not change any more.
        precision: What it computes in; "bf16" or "fp16" with the backends "torch" and "optimised".

    Raises:
        ConfigError: There is no such system, device or backend, or an option has no effect on the system.
        CheckpointError: There are no weights, or they do not fit.
        DownloadError: The Hub cannot be reached or does not have the file.
    """
    return load_system(
        SystemOptions(
            system=system,
            weights=None if weights is None else Path(weights),
            device=device,
            causal=causal,
            variant=variant,
            key_frame_interval=key_frame_interval,
            flow=flow,
            agnostic_nms=agnostic_nms,
            backend=backend,
            precision=precision,
        )
    )


def load_system(options: SystemOptions) -> VideoDetector:
    """As `load`, with all options in one value."""
    options = _without_address(options)
    config = None
    if options.system is not None or options.weights is None:
        config = recipe(_name_of(options))
    path = weight_file(options)
    # A file that is built with its own configuration has none if its system uses none; a variant may.
    flow_net = flow_net_of(apply_options(config, options)) if config else SHIPPED_FOLDER / FLOW_NET_FILE
    with torch.device("cpu"):  # whatever torch's default device is
        system = read_system(path, config, flow_net=flow_net, adapt=lambda own: apply_options(own, options))
    return _ready(system, options)


def weight_file(options: SystemOptions) -> Path:
    """Returns the weight file that the options name: a file, or that of a system or of a repository.

    Raises:
        CheckpointError: The system has no weights here.
    """
    options = _without_address(options)
    if options.weights is None:
        return weights_of(_name_of(options))
    name = str(options.weights)
    return weights_of(name) if name in RECIPES and not options.weights.exists() else options.weights


def load_random(options: SystemOptions) -> VideoDetector:
    """As `load_system`, with random weights, the same ones each time."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        system = build(apply_options(recipe(_name_of(options)), options))
    return _ready(system, options)


def _without_address(options: SystemOptions) -> SystemOptions:
    """The options with the downloaded file in place of the address of a repository."""
    address = options.system
    if address is None or not address.startswith(HUB):
        return options
    if options.weights is not None:
        raise ConfigError(f"{address} names the weights, too: leave out {options.weights}, or name another system")
    return replace(options, system=None, weights=hub_file(address))


def _name_of(options: SystemOptions) -> str:
    return DEFAULT_SYSTEM if options.system is None else options.system


def _ready(system: VideoDetector, options: SystemOptions) -> VideoDetector:
    try:
        if torch.device(options.device).type == "meta":
            raise ConfigError("the device meta holds no numbers, so nothing can be detected there; name cpu or cuda")
        system = system.to(options.device).eval()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ConfigError(f"the device {options.device!s} cannot be used here: {error}") from error
    return with_backend(system, options.backend, options.precision)


def weights_of(system: str) -> Path:
    """Returns the weight file of a system: shipped with the package, or downloaded before.

    Raises:
        ConfigError: There is no such system.
        CheckpointError: There are no weights.
    """
    if system in SHIPPED:
        return SHIPPED_FOLDER / SHIPPED[system].file_name
    file = published_file(recipe(system).name)
    if file is None:
        raise CheckpointError(f"no weights of {system} are published or shipped: name a weight file of your own")
    path = cache_folder() / file.file_name
    if not path.is_file():
        published = file.name if isinstance(file, YOLOXWeights) else file.system
        raise CheckpointError(
            f"the weights of {system} are not here yet: run `flowdet models download {published}`, "
            "or name a weight file of your own"
        )
    return path


def flow_net_of(config: SystemConfig) -> Path | None:
    """Returns the shipped file with a flow net for this system; None if it needs none or one of another kind."""
    if config.flow_net in (SHIPPED_FLOW, REDUCED_FLOW):
        return SHIPPED_FOLDER / FLOW_NET_FILE
    return SHIPPED_FOLDER / LITE_FILE if config.flow_net == LITE_FLOW else None


def starting_weights(system: str) -> dict[str, Path]:
    """Returns the files that the published training of a system starts from, downloaded before.

    Returns:
        Paths by part, "backbone" and "flow_net"; empty for a system whose training starts from no file.

    Raises:
        ConfigError: There is no such system.
        CheckpointError: Some are not there.
    """
    files = STARTING.get(recipe(system).name, ())
    paths: dict[str, Path] = {file.part: cache_folder() / file.file_name for file in files}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"what the training of {system} starts from is not here yet ({', '.join(missing)}): run "
            f"`flowdet models download {system} --start`, or name files of your own"
        )
    return paths
