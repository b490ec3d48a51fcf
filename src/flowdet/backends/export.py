"""Every part of a system as an ONNX file, with a manifest of its inputs and outputs."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from flowdet.backends.parts import ANY_NUMBER, FlowPreparation, FlowRoles, record_inputs, system_parts
from flowdet.errors import ConfigError
from flowdet.files import write_text
from flowdet.inputs import prepare
from flowdet.systems.config import config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.types import Frame, Geometry
from flowdet.weights.native import weights_digest

__all__ = ["MANIFEST", "OPSET", "ExportedPart", "ExportedSystem", "TensorInfo", "export_onnx"]

OPSET = 17
MANIFEST = "export.json"

_MEANING: Mapping[str, str] = MappingProxyType(
    {
        "images": "RGB frames, resized, normalised and zero in the padding, as the configuration's inputs say",
        "features": "maps of the backbone and neck, the finest first",
        "prepared": "what the flow net needs of a frame, computed once for all its pairs",
        "current": "what the flow net needs of the current frame",
        "reference": "what it needs of the reference frame",
        "flow": "(dx, dy) from the current to the reference frame, in cells of its own",
        "embedding": "maps whose cosine similarity weighs features",
        "objectness": "logits of the anchors of each cell, ratio by ratio and in it scale by scale",
        "anchor_deltas": "(dx, dy, dw, dh) of each anchor in the same order, relative to its size",
        "pooled": "RoIAlign of the features: bins x bins of 2x2 samples, aligned, spatial scale 1/16; any number n",
        "logits": "of the classes in the configuration's order, background last",
        "box_deltas": "(dx, dy, dw, dh) of each class, in units of 0.2 of the proposal's size (logarithms: of 0.2)",
    }
)
_TENSORS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "features": (("images",), ("features",)),
        "flow_preparation": (("images",), ("prepared",)),
        "flow_roles": (("prepared",), ("current", "reference")),
        "flow": (("current", "reference"), ("flow",)),
        "embedding": (("features",), ("embedding",)),
        "rpn": (("features",), ("objectness", "anchor_deltas")),
        "roi_head": (("pooled",), ("logits", "box_deltas")),
    }
)


@dataclass(frozen=True)
class TensorInfo:
    """An input or output, float32; "n" in its shape is any number."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class ExportedPart:
    """One ONNX file."""

    file: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class ExportedSystem:
    """What the manifest says.

    Attributes:
        flowdet: The version that wrote it.
        opset: The ONNX opset of all files.
        config: The system's configuration, as `config_to_json` writes it.
        weights_digest: The digest of its weights.
        frame_size: (height, width) px of the frames.
        resized: (height, width) px of a frame in the network input; the rest is padding.
        input_size: (height, width) px of the network input.
        parts: By name.
    """

    flowdet: str
    opset: int
    config: str
    weights_digest: str
    frame_size: tuple[int, int]
    resized: tuple[int, int]
    input_size: tuple[int, int]
    parts: dict[str, ExportedPart]


def export_onnx(system: VideoDetector, folder: Path, size: tuple[int, int]) -> ExportedSystem:
    """Writes a file for each part of `system_parts`, and one for the flow net's preparation, for frames of one size.

    What lies between them (warp, aggregation, anchors, RoIAlign, non-maximum suppression, the state of a stream) is
    not in the files.

    Args:
        system: On the CPU, in evaluation mode.
        folder: Made if need be.
        size: (height, width) px of the frames.

    Raises:
        ConfigError: The folder cannot be written, or the package onnx is not installed.
    """
    if not find_spec("onnx"):
        raise ConfigError("the export needs a package that is not here: run `pip install onnx`")
    noise = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    frames = [Frame(number, number / 25, image) for number, image in enumerate(noise)]
    geometry = prepare([noise[0]], system.config.inputs).geometries[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {}
        with torch.no_grad():
            for name, (module, example) in _examples(system, frames, geometry).items():
                parts[name] = _write(module, example, name, folder)
        manifest = ExportedSystem(
            flowdet=version("flowdet"),
            opset=OPSET,
            config=config_to_json(system.config),
            weights_digest=weights_digest(system),
            frame_size=size,
            resized=geometry.valid,
            input_size=geometry.padded,
            parts=parts,
        )
        write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; name another folder with --out") from error
    return manifest


def _examples(
    system: VideoDetector, frames: Sequence[Frame], geometry: Geometry
) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """The parts with inputs for them, in the order in which a frame goes through them."""
    modules = system_parts(system)
    inputs = record_inputs(system, [frames], most=1)
    found: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}
    for name, module in modules.items():
        if name == "flow" and system.flow_net:
            preparation, roles = FlowPreparation(system.flow_net, geometry).eval(), FlowRoles(system.flow_net).eval()
            images = inputs["features"][0]
            found |= {"flow_preparation": (preparation, images), "flow_roles": (roles, (preparation(*images),))}
        found[name] = module, inputs[name][0]
    return found


def _write(module: nn.Module, example: tuple[Tensor, ...], name: str, folder: Path) -> ExportedPart:
    found = module(*example)
    made = found if isinstance(found, tuple) else (found,)
    of_inputs, of_outputs = _TENSORS.get(name, (("input",), ("output",)))
    inputs, outputs = _named(of_inputs, example), _named(of_outputs, made)
    is_dynamic = name in ANY_NUMBER
    with warnings.catch_warnings():
        # Of the tracer, that what it takes for constant is constant; and that the newer exporter, which needs another
        # package, is the future. This one is in every PyTorch from 2.6 on.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example,
            str(folder / f"{name}.onnx"),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_axes={each: {0: "n"} for each in (*inputs, *outputs)} if is_dynamic else None,
            dynamo=False,
        )
    return ExportedPart(
        file=f"{name}.onnx",
        inputs=_described(inputs, example, is_dynamic=is_dynamic),
        outputs=_described(outputs, made, is_dynamic=is_dynamic),
    )


def _named(names: tuple[str, ...], tensors: Sequence[Tensor]) -> tuple[str, ...]:
    """The names, or if there is one for several tensors, that one with their numbers."""
    if len(names) == len(tensors) and names[0] in _MEANING:
        return names
    return tuple(f"{names[0]}_{number}" for number in range(len(tensors)))


def _described(names: Sequence[str], tensors: Sequence[Tensor], *, is_dynamic: bool) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name, ("n" if is_dynamic else len(x), *x.shape[1:]), _meaning(name))
        for name, x in zip(names, tensors, strict=True)
    )


def _meaning(name: str) -> str:
    return _MEANING.get(name) or _MEANING.get(name.rpartition("_")[0], "")  # one of several has a number
