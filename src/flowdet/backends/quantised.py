"""Parts in int8, read from a folder that `flowdet quantise` wrote; nothing in it is executed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cattrs
from torch import Tensor

from flowdet.backends.openvino import compile_system, core, openvino_module
from flowdet.backends.parts import PARTS
from flowdet.errors import ConfigError
from flowdet.systems.config import structure_json
from flowdet.systems.detector import VideoDetector
from flowdet.weights.native import weights_digest

if TYPE_CHECKING:
    import openvino

__all__ = ["MANIFEST", "QuantisedPart", "QuantisedSystem", "file_digest", "load_quantised", "read_manifest"]

MANIFEST = "quantised.json"


@dataclass(frozen=True)
class QuantisedPart:
    """One part in int8: `<name>.xml` and `<name>.bin`.

    Attributes:
        error: Of its output against float32 on frames that it was not calibrated on: the mean over the frames of the
            length of the difference, relative to that of the output.
        error_all_int8: The same with no layer left in float32.
        float_layers: Names of the layers that were left in float32 to be within the tolerance.
        sha256: Of both files, by suffix.
    """

    error: float
    error_all_int8: float
    float_layers: list[str]
    sha256: dict[str, str]


@dataclass(frozen=True)
class QuantisedSystem:
    """What the folder says of itself.

    Attributes:
        flowdet: The version that wrote it.
        config: Of the system, as `config_to_json` writes it.
        weights_digest: Of the system's float32 weights.
        input_size: (height, width) px of the network input, padding included.
        clips: Names of the videos that it was calibrated on.
        frames: How many of their frames.
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
    parts: dict[str, QuantisedPart]
    errors_given_up: dict[str, float]


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> QuantisedSystem:
    """What the folder says of itself.

    Raises:
        ConfigError: It is not such a folder.
    """
    file = folder / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder} was not written by `flowdet quantise`: {MANIFEST} cannot be read") from error
    return structure_json(text, QuantisedSystem, cattrs.Converter(), f"a {MANIFEST} ({file})")


def load_quantised(system: VideoDetector, folder: Path) -> VideoDetector:
    """The same system with the folder's parts in int8; OpenVINO computes the others in float32.

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
    return compile_system(system, models, runtime=str(folder))


class _Fixed:
    """Gives the model of a part, for inputs of its one shape."""

    def __init__(self, folder: Path, name: str, part: QuantisedPart, size: tuple[int, int]) -> None:
        self._folder, self._size = folder, size
        xml = folder / f"{name}.xml"
        try:
            intact = {suffix: file_digest(xml.with_suffix(suffix)) for suffix in (".xml", ".bin")} == part.sha256
        except OSError:
            intact = False
        if name not in PARTS or not intact:
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
                "size; run `flowdet quantise` on a clip of this size, or take `--runtime openvino`"
            )
        return self._model
