"""Object detection in video: Deep Feature Flow and Flow-Guided Feature Aggregation.

model = flowdet.load("fgfa-lite")
for detections in model.detect(flowdet.open_video("clip.mp4"), score=0.5):
    print(detections.frame_index, detections.names, detections.boxes)
"""

from importlib.metadata import version

from flowdet.errors import CheckpointError, ConfigError, DownloadError, FlowdetError, VideoError
from flowdet.loading import load
from flowdet.system import VideoDetector
from flowdet.types import Detections, Frame
from flowdet.video.draw import draw_detections
from flowdet.video.reader import Video, open_video, read_ahead
from flowdet.video.writer import VideoWriter

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Detections",
    "DownloadError",
    "FlowdetError",
    "Frame",
    "Video",
    "VideoDetector",
    "VideoError",
    "VideoWriter",
    "__version__",
    "draw_detections",
    "load",
    "open_video",
    "read_ahead",
]

__version__ = version("flowdet")
