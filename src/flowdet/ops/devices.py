"""What computes: tensors on the device that needs them, without making the host wait for a GPU, and threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["constant", "full_precision", "memory_shortage", "threads", "upload"]


@lru_cache(maxsize=1024)
@torch.inference_mode(mode=False)  # training may use what detection has made
def constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a tensor of these values, the same one each time: it is uploaded once, and must not be changed."""
    return torch.tensor(values, dtype=dtype, device=device)


def full_precision(tensor: Tensor) -> Tensor:
    """Returns a tensor of half precision in float32, any other as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Returns a tensor of the host on a device; a GPU takes it from pinned memory, while it is still busy."""
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def memory_shortage(error: BaseException) -> str | None:
    """Returns "too little memory" and what is known of it, of a GPU or of the machine; None for any other error."""
    is_told = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if not is_told and "can't allocate memory" not in str(error):  # what torch says on a CPU
        return None
    return "too little memory" + (f" ({error})" if str(error) else "")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets torch compute with n threads until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
