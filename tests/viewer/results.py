"""Results as `flowdet detect` writes them, of clips that are made up."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowdet.types import Detections
from flowdet.video.results import ResultsWriter

__all__ = ["write_result", "write_truth"]


@dataclass
class _Video:
    name: str
    size: tuple[int, int] | None = (48, 64)
    fps: float | None = 25.0
    problems: Sequence[str] = ()


def write_result(
    path: Path, *, frames: int = 4, every: int = 1, class_name: str = "cat", per_frame: int = 1, **settings: Any
) -> Path:
    """Writes a result of 64x48 px at 25 frames a second; the box of frame n is [10 + n, 20, 40 + n, 60], score 0.9."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("dog", class_name)
    with ResultsWriter(
        path, video=_Video(path.stem), class_names=names, settings={"system": "single-lite", **settings}
    ) as writer:
        for index in range(0, frames * every, every):
            box = np.array([10 + index, 20, 40 + index, 60], np.float32)
            writer.write(
                Detections(
                    frame_index=index,
                    time=index / 25,
                    boxes=np.tile(box, (per_frame, 1)),
                    scores=np.full(per_frame, 0.9, np.float32),
                    labels=np.ones(per_frame, np.int64),
                    class_names=names,
                    image_size=(48, 64),
                )
            )
    return path


def write_truth(path: Path, *, frames: int = 4, start: int = 0, name: str = "cat") -> Path:
    """Writes annotations of the clip of `write_result`, whose first and last frame have mistakes."""
    images = [
        {"id": 10 + n, "video_id": 1, "frame_id": n + start, "file_name": f"{n}.png", "width": 64, "height": 48}
        for n in range(frames)
    ]
    # In the last frame there is an object more, and the one of the first is elsewhere.
    boxes = [(0, [30, 0, 20, 10]), *((n, [10 + n, 20, 30, 40]) for n in range(1, frames)), (frames - 1, [0, 0, 8, 8])]
    document: dict[str, Any] = {
        "videos": [{"id": 1, "name": "val/clip"}],
        "categories": [{"id": 1, "name": name}],
        "images": images,
        "annotations": [
            {"id": n, "image_id": 10 + frame, "category_id": 1, "bbox": box, "instance_id": 5}
            for n, (frame, box) in enumerate(boxes, start=1)
        ],
    }
    path.write_text(json.dumps(document))
    return path
