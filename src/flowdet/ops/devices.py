"""Tensors on the device on which they are needed, without making the host wait for a GPU."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["constant", "upload"]


@lru_cache(maxsize=1024)
@torch.inference_mode(mode=False)  # training may use what detection has made
def constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a tensor of these values, the same one each time: it is uploaded once, and must not be changed."""
    return torch.tensor(values, dtype=dtype, device=device)


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Returns a tensor of the host on a device; a GPU takes it from pinned memory, while it is still busy."""
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
