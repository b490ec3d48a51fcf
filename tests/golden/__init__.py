"""Small recorded numbers; `python -m tests.golden.record` wrote them from the full reference."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "ROIS_FILE", "SYSTEMS_FILE", "state_dict_shapes", "training_steps", "window_cases"]

FOLDER = Path(__file__).parent
SYSTEMS_FILE = FOLDER / "systems.npz"
ROIS_FILE = FOLDER / "rois.npz"


@cache
def state_dict_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """For each published system, the shape of every tensor of its checkpoint by its published name."""
    content = json.loads(gzip.decompress((FOLDER / "state_dicts.json.gz").read_bytes()))
    return {system: {name: tuple(shape) for name, shape in shapes.items()} for system, shapes in content.items()}


def training_steps(name: str = "train_r50") -> dict[str, Any]:
    """Losses, sampled boxes and gradients of one and a half training steps of each method."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def window_cases() -> list[dict[str, Any]]:
    """FGFA windows of short and long videos: `num_frames`, `past`, `stride`, and the slots of every frame."""
    content: list[dict[str, Any]] = json.loads((FOLDER / "windows.json").read_text())
    return content
