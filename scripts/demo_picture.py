"""Draws docs/demo.jpg: what fgfa-nano finds in a blurred frame of the demo clip, without and with its neighbours."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import convolve1d

import flowdet
from flowdet.systems.load import weights_of
from flowdet.types import Frame
from flowdet.video.draw import font_of

ROOT = Path(__file__).parents[1]
SPOILED = (19, 20, 21)  # of 38
SHOWN = 20
CROP = (640, 340, 1280, 620)  # left, top, right, bottom


def spoil(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns the picture [h, w, 3] with a horizontal motion blur of 61 px and noise of 12 grey levels."""
    blurred = convolve1d(image.astype(np.float32), np.full(61, 1 / 61), axis=1, mode="nearest")
    return (blurred + rng.normal(0, 12, image.shape)).round().clip(0, 255).astype(np.uint8)


def main() -> None:
    """Detects in the same frames by one detector, with the weights of fgfa-nano."""
    rng = np.random.default_rng(0)
    frames = [
        Frame(each.index, each.time, spoil(each.image, rng)) if each.index in SPOILED else each
        for each in flowdet.open_video(ROOT / "demo" / "street.mp4")
    ]
    width, height = CROP[2] - CROP[0], CROP[3] - CROP[1]
    canvas = Image.new("RGB", (2 * width + 8, height), "white")
    weights = weights_of("fgfa-nano")
    for column, (name, system) in enumerate({"frame by frame": "single-nano", "fgfa-nano": "fgfa-nano"}.items()):
        found = list(flowdet.load(system, weights=weights).detect(frames, score=0.3))[SHOWN]
        drawn = Image.fromarray(flowdet.draw_detections(frames[SHOWN].image, found)).crop(CROP)
        pen = ImageDraw.Draw(drawn)
        pen.text((12, 8), f"{name}", font=font_of(28), fill="white", stroke_width=3, stroke_fill="black")
        canvas.paste(drawn, (column * (width + 8), 0))
        print(name, found.names, found.scores.round(2))  # noqa: T201
    canvas.save(ROOT / "docs" / "demo.jpg", quality=88)


if __name__ == "__main__":
    main()
