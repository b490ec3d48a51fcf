"""Which runtime detects."""

from importlib.util import find_spec
from pathlib import Path

from flowdet.backends.openvino import compile_system
from flowdet.backends.optimised import optimise
from flowdet.backends.quantised import load_quantised
from flowdet.detectors.resnet import ResNetConfig
from flowdet.errors import ConfigError
from flowdet.systems.detector import Parts, VideoDetector

__all__ = ["RUNTIMES", "with_runtime"]

RUNTIMES = ("torch", "optimised", "openvino", "auto")


def with_runtime(system: VideoDetector, runtime: str) -> VideoDetector:
    """The same system in a runtime.

    Args:
        system: As it was loaded, in evaluation mode.
        runtime: "torch": its own modules. "optimised": their copy for inference, see `optimise`. "openvino": compiled
            for the CPU; needs the extra `flowdet[openvino]`.
            A folder of `flowdet quantise`: some parts in int8, the others as with "openvino".
            "auto": the fastest that is installed: OpenVINO for a small system on a CPU, else "optimised".

    Raises:
        ConfigError: There is no such runtime, or it cannot be used here.
    """
    match runtime:
        case "torch":
            return system.with_parts(None, "torch")
        case "optimised":
            fast = optimise(system)
            return system.with_parts(Parts(fast.detector, fast.flow_net, fast.embedding), "optimised")
        case "openvino":
            return compile_system(system)
        case "auto":
            is_on_cpu = next(system.parameters()).device.type == "cpu"
            # Of ResNet's maps most convolutions take Winograd's way, which OpenVINO does not know.
            is_small = not isinstance(system.config.backbone, ResNetConfig)
            can_compile = is_on_cpu and is_small and find_spec("openvino")
            return with_runtime(system, "openvino" if can_compile else "optimised")
        case _ if Path(runtime).is_dir():
            return load_quantised(system, Path(runtime))
        case _:
            raise ConfigError(
                f"the runtimes are {', '.join(RUNTIMES)} or a folder of `flowdet quantise`, not {runtime!r}"
            )
