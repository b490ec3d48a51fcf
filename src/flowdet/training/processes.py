"""The processes of a training run: one, or those that torchrun started."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from flowdet.errors import ConfigError

__all__ = ["Processes", "join_processes"]

Value = TypeVar("Value")

# Longer than any evaluation, which the first process does while the others wait.
_PATIENCE = timedelta(days=1)
_OPTIONS = signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"  # renamed in 2.14


@dataclass(frozen=True)
class Processes:
    """Which of the training processes this is, and where it computes.

    Attributes:
        rank: The number of this process.
        world: The number of processes.
        here: The number of them on this machine.
        device: Where the model of this process lives.
        host_group: The group for values on the host; None is the default group. GPUs average gradients over NCCL,
            but waiting in NCCL would keep every GPU busy and object collectives would go through GPU memory.
    """

    rank: int = 0
    world: int = 1
    here: int = 1
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    host_group: "distributed.ProcessGroup | None" = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, module: nn.Module) -> nn.Module:
        """Wraps a module so that backward averages its gradients over the processes; starts all with rank 0's weights.

        Buffers are not sent at every pass: a frozen batch norm never changes, and of another rank 0's values are saved.
        """
        if self.world == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        return DistributedDataParallel(module, device_ids=devices, **options)

    def mean(self, values: Sequence[float]) -> list[float]:
        """Returns the means of these values over the processes."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, group=self.host_group)
        means: list[float] = (tensor / self.world).tolist()
        return means

    def gather(self, value: Value) -> list[Value]:
        """Returns the value of each process, by rank."""
        if self.world == 1:
            return [value]
        found: list[Value] = [value] * self.world
        distributed.all_gather_object(found, value, group=self.host_group)
        return found

    def wait(self) -> None:
        """Waits for all processes, on the host: a GPU that waits in NCCL is busy."""
        if self.world > 1:
            distributed.barrier(group=self.host_group)

    def from_first(self, value: Value) -> Value:
        """Returns the value of the first process; the others wait for it."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.host_group)
        return values[0]


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Joins the other processes of a torchrun, if there are any, until the context ends.

    Several processes on CPUs are tested; several on GPUs follow PyTorch's documentation and have not been run.

    Args:
        device: "cpu" or "cuda"; with several processes each takes its own GPU.

    Raises:
        ConfigError: The device cannot be used here.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = _device(device, int(os.environ.get("LOCAL_RANK", "0")), world)
    if world == 1:
        yield Processes(device=place)
        return
    host_group = None
    if place.type == "cuda":
        distributed.init_process_group("nccl", timeout=_PATIENCE, device_id=place)
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        host_group = group if isinstance(group, distributed.ProcessGroup) else None
    else:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, world, int(os.environ.get("LOCAL_WORLD_SIZE", world)), place, host_group)
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
