"""What a run does and where: versions, code, machine, command."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from flowdet.training.processes import Processes

__all__ = ["CONFIG_NAME", "ENVIRONMENT_NAME", "describe_environment", "peak_memory", "write_description"]

CONFIG_NAME, ENVIRONMENT_NAME = "config.json", "environment.json"


def describe_environment(processes: Processes) -> dict[str, Any]:
    """Versions, code, machine and command of this process."""
    on_gpu = processes.device.type == "cuda"
    return {
        "flowdet": version("flowdet"),
        **_checkout(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(processes.device) if on_gpu else platform.processor() or "cpu",
        "cuda": torch.version.cuda if on_gpu else None,
        "threads": torch.get_num_threads(),
        "world_size": processes.world,
        "command": sys.argv,
        "folder": os.getcwd(),
    }


def _checkout(folder: Path) -> dict[str, Any]:
    """Commit and state of the git checkout that the code runs from; None for an installed package."""
    commit = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    if commit is None or tracked is None:
        return {"commit": None, "changed": None}
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that were in use at once: of the GPU, or of the process; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return None
    # Linux counts in units of 1024 bytes, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_description(folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Writes what a run does, and adds where it does it to where it did so before.

    Args:
        folder: Of the run.
        config: Becomes `config.json`.
        environment: Becomes the last entry of `environment.json`, which has one for each time the run was started.
    """
    past = folder / ENVIRONMENT_NAME
    try:
        before = json.loads(past.read_text())
    except (OSError, ValueError):
        before = []
    for path, value in ((folder / CONFIG_NAME, config), (past, [*before, environment])):
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text(json.dumps(value, indent=2) + "\n")
        unfinished.replace(path)
