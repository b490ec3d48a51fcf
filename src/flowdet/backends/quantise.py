"""The heavy parts in int8, calibrated on given clips; layers stay in float32 where the error is large."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowdet.backends.openvino import CompiledPart, convert, openvino_module
from flowdet.backends.parts import ANY_NUMBER, FlowRoles, heavy_parts
from flowdet.backends.quantised import MANIFEST, QuantisedPart, QuantisedSystem, file_digest
from flowdet.errors import ConfigError
from flowdet.systems.config import config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.types import NetworkInput
from flowdet.weights.native import weights_digest

if TYPE_CHECKING:
    import openvino

__all__ = ["Calibration", "quantise"]

_GROUPS = 6
_MEASURED = 4  # every fourth example; the others calibrate
_LAYERS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}

Example = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Frames of clips, in order.

    Attributes:
        names: Of the clips.
        inputs: The frames of each; all of one size, at least 8 in all and 2 a clip.
    """

    names: tuple[str, ...]
    inputs: tuple[tuple[NetworkInput, ...], ...]

    def __post_init__(self) -> None:
        sizes = sorted({frame.geometries[0].padded for clip in self.inputs for frame in clip})
        if len(sizes) > 1:
            raise ConfigError(f"int8 parts are made for one size of network inputs, and these clips give {sizes}")
        if sum(map(len, self.inputs)) < 2 * _MEASURED or min(map(len, self.inputs)) < 2:
            raise ConfigError(f"calibration needs {2 * _MEASURED} frames at least, and 2 of each clip")


def quantise(
    system: VideoDetector,
    calibration: Calibration,
    folder: Path,
    *,
    tolerance: float = 0.1,
    tell: Callable[[str], None] = lambda step: None,
) -> QuantisedSystem:
    """Writes the heavy parts in int8: backbone with neck, flow of a pair, embedding, RPN and RoI layers.

    NNCF chooses the scales from what the calibration frames give. Then the error of each part is measured on frames
    that it was not calibrated on. If it is above the tolerance, each sixth of its layers is tried in float32; the
    sixths that help most stay so, one more at a time, until it is not. A part that never gets there is left out.
    Products of two activations, as in the matching of cells, always stay in float32.

    Args:
        system: On the CPU, in evaluation mode.
        calibration: The frames.
        folder: Made if need be; what it has of an earlier call is replaced.
        tolerance: Of each part's error, see `QuantisedPart`.
        tell: Told what is under way.

    Raises:
        ConfigError: OpenVINO or NNCF is not installed, or the folder cannot be written.
    """
    nncf = _nncf()
    parts, given_up = {}, {}
    for name, (module, examples) in _examples(system, calibration).items():
        tell(f"{name}: quantising")
        with torch.inference_mode():
            found, model = _within(nncf, module, examples, tolerance, tell, any_number=name in ANY_NUMBER)
        if model is None:
            given_up[name] = found.error_all_int8
        else:
            parts[name] = _written(found, model, folder / f"{name}.xml")
    manifest = QuantisedSystem(
        flowdet=version("flowdet"),
        config=config_to_json(system.config),
        weights_digest=weights_digest(system),
        input_size=calibration.inputs[0][0].geometries[0].padded,
        clips=list(calibration.names),
        frames=sum(map(len, calibration.inputs)),
        tolerance=tolerance,
        parts=parts,
        errors_given_up=given_up,
    )
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return manifest


def _nncf() -> Any:
    openvino_module()
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to its makers
    try:
        import nncf  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError(
            f"int8 needs a package that is not here ({error}): run `pip install 'flowdet[quantise]'`"
        ) from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def _examples(system: VideoDetector, calibration: Calibration) -> dict[str, tuple[nn.Module, list[Example]]]:
    """What is quantised, with its inputs: each frame, and each pair of a frame and the one before."""
    modules = heavy_parts(system)
    frames = [frame for clip in calibration.inputs for frame in clip]
    examples: dict[str, list[Example]] = {"features": [(frame.images,) for frame in frames]}
    head = system.detector
    with torch.inference_mode():
        maps = [head.extract(frame.images) for frame in frames]
        examples |= {part: [(features,) for features in maps] for part in ("embedding", "rpn")}
        examples["roi_head"] = []
        for features, frame in zip(maps, frames, strict=True):
            objectness, deltas = head.rpn(features)
            boxes = head.rpn.propose(objectness, deltas, frame.geometries, head.rpn.config.post_nms_top_n)
            examples["roi_head"].append((head.roi_head.pool(features, boxes),))
        if "flow" in modules and system.flow_net:
            examples["flow"] = []
            for clip in calibration.inputs:
                roles = FlowRoles(system.flow_net)
                current, reference = zip(*(roles(system.flow_net.prepare(frame)) for frame in clip), strict=True)
                examples["flow"] += zip(current[1:], reference[:-1], strict=True)
    return {name: (module, examples[name]) for name, module in modules.items()}


@dataclass(frozen=True)
class _Found:
    error: float
    error_all_int8: float
    float_layers: list[str]


def _within(
    nncf: Any,
    module: nn.Module,
    examples: Sequence[Example],
    tolerance: float,
    tell: Callable[[str], None],
    *,
    any_number: bool,
) -> tuple[_Found, "openvino.Model | None"]:
    """The model in int8 with as few layers in float32 as the tolerance asks for; None if it cannot be met."""
    model = convert(module, examples[0], any_number=any_number)
    measured = examples[::_MEASURED]
    plain = CompiledPart(lambda _: model, any_number=any_number)
    truth = [plain(*example) for example in measured]
    calibrating = [_arrays(example) for number, example in enumerate(examples) if number % _MEASURED]
    data = nncf.Dataset(calibrating)
    layers, products = _layers(model)

    def attempt(float_layers: Sequence[str]) -> tuple[float, "openvino.Model"]:
        made = nncf.quantize(
            model,
            data,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibrating),
            ignored_scope=nncf.IgnoredScope(names=[*products, *float_layers], validate=False),
        )
        part = CompiledPart(lambda _: made, any_number=any_number)
        errors = [_error(part(*example), each) for example, each in zip(measured, truth, strict=True)]
        return float(np.mean(errors)), made

    all_int8, made = attempt(())
    error, float_layers = all_int8, list[str]()
    if error > tolerance:
        groups = [[str(name) for name in group] for group in np.array_split(layers, _GROUPS) if len(group)]
        tell(f"error {error:.3f} in int8; looking for the layers that make it")
        tried = sorted(((*attempt(group), group) for group in groups), key=lambda found: found[0])
        for alone, model_alone, group in tried[:-1]:
            error, made = attempt([*float_layers, *group]) if float_layers else (alone, model_alone)
            float_layers += group
            tell(f"error {error:.3f} with {len(float_layers)} of {len(layers)} layers in float32")
            if error <= tolerance:
                break
    return _Found(error, all_int8, float_layers), made if error <= tolerance else None


def _layers(model: "openvino.Model") -> tuple[list[str], list[str]]:
    """Names of the layers with weights, first to last, and of the products of two activations."""
    layers: list[str] = []
    products: list[str] = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in _LAYERS:
            has_weights = _is_constant(node.input_value(1).get_node()) or _is_constant(node.input_value(0).get_node())
            (layers if has_weights else products).append(node.get_friendly_name())
    return layers, products


def _is_constant(node: Any) -> bool:
    """Whether nothing that goes into it depends on the inputs."""
    if node.get_type_name() == "Parameter":
        return False
    return all(_is_constant(value.get_node()) for value in node.input_values())


def _arrays(example: Example) -> dict[int, NDArray[np.float32]]:
    return {number: x.numpy() for number, x in enumerate(example)}


def _error(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Length of the difference, relative to that of the truth; the largest of the outputs."""
    return max(float((x - y).norm() / y.norm().clamp(min=1e-9)) for x, y in zip(found, truth, strict=True))


def _written(found: _Found, model: "openvino.Model", xml: Path) -> QuantisedPart:
    with _writing(xml.parent):
        xml.parent.mkdir(parents=True, exist_ok=True)
        openvino_module().save_model(model, xml, compress_to_fp16=False)
        digests = {suffix: file_digest(xml.with_suffix(suffix)) for suffix in (".xml", ".bin")}
    return QuantisedPart(found.error, found.error_all_int8, found.float_layers, digests)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{folder} cannot be written: {error}") from error
