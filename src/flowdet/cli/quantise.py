"""flowdet quantise: the parts of a system in int8."""

from itertools import islice
from pathlib import Path

from flowdet.backends.int8 import Calibration
from flowdet.backends.int8 import quantise as make
from flowdet.cli import console
from flowdet.cli.arguments import DEFAULTS, Options, for_making
from flowdet.cli.console import status
from flowdet.errors import ConfigError, counted
from flowdet.systems.load import load_system
from flowdet.types import Frame
from flowdet.video.reader import open_video

__all__ = ["quantise"]


def quantise(
    *clips: str,
    out: Path,
    system: str | None = None,
    options: Options = DEFAULTS,
    frames: int = 60,
    every: int = 3,
    tolerance: float = 0.1,
) -> int:
    """Make the parts of a system int8, calibrated on your clips.

    The folder is then a backend: `flowdet detect clip.mp4 --backend FOLDER`. It is for frames of one size.

    Args:
        clips: Videos or folders of frames like those that the system will see, all of one size.
        out: The folder to write.
        system: One of `flowdet models`; may be left out for a native weight file.
        options: Which weights, and in which form.
        frames: Take this many frames, equally many of each clip.
        every: Take every Nth frame.
        tolerance: Largest error of a part's output, relative to the output; layers stay in float32 to meet it.
    """
    if not clips:
        raise ConfigError("name at least one clip to calibrate on: `flowdet quantise clip.mp4 --out int8`")
    if frames < 1 or every < 1 or not tolerance > 0:
        raise ConfigError("--frames and --every are whole numbers from 1 on, and --tolerance is above 0")
    detector = load_system(for_making(options, system))
    each = -(-frames // len(clips))
    calibration = Calibration(
        tuple(Path(clip).name for clip in clips), tuple(_frames(clip, each, every) for clip in clips)
    )
    with status() as tell:
        made = make(detector, calibration, out, tolerance=tolerance, tell=tell)
    height, width = made.input_size
    for name, part in made.parts.items():
        kept = f", {counted(len(part.float_layers), 'layer')} in float32" if part.float_layers else ""
        console.out.print(f"{name}: error {part.error:.3f}{kept} (all in int8: {part.error_all_int8:.3f})")
    for name, error in made.errors_given_up.items():
        console.out.print(f"{name}: stays in float32, for its error in int8 is {error:.3f}", style="yellow")
    console.out.print(f"{out} is for network inputs of {height}x{width}; use it with --backend {out}")
    return 0


def _frames(clip: str, count: int, every: int) -> tuple[Frame, ...]:
    with open_video(clip, every=every) as video:
        return tuple(islice(video, count))
