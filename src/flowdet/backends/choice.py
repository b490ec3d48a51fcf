"""Which backend computes."""

from importlib.util import find_spec
from pathlib import Path

from flowdet.backends.int8 import load_int8
from flowdet.backends.openvino import compile_system
from flowdet.backends.optimised import optimise
from flowdet.errors import ConfigError
from flowdet.systems.detector import Parts, VideoDetector

__all__ = ["BACKENDS", "with_backend"]

BACKENDS = ("torch", "optimised", "openvino", "auto")


def with_backend(system: VideoDetector, backend: str) -> VideoDetector:
    """Returns the same system, computed by a backend.

    Args:
        system: As it was loaded, in evaluation mode.
        backend: "torch": its own modules. "optimised": their copy for inference, see `optimise`. "openvino": compiled
            for the CPU; needs the package openvino. A folder of `flowdet quantise`: some parts in int8, the others as
            with "openvino". "auto": OpenVINO for small systems on a CPU if it is installed, else "optimised".

    Raises:
        ConfigError: There is no such backend, or it cannot be used here.
    """
    match backend:
        case "torch":
            return system.with_parts(None, "torch")
        case "optimised":
            fast = optimise(system)
            return system.with_parts(Parts(fast.detector, fast.flow_net, fast.method_modules), "optimised")
        case "openvino":
            return compile_system(system)
        case "auto":
            is_on_cpu = next(system.parameters()).device.type == "cpu"
            # OpenVINO does not know Winograd's method.
            compiles = is_on_cpu and not system.config.detector.has_wide_maps and find_spec("openvino")
            return with_backend(system, "openvino" if compiles else "optimised")
        case _ if backend and Path(backend).is_dir():
            return load_int8(system, Path(backend))
        case _:
            raise ConfigError(
                f"the backends are {', '.join(BACKENDS)} or a folder of `flowdet quantise`, not {backend!r}"
            )
