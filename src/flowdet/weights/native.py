"""Weights in files: the native format (safetensors) and the published mmtracking checkpoints."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowdet.class_names import COCO_CLASSES, VID_CLASSES
from flowdet.errors import CheckpointError, ConfigError, counted
from flowdet.files import replacing
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig, config_from_json, config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.weights.fill import fill, published_to_native
from flowdet.weights.limits import check_size
from flowdet.weights.openmmlab import openmmlab_checkpoint, read_pickled, tensors_by_name
from flowdet.weights.yolox import is_yolox, yolox_to_native

__all__ = [
    "StartedSystem",
    "packed_weights",
    "read_native",
    "read_system",
    "save_native",
    "start_from",
    "weights_digest",
]

_CONFIG_KEY = "flowdet.config"
_DETECTOR = "detector"
_ATTENTION = "detector.roi_head.attention"
_FLOW_NET = "flow_net"


def save_native(
    system: VideoDetector, path: Path | str, dtype: torch.dtype = torch.float32, *, part: str | None = None
) -> None:
    """Writes weights, resolved configuration and class names as one safetensors file, atomically.

    Args:
        system: What to write.
        path: Ends with ".safetensors".
        dtype: Type of the floating point tensors in the file; float16 halves the file.
        part: Write the weights of this part alone, "flow_net" for instance.

    Raises:
        CheckpointError: The file cannot be written, or a value does not fit the type.
    """
    weights = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in system.state_dict().items()
        if part is None or _part(name) == part
    }
    overflown = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if overflown:
        raise CheckpointError(
            f"{overflown[0]} has values that are not finite numbers in {dtype}; {path} is not written"
        )
    with replacing(Path(path), error=CheckpointError) as partial:
        partial.write_bytes(save(weights, metadata={_CONFIG_KEY: config_to_json(system.config)}))


def weights_digest(system: VideoDetector) -> str:
    """Returns the SHA-256 of the names and values of the weights, whichever file they came from."""
    return hashlib.sha256(packed_weights(system)).hexdigest()


def packed_weights(system: VideoDetector) -> bytes:
    """Returns all weights in the safetensors format, without the configuration."""
    return save({name: tensor.cpu().contiguous() for name, tensor in system.state_dict().items()})


def read_native(path: Path) -> tuple[SystemConfig, dict[str, Tensor]]:
    """Returns the configuration and the float32 weights of a native file.

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


def read_system(
    path: Path,
    config: SystemConfig | None = None,
    *,
    flow_net: Path | None = None,
    adapt: Callable[[SystemConfig], SystemConfig] = lambda own: own,
) -> VideoDetector:
    """Builds a system and fills it with the weights of a file, native or published by mmtracking or YOLOX.

    Parts of the file that the system does not have, such as the embedding of FGFA for DFF, are left out.

    Args:
        path: ".safetensors" is read as a native file, anything else as a checkpoint of mmtracking or YOLOX.
        config: The system to build, for other classes if the file knows others. None: a native file is built with the
            configuration that was saved in it.
        flow_net: A native file whose flow net is taken if `path` has none.
        adapt: Returns the configuration to build in place of that one, of a system that takes the same weights.

    Raises:
        CheckpointError: A file cannot be read, or its weights do not fit the system.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}")
    if path.suffix == ".safetensors":
        own, weights = read_native(path)
        if config is None:
            check_size(lambda: build(own), _with_flow_net(weights, flow_net), path)
        config, class_names = config or own, own.class_names
    elif config is None:
        raise CheckpointError(f'{path} does not say which system it is of: name one, "fgfa-r50" for instance')
    else:
        weights, class_names = _read_published(path)
    weights = _with_flow_net(weights, flow_net)
    system = build(adapt(config.with_classes(class_names or config.class_names)))
    wanted = system.state_dict().keys()
    # A RoI head that was trained with attention is no good without it.
    given = _of_parts(weights, [*_parts(wanted), _ATTENTION])
    # Where they are not enough, the message names all that the file has.
    fill(system, given if wanted <= given.keys() else weights, path, system.config.name)
    return system


@dataclass(frozen=True, eq=False, slots=True)
class StartedSystem:
    """A system that takes up what another one has learnt, and what it took.

    Attributes:
        system: Ready to be trained.
        shared_classes: Known to both; their rows of the classifier were taken over.
        new_classes: Not known to the file; their rows are random.
        dropped_classes: Known to the file and not wanted.
        taken: The number of tensors that were filled from the file, in whole or in part.
        fresh: Parts that the file does not have, random: "flow_net", "embedding", "detector.roi_head.attention".
        unused: Parts of the file that the system does not have.
    """

    system: VideoDetector
    shared_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    dropped_classes: tuple[str, ...]
    taken: int
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def start_from(path: Path, config: SystemConfig, *, flow_net: Path | None = None) -> StartedSystem:
    """Builds a system for training and fills it with all that fits of a trained one, for other classes or methods too.

    The rows of the classifier, and of boxes that each class has of its own, are carried over by class name, those of
    the background too. Where one of the two has no flow net, no embedding or no attention in the RoI head, that part
    stays random or unused. All else has to fit.

    Args:
        path: ".safetensors" is read as a native file, anything else as a checkpoint of mmtracking or YOLOX.
        config: The system to build, with its class names.
        flow_net: A native file whose flow net is taken if `path` has none.

    Raises:
        CheckpointError: A file cannot be read, or its weights are of another network.
    """
    weights, known = _read_with_classes(path, config)
    weights = _with_flow_net(weights, flow_net)
    system = build(config)
    own = system.state_dict()
    in_file, in_system = _parts(weights), _parts(own)
    given = _of_parts(weights, in_system)
    taken = len(given)
    fresh = tuple(part for part in in_system if part not in in_file and part != _DETECTOR)
    given |= {key: tensor for key, tensor in own.items() if _part(key) in fresh}
    given |= _carried_over(given, own, known, config, path)
    fill(system, given if own.keys() <= given.keys() else weights | given, path, config.name)
    return StartedSystem(
        system=system,
        shared_classes=tuple(name for name in config.class_names if name in known),
        new_classes=tuple(name for name in config.class_names if name not in known),
        dropped_classes=tuple(name for name in known if name not in config.class_names),
        taken=taken,
        fresh=fresh,
        unused=tuple(part for part in in_file if part not in in_system and part != _DETECTOR),
    )


def _with_flow_net(weights: dict[str, Tensor], path: Path | None) -> dict[str, Tensor]:
    """The weights, with the flow net of another native file if they have none."""
    if path is None or _FLOW_NET in _parts(weights):
        return weights
    return {**weights, **{key: each for key, each in read_native(path)[1].items() if _part(key) == _FLOW_NET}}


def _read_published(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of a `.pth` file of mmtracking or YOLOX under native names, and its classes if they are known."""
    content = read_pickled(path)
    if is_yolox(content):
        own = yolox_to_native(tensors_by_name(path, content["model"]))
        known = COCO_CLASSES if len(own["head.classes.0.bias"]) == len(COCO_CLASSES) else ()
        return {f"{_DETECTOR}.{key}": tensor for key, tensor in own.items()}, known
    published = openmmlab_checkpoint(path, content)
    weights = {published_to_native(key): tensor for key, tensor in published.state_dict.items()}
    return weights, published.class_names or ()


def _read_with_classes(path: Path, config: SystemConfig) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of a file under native names, and the classes it was trained for as far as that is known."""
    if path.suffix == ".safetensors":
        own, weights = read_native(path)
        return weights, own.class_names
    weights, known = _read_published(path)
    outputs = _outputs(weights, config)
    return weights, known or (VID_CLASSES if outputs == len(VID_CLASSES) + 1 else ())


def _part(key: str) -> str:
    return _ATTENTION if key.startswith(f"{_ATTENTION}.") else key.partition(".")[0]


def _parts(keys: Iterable[str]) -> dict[str, None]:
    """The parts that these keys belong to, in their order."""
    return dict.fromkeys(map(_part, keys))


def _of_parts(weights: Mapping[str, Tensor], parts: Collection[str]) -> dict[str, Tensor]:
    """The weights of these parts, and all of the detector."""
    return {key: tensor for key, tensor in weights.items() if _part(key) in {*parts, _DETECTOR}}


def _outputs(weights: Mapping[str, Tensor], config: SystemConfig) -> int:
    """The number of outputs of the classifier in the file; 0 if it has none."""
    layer, rows = next(iter(config.detector.classifier.items()))
    return len(weights.get(f"{_DETECTOR}.{layer}.bias", ())) // rows


def _carried_over(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], known: tuple[str, ...], config: SystemConfig, path: Path
) -> dict[str, Tensor]:
    """The last layers of the new system, with the rows of the classes that both know and of the background."""
    extra = _outputs(own, config) - len(config.class_names)
    outputs = _outputs(given, config)
    if known and outputs and outputs != len(known) + extra:
        background = ", the background's among them" if extra else ""
        raise CheckpointError(
            f"{path} names {counted(len(known), 'class', 'classes')}, but its classifier has "
            f"{counted(outputs, 'output')}{background}"
        )
    pairs = [(config.class_names.index(name), known.index(name)) for name in config.class_names if name in known]
    carried = {}
    for layer, per_class in config.detector.classifier.items():
        for key in (f"{_DETECTOR}.{layer}.weight", f"{_DETECTOR}.{layer}.bias"):
            if key in given:
                rows = [*pairs, *((number, number) for number in range(-extra, 0))] if per_class == 1 else pairs
                carried[key] = _with_rows(own[key], given[key], rows, per_class, len(known))
    return carried


def _with_rows(own: Tensor, given: Tensor, pairs: Sequence[tuple[int, int]], per_class: int, known: int) -> Tensor:
    """A layer's own tensor with some of its rows taken from another one, (to, from); left to `fill` if they differ."""
    if given.shape[1:] != own.shape[1:] or len(given) < per_class * known:
        return given
    rows, others = own.clone().unflatten(0, (-1, per_class)), given.unflatten(0, (-1, per_class))
    for to, where_from in pairs:
        rows[to] = others[where_from]
    joined: Tensor = rows.flatten(0, 1)
    return joined
