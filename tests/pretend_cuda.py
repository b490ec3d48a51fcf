"""A GPU that is not there: code for CUDA runs on the CPU by CUDA's rules, and each wait of the host is written down.

A tensor on it says `cuda:0` and holds a CPU tensor. Operations on tensors of two devices are errors, as with CUDA. What
it cannot show: faults of kernels and drivers, other rounding, half precision, speed, memory, streams, several GPUs.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

__all__ = ["CUDA", "OnGPU", "PretendedGPU", "pretend_cuda"]

CUDA = torch.device("cuda", 0)
_AUTOGRAD = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradCUDA) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.ADInplaceOrView
)
# In parts it would become an operation of cuDNN, which no CPU has.
_WHOLE = ("aten::batch_norm",)
# Take a number from the host, as all pointwise operations do.
_TAKE_NUMBERS = ("aten::index_put", "aten::fill_", "aten::masked_fill", "aten::copy_")


class OnGPU(Tensor):
    """Says that it is on a GPU; gradients are those of the CPU tensor that it holds."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGPU":
        """Wraps a tensor of the CPU."""
        made: OnGPU = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=CUDA
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} outside of `pretend_cuda`")

    def numpy(self, *, force: bool = False) -> Any:
        """As on a GPU."""
        del force
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self) -> Any:
        """Through a copy to the host."""
        return self.cpu().tolist()

    requires_grad = property(lambda self: self.held.requires_grad, lambda self, value: self.requires_grad_(value))
    grad_fn = property(lambda self: self.held.grad_fn)
    is_leaf = property(lambda self: self.held.is_leaf)
    grad = property(
        lambda self: None if self.held.grad is None else OnGPU(self.held.grad),
        lambda self, value: setattr(self.held, "grad", None if value is None else value.held),
    )

    def requires_grad_(self, requires_grad: bool = True) -> "OnGPU":
        """Of what it holds."""
        self.held.requires_grad_(requires_grad)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        memo[id(self)] = copy
        return copy

    def backward(self, *args: Any, **kwargs: Any) -> None:
        """Of what it holds: autograd would ask a driver for streams."""
        self.held.backward(*args, **kwargs)


class PretendedGPU(TorchDispatchMode):
    """Computes what is on the GPU.

    Attributes:
        waits: How often the host has waited for the GPU, by reason and place.
        warns: Whether each wait is a warning, too, see `torch.cuda.set_sync_debug_mode`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: Counter[str] = Counter()
        self.warns = False

    def take(self) -> Counter[str]:
        """Returns the waits since the last call."""
        waits, self.waits = self.waits, Counter()
        return waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves, spec = tree_flatten((args, kwargs))
        goes_there = any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves)
        if not goes_there and not any(isinstance(leaf, OnGPU) for leaf in leaves):
            with _autograd_inside():
                return func(*args, **kwargs)
        name = func.name().partition(".")[0]
        if name not in _WHOLE:
            with self:  # the parts of a composite operation are seen, too
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        moves = name in {"aten::_to_copy", "aten::copy_"}
        if moves:
            self._note_move(args, kwargs, leaves, goes_there=goes_there)
        else:
            self._check_devices(func, name, leaves)
            self._note_wait(func, name, args)
        args_held, kwargs_held = tree_unflatten([_held(leaf) for leaf in leaves], spec)
        with _autograd_inside():
            found = func(*args_held, **kwargs_held)
        stays = isinstance(args[0], OnGPU) if moves and args and "device" not in kwargs else None
        if name == "aten::_to_copy" and not (goes_there or stays or kwargs.get("device") is None):
            return found
        known: dict[int, Tensor] = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, OnGPU)}
        known |= {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnGPU)}
        # In-place operations return what they were given.
        return tree_map(lambda x: known.get(id(x), OnGPU(x)) if isinstance(x, Tensor) else x, found)

    def _note_move(self, args: Any, kwargs: Any, leaves: Any, *, goes_there: bool) -> None:
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        source = tensors[-1]
        target = isinstance(tensors[0], OnGPU) if len(tensors) > 1 else goes_there or kwargs.get("device") is None
        if isinstance(source, OnGPU) and not target:
            self._wait("copy to the host")
        elif target and not isinstance(source, OnGPU) and (source.dim() or len(tensors) == 1):
            non_blocking = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            if not (non_blocking and getattr(source, "is_in_pinned_memory", False)):
                self._wait("upload from memory that is not pinned")

    def _check_devices(self, func: Any, name: str, leaves: Any) -> None:
        takes_numbers = torch.Tag.pointwise in func.tags or name.startswith(_TAKE_NUMBERS)
        for leaf in leaves:
            if isinstance(leaf, Tensor) and not isinstance(leaf, OnGPU) and (leaf.dim() or not takes_numbers):
                raise RuntimeError(f"Expected all tensors to be on the same device, not cuda:0 and cpu, in {name}")

    def _note_wait(self, func: Any, name: str, args: Any) -> None:
        if name.startswith(("aten::index.", "aten::index_put")) or name == "aten::index":
            is_mask = any(index is not None and index.dtype in {torch.bool, torch.uint8} for index in args[1])
            fills = len(args) > 2 and args[2].numel() == 1  # `masked_fill`, which needs no count
            if is_mask and not fills:
                self._wait("a mask as index")
        elif name == "aten::repeat_interleave" or {
            torch.Tag.dynamic_output_shape,
            torch.Tag.data_dependent_output,
        } & set(func.tags):
            self._wait(name.partition("::")[2])
        elif name == "torchvision::nms":
            self._wait("nms")

    def _wait(self, reason: str) -> None:
        self.waits[f"{reason} ({_place()})"] += 1
        if self.warns:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)


def _held(leaf: Any) -> Any:
    if isinstance(leaf, OnGPU):
        return leaf.held
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _place() -> str:
    """The innermost function of flowdet that is at work."""
    frame = sys._getframe(1)
    while frame.f_back and "/flowdet/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/flowdet/')[2]}:{frame.f_code.co_name}"


def _autograd_inside() -> AbstractContextManager[Any]:
    """Autograd follows the CPU tensors that are held, not those that hold them."""
    if torch.is_inference_mode_enabled():
        return nullcontext()
    excluded = torch._C._dispatch_tls_local_exclude_set() - _AUTOGRAD
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


def _pinned(tensor: Tensor, device: Any = None) -> Tensor:
    del device
    copy = tensor.clone()
    copy.is_in_pinned_memory = True  # type: ignore[attr-defined]
    return copy


def _apply(cls: Any, *args: Any) -> Any:
    """`torch.autograd.Function.apply` on what is held."""
    with _autograd_inside():
        found = super(torch.autograd.Function, cls).apply(*map(_held, args))
    return OnGPU(found) if any(isinstance(arg, OnGPU) for arg in args) else found


@contextmanager
def pretend_cuda() -> Iterator[PretendedGPU]:
    """One pretended GPU for as long as the context lasts."""
    nothing: Callable[..., None] = lambda *args, **kwargs: None  # noqa: E731
    gpu = PretendedGPU()
    cuda = {
        "is_available": lambda: True,
        "_lazy_init": nothing,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "manual_seed_all": nothing,
        "max_memory_allocated": lambda device=None: 0,
        "get_device_name": lambda device=None: "pretended",
        "is_bf16_supported": lambda: True,
        "synchronize": nothing,
        "reset_peak_memory_stats": nothing,
        "set_sync_debug_mode": lambda mode: setattr(gpu, "warns", mode == "warn"),
    }
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    lifts = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", _pinned))
        stack.enter_context(patch.object(torch.autograd.Function, "apply", classmethod(_apply), create=True))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch._C._set_only_lift_cpu_tensors(True)  # so that `torch.tensor` uploads what it has made on the host
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        torch._C._ensureCUDADeviceGuardSet()
        stack.enter_context(gpu)
        stack.enter_context(torch._C._ExcludeDispatchKeyGuard(_AUTOGRAD))
        yield gpu
