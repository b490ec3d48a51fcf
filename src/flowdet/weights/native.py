"""Weights in files: the native format (safetensors) and the published mmtracking checkpoints."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowdet.class_names import VID_CLASSES
from flowdet.errors import CheckpointError, ConfigError
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig, config_from_json, config_to_json, single_frame
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fast_fgfa import FastFGFAConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.weights.fill import fill, published_to_native
from flowdet.weights.openmmlab import read_openmmlab

__all__ = ["Start", "packed_weights", "read_native", "read_system", "save_native", "start_from", "weights_digest"]

_CONFIG_KEY = "flowdet.config"
_TEMPORAL_PARTS = ("flow_net", "embedding")
_CLASSIFIER = "detector.roi_head.classes."
_BOXES = "detector.roi_head.deltas."


def save_native(system: VideoDetector, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes weights, resolved configuration and class names as one safetensors file, atomically.

    Args:
        system: What to write.
        path: Ends with ".safetensors".
        dtype: Of the floating point tensors in the file; float16 halves it.

    Raises:
        CheckpointError: The file cannot be written, or a value does not fit the type.
    """
    weights = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in system.state_dict().items()
    }
    overflown = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if overflown:
        raise CheckpointError(
            f"{overflown[0]} has values that are not finite numbers in {dtype}; {path} is not written"
        )
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_bytes(save(weights, metadata={_CONFIG_KEY: config_to_json(system.config)}))
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error


def weights_digest(system: VideoDetector) -> str:
    """SHA-256 of the names and values of the weights, whichever file they came from."""
    return hashlib.sha256(packed_weights(system)).hexdigest()


def packed_weights(system: VideoDetector) -> bytes:
    """All weights in the safetensors format, without configuration."""
    return save({name: tensor.cpu().contiguous() for name, tensor in system.state_dict().items()})


def read_native(path: Path) -> tuple[SystemConfig, dict[str, Tensor]]:
    """Configuration and float32 weights of a native file.

    Raises:
        CheckpointError: The file is missing, damaged, or no weight file of flowdet.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_CONFIG_KEY)
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch or convert it again") from error
    if text is None:
        raise CheckpointError(f"{path} holds tensors but no flowdet configuration; it was not written by flowdet")
    try:
        config = config_from_json(text)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; it may be of a later flowdet") from error
    return config, {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def read_system(path: Path, config: SystemConfig | None = None) -> VideoDetector:
    """Builds a system and fills it with the weights of a file, native or published by mmtracking.

    Args:
        path: ".safetensors" is read as a native file, anything else as an mmtracking checkpoint.
        config: The system to build, for other classes if the file knows others. It may be left out for a native
            file, which knows its own; a single-frame system takes the weights of DFF or FGFA too, DFF those of FGFA.

    Raises:
        CheckpointError: The file cannot be read, or its weights do not fit the system.
    """
    if path.suffix == ".safetensors":
        own, weights = read_native(path)
        config, class_names = _fitting(config, own), own.class_names
    elif config is None:
        raise CheckpointError(f'{path} does not say which system it is of: name one, "fgfa-r50" for instance')
    else:
        published = read_openmmlab(path)
        weights = {published_to_native(key): tensor for key, tensor in published.state_dict.items()}
        class_names = published.class_names or config.class_names
    system = build(config.with_classes(class_names))
    unused = set(_TEMPORAL_PARTS) - _parts(system.state_dict())
    fill(system, {key: tensor for key, tensor in weights.items() if _part(key) not in unused}, path, system.config.name)
    return system


def _fitting(wanted: SystemConfig | None, own: SystemConfig) -> SystemConfig:
    """The configuration to build for a native file: its own where that is what is wanted, for it may be customised."""
    if wanted is None or wanted.name == own.name:
        return own
    match wanted.method, own.method:
        case SingleFrameConfig(), _:
            return single_frame(own, wanted.name)
        case DFFConfig(), FGFAConfig() | FastFGFAConfig() | RecursiveConfig():
            return replace(own, name=wanted.name, method=wanted.method)
        case _:
            return wanted


@dataclass(frozen=True, eq=False, slots=True)
class Start:
    """A system that takes up what another one has learnt, and what it took.

    Attributes:
        system: Ready to be trained.
        shared_classes: Known to both; their rows of the classifier were taken over.
        new_classes: Not known to the file; their rows are at random.
        dropped_classes: Known to the file and not wanted.
        taken: How many tensors were filled from the file, in whole or in part.
        fresh: Parts that the file does not have, at random: "flow_net", "embedding".
        unused: Parts of the file that the system does not have.
    """

    system: VideoDetector
    shared_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    dropped_classes: tuple[str, ...]
    taken: int
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def start_from(path: Path, config: SystemConfig) -> Start:
    """Builds a system for training and fills it with all that fits of a trained one, for other classes or methods too.

    The rows of the classifier and of class-specific boxes are carried over by class name, the background's too. Where
    one of the two has no flow net or no embedding, that part stays at random or unused. All else has to fit.

    Args:
        path: ".safetensors" is read as a native file, anything else as an mmtracking checkpoint.
        config: The system to build, with its class names.

    Raises:
        CheckpointError: The file cannot be read, or its weights are of another network.
    """
    weights, known = _read_with_classes(path)
    system = build(config)
    own = system.state_dict()
    in_file, in_system = _parts(weights), _parts(own)
    fresh = tuple(part for part in _TEMPORAL_PARTS if part in in_system - in_file)
    unused = tuple(part for part in _TEMPORAL_PARTS if part in in_file - in_system)
    given = {key: tensor for key, tensor in weights.items() if _part(key) not in unused}
    taken = len(given)
    given |= {key: tensor for key, tensor in own.items() if _part(key) in fresh}
    given |= _carried_over(given, own, known, config, path)
    fill(system, given, path, config.name)
    return Start(
        system=system,
        shared_classes=tuple(name for name in config.class_names if name in known),
        new_classes=tuple(name for name in config.class_names if name not in known),
        dropped_classes=tuple(name for name in known if name not in config.class_names),
        taken=taken,
        fresh=fresh,
        unused=unused,
    )


def _read_with_classes(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of a file under native names, and the classes it was trained for as far as that is known."""
    if path.suffix == ".safetensors":
        config, weights = read_native(path)
        return weights, config.class_names
    published = read_openmmlab(path)
    weights = {published_to_native(key): tensor for key, tensor in published.state_dict.items()}
    logits = weights.get(_CLASSIFIER + "bias")
    is_of_vid = logits is not None and len(logits) == len(VID_CLASSES) + 1
    return weights, published.class_names or (VID_CLASSES if is_of_vid else ())


def _part(key: str) -> str:
    return key.partition(".")[0]


def _parts(keys: Iterable[str]) -> set[str]:
    return {_part(key) for key in keys}


def _carried_over(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], known: tuple[str, ...], config: SystemConfig, path: Path
) -> dict[str, Tensor]:
    """The last layers of the new system, with the rows of the classes that both know and of the background."""
    outputs = len(given.get(_CLASSIFIER + "bias", ()))
    if known and outputs and outputs != len(known) + 1:
        raise CheckpointError(
            f"{path} names {len(known)} classes, but its classifier has {outputs} outputs, the background's among them"
        )
    pairs = [(config.class_names.index(name), known.index(name)) for name in config.class_names if name in known]
    layers = [(_CLASSIFIER, 1, [*pairs, (-1, -1)])]
    if config.heads.roi_head.class_specific_boxes and len(given.get(_BOXES + "bias", ())) == 4 * (outputs - 1):
        layers.append((_BOXES, 4, pairs))
    return {
        key: _with_rows(own[key], given[key], rows, per_class)
        for layer, per_class, rows in layers
        for key in (layer + "weight", layer + "bias")
        if key in given
    }


def _with_rows(own: Tensor, given: Tensor, pairs: Sequence[tuple[int, int]], per_class: int) -> Tensor:
    """A layer's own tensor with some of its rows taken from another one, (to, from); left to `fill` if they differ."""
    if given.shape[1:] != own.shape[1:]:
        return given
    rows, others = own.clone().unflatten(0, (-1, per_class)), given.unflatten(0, (-1, per_class))
    for to, where_from in pairs:
        rows[to] = others[where_from]
    joined: Tensor = rows.flatten(0, 1)
    return joined
