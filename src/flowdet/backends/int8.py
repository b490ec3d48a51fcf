"""Parts in int8: made and measured on given clips, with layers left in float32 where the error is large; and loaded."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cattrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowdet.backends.openvino import CompiledPart, compile_system, convert, core, openvino_module
from flowdet.backends.parts import ANY_NUMBER, Inputs, record_inputs, system_parts
from flowdet.errors import ConfigError
from flowdet.files import file_sha256, write_text
from flowdet.inputs import prepare
from flowdet.systems.config import config_to_json, structure_json
from flowdet.systems.detector import VideoDetector
from flowdet.types import Frame
from flowdet.weights.native import weights_digest

if TYPE_CHECKING:
    import openvino

__all__ = ["MANIFEST", "Calibration", "Int8Part", "Int8System", "load_int8", "quantise", "read_manifest"]

MANIFEST = "quantised.json"


@dataclass(frozen=True)
class Int8Part:
    """One part in int8: `<name>.xml` and `<name>.bin`.

    Attributes:
        error: The error of its output against float32 on frames that it was not calibrated on: the length of the
            difference relative to that of the output, averaged over the frames.
        error_all_int8: The same with no layer left in float32.
        float_layers: Names of the layers that were left in float32 to be within the tolerance.
        sha256: Digests of both files, by suffix.
    """

    error: float
    error_all_int8: float
    float_layers: list[str]
    sha256: dict[str, str]


@dataclass(frozen=True)
class Int8System:
    """What the folder says of itself.

    Attributes:
        flowdet: The version that wrote it.
        config: The system's configuration, as `config_to_json` writes it.
        weights_digest: The digest of the system's float32 weights.
        input_size: (height, width) px of the network input, padding included.
        clips: Names of the videos that it was calibrated on.
        frames: The number of frames taken from them.
        tolerance: The largest error of a part that was accepted.
        parts: By name; a part that is missing is within the tolerance in float32 only.
        errors_given_up: Errors in int8 of those that are missing.
    """

    flowdet: str
    config: str
    weights_digest: str
    input_size: tuple[int, int]
    clips: list[str]
    frames: int
    tolerance: float
    parts: dict[str, Int8Part]
    errors_given_up: dict[str, float]


def read_manifest(folder: Path) -> Int8System:
    """Returns what the folder says of itself.

    Raises:
        ConfigError: It is not such a folder.
    """
    file = folder / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder} was not written by `flowdet quantise`: {MANIFEST} cannot be read") from error
    return structure_json(text, Int8System, cattrs.Converter(), f"a {MANIFEST} ({file})")


def load_int8(system: VideoDetector, folder: Path) -> VideoDetector:
    """Returns the same system with the folder's parts in int8; OpenVINO computes the others in float32.

    Raises:
        ConfigError: The folder is damaged or of other weights, or OpenVINO cannot be used here.
    """
    manifest = read_manifest(folder)
    if manifest.weights_digest != weights_digest(system):
        raise ConfigError(
            f"{folder} was quantised from other weights than those of {system.config.name} given here; "
            "name the weight file it was made from, or run `flowdet quantise` again"
        )
    models = {name: _Fixed(folder, name, part, manifest.input_size) for name, part in manifest.parts.items()}
    return compile_system(system, models, backend=str(folder))


class _Fixed:
    """Returns the model of a part, for inputs of its one shape."""

    def __init__(self, folder: Path, name: str, part: Int8Part, size: tuple[int, int]) -> None:
        self._folder, self._size = folder, size
        xml = folder / f"{name}.xml"
        try:
            intact = {suffix: file_sha256(xml.with_suffix(suffix)) for suffix in (".xml", ".bin")} == part.sha256
        except OSError:
            intact = False
        if not name.isidentifier() or not intact:
            raise ConfigError(f"the part {name} in {folder} is missing or damaged; run `flowdet quantise` again")
        self._model: openvino.Model = core().read_model(xml)

    def __call__(self, examples: Sequence[Tensor]) -> "openvino.Model":
        shape = openvino_module().PartialShape
        fits = [
            node.get_partial_shape().compatible(shape(list(x.shape)))
            for node, x in zip(self._model.inputs, examples, strict=True)
        ]
        if not all(fits):
            height, width = self._size
            raise ConfigError(
                f"{self._folder} is quantised for network inputs of {height}x{width}, and these frames give another "
                "size; run `flowdet quantise` on a clip of this size, or take `--backend openvino`"
            )
        return self._model


_GROUPS = 6
_MEASURED = 4  # every fourth example; the others calibrate
_LAYERS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Frames of clips, in order.

    Attributes:
        names: Names of the clips.
        clips: The frames of each; all of one size, at least 8 in all and 2 a clip.
    """

    names: tuple[str, ...]
    clips: tuple[tuple[Frame, ...], ...]

    def __post_init__(self) -> None:
        sizes = sorted({frame.image.shape[:2] for clip in self.clips for frame in clip})
        if len(sizes) > 1:
            raise ConfigError(f"int8 parts are made for frames of one size, and these clips have {sizes}")
        if sum(map(len, self.clips)) < 2 * _MEASURED or min(map(len, self.clips)) < 2:
            raise ConfigError(f"calibration needs at least {2 * _MEASURED} frames, and 2 of each clip")


def quantise(
    system: VideoDetector,
    calibration: Calibration,
    folder: Path,
    *,
    tolerance: float = 0.1,
    tell: Callable[[str], None] = lambda step: None,
) -> Int8System:
    """Writes the parts of `system_parts` in int8.

    NNCF chooses the scales from what the parts are given while the system detects objects in the clips. Then the error
    of each part is measured on frames that it was not calibrated on. If it is above the tolerance, each sixth of its
    layers is tried in float32; the sixths that help most stay so, one more at a time, until it is not. A part that
    never gets there is left out. Products of two activations, as in the matching of cells, always stay in float32.

    Args:
        system: On the CPU, in evaluation mode.
        calibration: The frames.
        folder: Made if need be; the parts of an earlier call are replaced.
        tolerance: The largest error of a part, see `Int8Part`.
        tell: Told what is under way.

    Raises:
        ConfigError: OpenVINO or NNCF is not installed, or the folder cannot be written.
    """
    nncf = _nncf()
    parts, given_up = {}, {}
    tell("detecting in the clips, to see what each part is given")
    examples = record_inputs(system, calibration.clips, most=sum(map(len, calibration.clips)))
    for name, module in system_parts(system).items():
        tell(f"{name}: quantising")
        with torch.inference_mode():
            found, model = _within(nncf, module, examples[name], tolerance, tell, any_number=name in ANY_NUMBER)
        if model is None:
            given_up[name] = found.error_all_int8
        else:
            parts[name] = _written(found, model, folder / f"{name}.xml")
    manifest = Int8System(
        flowdet=version("flowdet"),
        config=config_to_json(system.config),
        weights_digest=weights_digest(system),
        input_size=prepare([calibration.clips[0][0].image], system.config.inputs).geometries[0].padded,
        clips=list(calibration.names),
        frames=sum(map(len, calibration.clips)),
        tolerance=tolerance,
        parts=parts,
        errors_given_up=given_up,
    )
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    return manifest


def _nncf() -> Any:
    openvino_module()
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to its makers
    try:
        import nncf  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError(
            f"int8 needs a package that is not here ({error}): run `pip install nncf openvino`"
        ) from error
    nncf.set_log_level(logging.ERROR)
    return nncf


@dataclass(frozen=True)
class _Found:
    error: float
    error_all_int8: float
    float_layers: list[str]


def _within(
    nncf: Any,
    module: nn.Module,
    examples: Sequence[Inputs],
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


def _arrays(example: Inputs) -> dict[int, NDArray[np.float32]]:
    return {number: x.numpy() for number, x in enumerate(example)}


def _error(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Length of the difference, relative to that of the truth; the largest of the outputs."""
    return max(float((x - y).norm() / y.norm().clamp(min=1e-9)) for x, y in zip(found, truth, strict=True))


def _written(found: _Found, model: "openvino.Model", xml: Path) -> Int8Part:
    with _writing(xml.parent):
        xml.parent.mkdir(parents=True, exist_ok=True)
        openvino_module().save_model(model, xml, compress_to_fp16=False)
        digests = {suffix: file_sha256(xml.with_suffix(suffix)) for suffix in (".xml", ".bin")}
    return Int8Part(found.error, found.error_all_int8, found.float_layers, digests)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{folder} cannot be written: {error}") from error
