"""Object detection in video: Deep Feature Flow and Flow-Guided Feature Aggregation.

model = flowdet.load()
for detections in model.detect(flowdet.open_video("clip.mp4"), score=0.5):
    print(detections.frame_index, detections.names, detections.boxes)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from flowdet.errors import CheckpointError, ConfigError, DataError, DownloadError, FlowdetError, VideoError

if TYPE_CHECKING:
    from flowdet.systems.detector import VideoDetector
    from flowdet.systems.load import load, weights_of
    from flowdet.tracking.online import TrackerConfig, track
    from flowdet.types import Detections, Frame
    from flowdet.video.draw import draw_detections
    from flowdet.video.reader import Video, open_video, read_ahead
    from flowdet.video.writer import VideoWriter
    from flowdet.weights.native import save_native

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Detections",
    "DownloadError",
    "FlowdetError",
    "Frame",
    "TrackerConfig",
    "Video",
    "VideoDetector",
    "VideoError",
    "VideoWriter",
    "__version__",
    "draw_detections",
    "load",
    "open_video",
    "read_ahead",
    "save_native",
    "track",
    "weights_of",
]

__version__ = version("flowdet")

# Imported when they are first asked for: PyTorch takes seconds, which `flowdet --help` need not wait for.
_HOMES = {
    "Detections": "flowdet.types",
    "Frame": "flowdet.types",
    "TrackerConfig": "flowdet.tracking.online",
    "Video": "flowdet.video.reader",
    "VideoDetector": "flowdet.systems.detector",
    "VideoWriter": "flowdet.video.writer",
    "draw_detections": "flowdet.video.draw",
    "load": "flowdet.systems.load",
    "open_video": "flowdet.video.reader",
    "read_ahead": "flowdet.video.reader",
    "save_native": "flowdet.weights.native",
    "track": "flowdet.tracking.online",
    "weights_of": "flowdet.systems.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowdet' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
