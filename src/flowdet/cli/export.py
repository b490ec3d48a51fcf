"""flowdet export: the parts of a system as ONNX files."""

from pathlib import Path

from flowdet.backends.export import MANIFEST, export_onnx
from flowdet.cli import console
from flowdet.cli.arguments import DEFAULTS, Options, for_making, parse_size
from flowdet.errors import ConfigError
from flowdet.systems.load import load_system

__all__ = ["export"]


def export(system: str | None = None, *, out: Path, options: Options = DEFAULTS, size: str | None = None) -> int:
    """Write every part of a system as an ONNX file.

    Args:
        system: One of `flowdet models`; may be left out for a native weight file.
        out: The folder to write.
        options: Which weights, and in which form.
        size: Height x width of the frames. [default: the largest the system takes, 600x1000 for published ones]
    """
    wanted = parse_size(size)
    if wanted and not all(16 <= side <= 8192 for side in wanted):
        raise ConfigError(f"frames have 16 to 8192 pixels a side, not {size}")
    detector = load_system(for_making(options, system))
    inputs = detector.config.inputs
    made = export_onnx(detector, out, wanted or (inputs.short_side, inputs.long_side))
    height, width = made.input_size
    console.out.print(
        f"{out}: {', '.join(part.file for part in made.parts.values())} for network inputs of {height}x{width}, "
        f"opset {made.opset}; {MANIFEST} says what goes in and out"
    )
    return 0
