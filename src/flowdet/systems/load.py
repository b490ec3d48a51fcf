"""One call from a system's name to a video detector with its weights."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from flowdet.backends.choice import with_runtime
from flowdet.errors import CheckpointError, ConfigError
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.systems.detector import VideoDetector
from flowdet.systems.modes import Mode, in_mode
from flowdet.systems.recipes import recipe
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.weights.download import cache_folder
from flowdet.weights.native import read_system
from flowdet.weights.zoo import PUBLISHED, SHIPPED, STARTING

__all__ = ["DEFAULT_SYSTEM", "load", "starting_weights", "weights_of"]

DEFAULT_SYSTEM = "fgfa-lite"
_PUBLISHED_FOR = {"single-r50": "fgfa-r50", "single-r101": "fgfa-r101", "single-x101": "fgfa-x101"}
_SHIPPED_FOLDER = Path(__file__).parents[1] / "weights"


def load(
    system: str | None = None,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    causal: bool = False,
    mode: Mode = "exact",
    flow: Literal["dis"] | None = None,
    runtime: str = "torch",
) -> VideoDetector:
    """Builds a system and fills it with weights, ready to detect.

    Args:
        system: A name that `flowdet models` lists. May be left out for a native weight file, which knows its own;
            without weights it is "fgfa-lite".
        weights: A native file (".safetensors") or an mmtracking checkpoint (".pth"). Without it the shipped or the
            downloaded weights of the system are taken; nothing is downloaded here.
        device: Where the model runs.
        causal: FGFA without frames after the current one, for live video. It gives every frame at once but has seen
            half the window; this is not the published protocol.
        mode: How much arithmetic is saved at the price of other numbers: "exact", "early", "composed", "fast" and
            "recursive" are of FGFA, "adaptive" is of DFF, see `flowdet.systems.modes`.
        flow: Another flow net in place of the system's own: "dis" is OpenCV's, which was never trained; needs the extra
            `flowdet[opencv]`.
        runtime: What detects, see `with_runtime`: "torch", "optimised", "openvino", "auto" or a folder of
            `flowdet quantise`. But for "torch" the weights must not change any more.

    Raises:
        ConfigError: There is no such system, mode, flow, device or runtime, or the system does not have this mode, or
            has no flow to replace.
        CheckpointError: There are no weights, or they do not fit.
    """
    config = None
    if system is not None or weights is None:
        system = system or DEFAULT_SYSTEM
        config = recipe(system)
        weights = weights or weights_of(system)
    detector = read_system(Path(weights), config)
    if causal and isinstance(detector.config.method, FGFAConfig):
        detector.config = replace(detector.config, method=replace(detector.config.method, future=0))
    detector.config = in_mode(detector.config, mode)
    if flow is not None:
        _replace_flow_net(detector, flow)
    try:
        detector = detector.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {device!s} cannot be used here: {error}") from error
    return with_runtime(detector, runtime)


def _replace_flow_net(detector: VideoDetector, flow: str) -> None:
    if flow != "dis":
        raise ConfigError(f'the flow that can replace a system\'s own is "dis", not {flow!r}')
    if detector.flow_net is None:
        raise ConfigError(f"{detector.config.name} takes every frame for itself and has no flow to replace")
    config = DISFlowConfig()
    detector.flow_net = DISFlow(config, detector.config.inputs)
    detector.config = replace(detector.config, flow_net=config)


def weights_of(system: str) -> Path:
    """The weight file of a system: shipped with the package, or downloaded before.

    Raises:
        ConfigError: There is no such system.
        CheckpointError: There are no weights.
    """
    if system in SHIPPED:
        return _SHIPPED_FOLDER / SHIPPED[system].file_name
    published = _PUBLISHED_FOR.get(system) or recipe(system).name
    path = cache_folder() / PUBLISHED[published].file_name
    if not path.is_file():
        raise CheckpointError(
            f"the weights of {system} are not here yet: run `flowdet models download {published}`, "
            "or name a weight file of your own"
        )
    return path


def starting_weights(system: str) -> dict[str, Path]:
    """The files that the published training of a system starts from, downloaded before.

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
