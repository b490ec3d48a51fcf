"""A system whose parts OpenVINO computes on the CPU, in float32."""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowdet.backends.parts import ANY_NUMBER, FlowPreparation, system_parts, with_runs
from flowdet.errors import ConfigError
from flowdet.flow.base import FlowNet
from flowdet.systems.detector import VideoDetector
from flowdet.types import Geometry, NetworkInput

if TYPE_CHECKING:
    import openvino

__all__ = ["CompiledPart", "ModelFor", "compile_system", "convert", "core", "openvino_module"]

ModelFor = Callable[[Sequence[Tensor]], "openvino.Model"]
"""Returns the model of a part for inputs like these."""

_SHAPES_KEPT = 4


def openvino_module() -> Any:
    """Returns the package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import openvino  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError(
            f"the backend openvino needs a package that is not here ({error}): run `pip install openvino`"
        ) from error
    return openvino


@cache
def core() -> "openvino.Core":
    """Returns OpenVINO's plugins, found once a process."""
    made: openvino.Core = openvino_module().Core()
    return made


def convert(module: nn.Module, examples: Sequence[Tensor], *, any_number: bool = False) -> "openvino.Model":
    """Converts a module for inputs of the shapes of these examples.

    The frontend is called directly, because `openvino.convert_model` reports its use to its makers.

    Args:
        module: In evaluation mode; its shapes become constants.
        examples: Its inputs.
        any_number: The first dimension may have any size.
    """
    openvino_module()
    from openvino import PartialShape  # noqa: PLC0415
    from openvino.frontend import FrontEndManager  # noqa: PLC0415
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer: what it takes for constant is constant
        traced = torch.jit.trace(module, tuple(examples), check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)  # must outlive the conversion
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape(
        {
            node: PartialShape([-1 if any_number else len(example), *example.shape[1:]])
            for node, example in zip(model.inputs, examples, strict=True)
        }
    )
    return model


class _Network:
    """A compiled model. Each result gets its own memory, so that a state can keep it."""

    def __init__(self, model: "openvino.Model", threads: int) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Else two processes that have one thread each share one core.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core().compile_model(model, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._shapes = [tuple(output.get_partial_shape().get_min_shape())[1:] for output in compiled.outputs]

    def outputs(self, count: int) -> tuple[Tensor, ...]:
        """Returns memory for the outputs of `count` inputs, [count, ...] each."""
        return tuple(torch.empty(count, *shape) for shape in self._shapes)

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Computes outputs [n, ...] from inputs [n, ...]; n as converted for."""
        tensor = openvino_module().Tensor
        for number, x in enumerate(inputs):
            self._request.set_input_tensor(number, tensor(x.numpy(), shared_memory=True))
        for number, x in enumerate(outputs):
            self._request.set_output_tensor(number, tensor(x.numpy(), shared_memory=True))
        self._request.infer()


class CompiledPart:
    """A part of a system, compiled when inputs of a new shape come and kept for the last few shapes.

    Args:
        model_for: Returns the model for such inputs.
        any_number: Whether all inputs go through together; else one after the other, which takes less time, since
            the activations of one fit a cache.
    """

    def __init__(self, model_for: ModelFor, *, any_number: bool = False) -> None:
        self._model_for = model_for
        self._any_number = any_number
        self._networks: OrderedDict[tuple[Any, ...], _Network] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, module: nn.Module, *, any_number: bool = False) -> "CompiledPart":
        """Returns the compiled form of a module, which must be in evaluation mode."""
        return cls(lambda examples: convert(module, examples, any_number=any_number), any_number=any_number)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs [n, ...] of inputs [n, ...] float32."""
        inputs = tuple(x.contiguous() for x in inputs)
        count = len(inputs[0])
        at_once = count if self._any_number else 1
        with self._lock:
            network = self._network([x[:at_once] for x in inputs])
            outputs = network.outputs(count)
            for start in range(0, count, max(at_once, 1)):
                rows = slice(start, start + at_once)
                network.run([x[rows] for x in inputs], [x[rows] for x in outputs])
        return outputs

    def _network(self, examples: Sequence[Tensor]) -> _Network:
        threads = torch.get_num_threads()
        key = (threads, *(x.shape[1:] for x in examples))
        network = self._networks.pop(key, None) or _Network(self._model_for(examples), threads)
        self._networks[key] = network
        while len(self._networks) > _SHAPES_KEPT:
            self._networks.popitem(last=False)
        return network


def compile_system(
    system: VideoDetector, models: Mapping[str, ModelFor] | None = None, *, backend: str = "openvino"
) -> VideoDetector:
    """Returns the same system, whose parts OpenVINO computes; its weights must not change any more.

    The state of a stream stays the same: what one backend began the other can continue.

    Args:
        system: In evaluation mode.
        models: Models of parts by name that are not to be converted from the modules.
        backend: What this is called.

    Raises:
        ConfigError: OpenVINO is not installed, or the system is not on the CPU.
    """
    device = next(system.parameters()).device
    if device.type != "cpu":
        raise ConfigError(f"the backend openvino computes on the CPU; the system is on {device}")
    core()
    modules = system_parts(system)
    compiled = {name: CompiledPart.of(part, any_number=name in ANY_NUMBER) for name, part in modules.items()}
    given = {name: model for name, model in (models or {}).items() if name in modules}
    compiled |= {name: CompiledPart(model, any_number=name in ANY_NUMBER) for name, model in given.items()}
    prepare = _preparation(system.flow_net) if system.flow_net and "flow" in compiled else None
    return system.with_parts(with_runs(system, compiled, prepare), backend)


def _preparation(flow_net: FlowNet) -> Callable[[NetworkInput], Tensor]:
    compiled = lru_cache(maxsize=_SHAPES_KEPT)(lambda geometry: CompiledPart.of(FlowPreparation(flow_net, geometry)))

    def prepare(inputs: NetworkInput) -> Tensor:
        rows: Iterable[tuple[Tensor, Geometry]] = zip(inputs.images.split(1), inputs.geometries, strict=True)
        return torch.cat([compiled(geometry)(image)[0] for image, geometry in rows])

    return prepare
