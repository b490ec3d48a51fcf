"""The processes of a training run: one, or those that torchrun started."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from flowdet.errors import ConfigError

__all__ = ["Processes", "join_processes"]

Value = TypeVar("Value")

# Longer than any wait of one process for another, which may evaluate while the others have nothing to do.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, and where it computes.

    Attributes:
        rank: Number of this process.
        world: How many there are.
        here: How many of them run on this machine.
        device: Where its model lives.
    """

    rank: int = 0
    world: int = 1
    here: int = 1
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes, and the weights of the first one in all."""
        if self.world == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The means of these values over the processes."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        means: list[float] = (tensor / self.world).tolist()
        return means

    def gather(self, value: Value) -> list[Value]:
        """What each process has, by rank."""
        if self.world == 1:
            return [value]
        found: list[Value] = [value] * self.world
        distributed.all_gather_object(found, value)
        return found

    def agree(self, value: Value) -> Value:
        """What the first process has."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Meets the other processes of a torchrun, if there are any, for as long as the context lasts.

    Args:
        device: "cpu" or "cuda"; of several GPUs each process takes its own.

    Raises:
        ConfigError: The device cannot be used here.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = _device(device, int(os.environ.get("LOCAL_RANK", "0")), world)
    if world == 1:
        yield Processes(device=place)
        return
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, world, int(os.environ.get("LOCAL_WORLD_SIZE", world)), place)
    finally:
        distributed.destroy_process_group()


def _device(name: str, local_rank: int, world: int) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "cuda":
            device = torch.device("cuda", local_rank) if world > 1 or device.index is None else device
            torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"the device {name!r} cannot be used here: {error}") from error
    return device
