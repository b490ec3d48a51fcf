"""Which runtime detects."""

from importlib.util import find_spec
from pathlib import Path

from flowdet.engine.openvino import compile_system
from flowdet.engine.quantised import load_quantised
from flowdet.errors import ConfigError
from flowdet.system import VideoDetector

__all__ = ["RUNTIMES", "with_runtime"]

RUNTIMES = ("torch", "openvino", "auto")


def with_runtime(system: VideoDetector, runtime: str) -> VideoDetector:
    """The same system in a runtime.

    Args:
        system: As it was loaded, in evaluation mode.
        runtime: "torch": its own modules. "openvino": compiled for the CPU; needs the extra `flowdet[openvino]`.
            A folder of `flowdet quantise`: some parts in int8, the others as with "openvino".
            "auto": the fastest that is installed: OpenVINO if the system is on a CPU, else PyTorch.

    Raises:
        ConfigError: There is no such runtime, or it cannot be used here.
    """
    match runtime:
        case "torch":
            return system.with_parts(None, "torch")
        case "openvino":
            return compile_system(system)
        case "auto":
            is_on_cpu = next(system.parameters()).device.type == "cpu"
            return with_runtime(system, "openvino" if is_on_cpu and find_spec("openvino") else "torch")
        case _ if Path(runtime).is_dir():
            return load_quantised(system, Path(runtime))
        case _:
            raise ConfigError(
                f"the runtimes are {', '.join(RUNTIMES)} or a folder of `flowdet quantise`, not {runtime!r}"
            )
