"""Weights in files: the native format (safetensors) and the published mmtracking checkpoints."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowdet.build import build
from flowdet.config import SystemConfig, config_from_json, config_to_json, single_frame
from flowdet.errors import CheckpointError, ConfigError
from flowdet.openmmlab import read_openmmlab
from flowdet.system import VideoDetector
from flowdet.temporal.single_frame import SingleFrameConfig

__all__ = ["published_to_native", "read_native", "read_system", "save_native"]

_CONFIG_KEY = "flowdet.config"
_SHOWN_KEYS = 5
_TEMPORAL_PARTS = ("flow_net.", "embedding.")

_RENAMES = (
    (r"^detector\.neck\.convs\.0\.conv\.", "detector.neck.conv."),
    (r"^detector\.rpn_head\.rpn_conv\.", "detector.rpn.conv."),
    (r"^detector\.rpn_head\.rpn_cls\.", "detector.rpn.objectness."),
    (r"^detector\.rpn_head\.rpn_reg\.", "detector.rpn.deltas."),
    (r"^detector\.roi_head\.bbox_head\.shared_fcs\.0\.", "detector.roi_head.fc1."),
    (r"^detector\.roi_head\.bbox_head\.shared_fcs\.1\.", "detector.roi_head.fc2."),
    (r"^detector\.roi_head\.bbox_head\.fc_cls\.", "detector.roi_head.classes."),
    (r"^detector\.roi_head\.bbox_head\.fc_reg\.", "detector.roi_head.deltas."),
    (r"^motion\.conv(\d)\.(\d)\.conv\.", r"flow_net.conv\1.\2.0."),
    (r"^motion\.deconv(\d)\.conv\.", r"flow_net.deconvs.\1."),
    (r"^motion\.upsample_flow(\d)\.conv\.", r"flow_net.upsamplings.\1."),
    (r"^motion\.predict_flow(\d)\.conv\.", r"flow_net.predictions.\1."),
    (r"^motion\.predict_flow\.conv\.", "flow_net.predictions.2."),
    (r"^aggregator\.embed_convs\.0\.conv\.", "embedding."),
)


def published_to_native(key: str) -> str:
    """The name that a parameter of a published mmtracking checkpoint has in flowdet."""
    for pattern, name in _RENAMES:
        key, count = re.subn(pattern, name, key)
        if count:
            break
    return key


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
            file, which knows its own; a single-frame system takes the weights of DFF or FGFA too.

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
    _fill(system, weights, path)
    return system


def _fitting(wanted: SystemConfig | None, own: SystemConfig) -> SystemConfig:
    """The configuration to build for a native file: its own where that is what is wanted, for it may be customised."""
    if wanted is None or wanted.name == own.name:
        return own
    return single_frame(own, wanted.name) if isinstance(wanted.method, SingleFrameConfig) else wanted


def _fill(system: VideoDetector, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copies the weights in, or says in one message all that does not fit."""
    expected = system.state_dict()
    unused = _TEMPORAL_PARTS if isinstance(system.config.method, SingleFrameConfig) else ()
    given = {key: tensor for key, tensor in weights.items() if not key.startswith(unused)}
    reshaped = [
        f"{key} {list(given[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]
    complaints = [
        f"{len(keys)} {fault} ({', '.join(keys[:_SHOWN_KEYS])}{', ...' if len(keys) > _SHOWN_KEYS else ''})"
        for fault, keys in (
            ("missing", sorted(set(expected) - set(given))),
            ("unexpected", sorted(set(given) - set(expected))),
            ("of another shape", reshaped),
        )
        if keys
    ]
    if complaints:
        raise CheckpointError(
            f"{path} does not hold the weights of {system.config.name}: of its {len(given)} tensors for "
            f"{len(expected)} expected, {'; '.join(complaints)}. Is it of another system?"
        )
    system.load_state_dict(given)
