"""Arguments that several commands take, and their checks."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flowdet.errors import ConfigError
from flowdet.systems.options import SystemOptions
from flowdet.work.cluster import Cluster

__all__ = ["ALONE", "DEFAULTS", "EngineOptions", "Options", "Sharing", "check_outputs", "for_making", "parse_size"]

Options = Annotated[SystemOptions, Parameter(name="*")]
"""The options of `SystemOptions`, each as one of the command."""

DEFAULTS = SystemOptions()


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Who shares the work.

    Attributes:
        engine: local: processes of this machine; ray: workers on the machines of a Ray cluster, or of this one.
        processes: The number of processes of this machine that share the work.
        address: The head of a running cluster, or auto on one of its machines; with --engine ray. [default:
            RAY_ADDRESS, or else this machine alone, where no server is needed]
        workers: The number of workers; with --engine ray. [default: as many as fit into the cluster]
        gpus_per_worker: The share of a GPU that each worker takes, 0.25 for four on each; with --engine ray and
            --device cuda. [default: 1]
    """

    engine: Literal["local", "ray"] = "local"
    processes: int = 1
    address: Annotated[str | None, Parameter(show_default=False)] = None
    workers: Annotated[int | None, Parameter(show_default=False)] = None
    gpus_per_worker: Annotated[float | None, Parameter(show_default=False)] = None

    def cluster(self, device: str) -> Cluster | None:
        """Returns the cluster that does the work on this kind of device; None: processes of this machine do it.

        Raises:
            ConfigError: An option has no effect, or a value that cannot work.
        """
        if self.processes < 1:
            raise ConfigError(f"--processes is a whole number from 1 on, not {self.processes}")
        on_gpu = device.startswith("cuda")
        if self.engine == "local":
            own = {"--address": self.address, "--workers": self.workers, "--gpus-per-worker": self.gpus_per_worker}
            if idle := [name for name, value in own.items() if value is not None]:
                raise ConfigError(f"{' and '.join(idle)} without effect: add --engine ray")
            return None
        if self.processes != 1:
            raise ConfigError("--processes has no effect with --engine ray: name --workers")
        if self.gpus_per_worker is not None and not on_gpu:
            raise ConfigError("--gpus-per-worker without effect: add --device cuda")
        gpus = (1.0 if self.gpus_per_worker is None else self.gpus_per_worker) if on_gpu else 0.0
        return Cluster(address=self.address, workers=self.workers, gpus_per_worker=gpus)


Sharing = Annotated[EngineOptions, Parameter(name="*")]
"""The options of `EngineOptions`, each as one of the command."""

ALONE = EngineOptions()


def for_making(options: SystemOptions, system: str | None) -> SystemOptions:
    """Returns the options of a command that makes something of the modules of a system, on the CPU.

    Raises:
        ConfigError: An option of detecting came, which has no effect there.
    """
    for name in ("device", "backend", "precision"):
        if getattr(options, name) != getattr(DEFAULTS, name):
            raise ConfigError(f"--{name} has no effect here: this command works on the CPU in float32; leave it out")
    return replace(options, system=system, backend="torch")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Returns the (height, width) that an option such as 600x1000 states; None for None.

    Raises:
        ConfigError: It is no size.
    """
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)[xX](\d+)", text)):
        raise ConfigError(f"a size is height x width in pixels, such as 600x1000, not {text!r}")
    return int(match[1]), int(match[2])


def check_outputs(folder: Path | None, json: Path | None) -> None:
    """Checks before the work that its outputs can be written.

    Raises:
        ConfigError: They cannot.
    """
    for place in (folder, json.parent if json else None):
        if place:
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"the folder {place} cannot be made: {error.strerror}") from error
    if json and json.is_dir():
        raise ConfigError(f"--json is a file to write, and {json} is a folder")
