"""Which backend computes."""

from importlib.util import find_spec
from pathlib import Path

import torch

from flowdet.backends.int8 import load_int8
from flowdet.backends.openvino import compile_system
from flowdet.backends.optimised import optimise
from flowdet.errors import ConfigError
from flowdet.systems.detector import PRECISIONS, Parts, VideoDetector

__all__ = ["BACKENDS", "with_backend"]

BACKENDS = ("torch", "optimised", "openvino", "auto")


def with_backend(system: VideoDetector, backend: str, precision: str = "float32") -> VideoDetector:
    """Returns the same system, computed by a backend.

    Args:
        system: As it was loaded, in evaluation mode.
        backend: "torch": its own modules. "optimised": their copy for inference, see `optimise`. "openvino": compiled
            for the CPU; needs the package openvino. A folder of `flowdet quantise`: some parts in int8, the others as
            with "openvino". "auto": OpenVINO for small systems on a CPU if it is installed, else "optimised".

        precision: One of `PRECISIONS`. In half precision "auto" is "optimised".

    Raises:
        ConfigError: There is no such backend or precision, or it cannot be used here.
    """
    is_on_cpu = next(system.parameters()).device.type == "cpu"
    if precision != "float32":
        _check_precision(precision, backend, is_on_cpu=is_on_cpu)
        backend = "optimised" if backend == "auto" else backend
    match backend:
        case "torch":
            return system.with_parts(None, "torch", precision)
        case "optimised":
            fast = optimise(system)
            return system.with_parts(Parts(fast.detector, fast.flow_net, fast.method_modules), "optimised", precision)
        case "openvino":
            return compile_system(system)
        case "auto":
            is_on_cpu = next(system.parameters()).device.type == "cpu"
            # OpenVINO does not know Winograd's method.
            compiles = is_on_cpu and not system.config.detector.has_wide_maps and find_spec("openvino")
            return with_backend(system, "openvino" if compiles else "optimised")
        case "":
            raise ConfigError(f"--backend is empty, name one of {', '.join(BACKENDS)}, or leave it out")
        case _ if Path(backend).is_dir():
            return load_int8(system, Path(backend))
        case _:
            raise ConfigError(
                f"the backends are {', '.join(BACKENDS)} or a folder of `flowdet quantise`, not {backend!r}"
            )


def _check_precision(precision: str, backend: str, *, is_on_cpu: bool) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(f"the precisions are {', '.join(PRECISIONS)}, not {precision!r}")
    if backend not in ("torch", "optimised", "auto"):
        raise ConfigError(f"{precision} is for the backends torch and optimised, and has no effect on {backend!r}")
    if precision == "bf16" and not is_on_cpu and not torch.cuda.is_bf16_supported():
        raise ConfigError("this GPU has no bf16; take fp16")
    if precision == "fp16" and is_on_cpu:
        raise ConfigError("fp16 is for GPUs, and ten times as slow as float32 on a CPU; bf16 is for both")
