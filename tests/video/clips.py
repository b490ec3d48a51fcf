"""Small clips made on the spot, and ways to damage them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

Image = NDArray[np.uint8]

# Top left, top right, bottom left, bottom right of every test picture.
CORNERS = ((220, 40, 40), (40, 220, 40), (40, 40, 220), (230, 230, 230))


def quadrants(size: tuple[int, int] = (48, 64)) -> Image:
    """A picture that shows how it was turned."""
    height, width = size
    image = np.empty((height, width, 3), np.uint8)
    for corner, color in enumerate(CORNERS):
        row, column = divmod(corner, 2)
        rows = slice(0, height // 2) if row == 0 else slice(height // 2, height)
        columns = slice(0, width // 2) if column == 0 else slice(width // 2, width)
        image[rows, columns] = color
    return image


def grey(index: int, size: tuple[int, int] = (48, 64)) -> Image:
    """A picture that shows its number, from 0 to 60."""
    return np.full((*size, 3), 8 + 4 * index, np.uint8)


def number_of(image: Image) -> int:
    """The number that `grey` was given."""
    return round((float(image.mean()) - 8) / 4)


def noise(count: int, size: tuple[int, int] = (48, 64)) -> Iterator[Image]:
    """Pictures that compress badly, so that a file has a length worth cutting."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield generator.integers(0, 255, (*size, 3), dtype=np.uint8)


def make_clip(
    path: Path,
    images: Sequence[Image] | Iterator[Image],
    *,
    codec: str = "libx264",
    times: Sequence[float] | None = None,
    fps: int = 25,
    key_every: int = 10,
    b_frames: int = 0,
    options: dict[str, str] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Encodes pictures; `times` are seconds, by default regular."""
    ticks = 1000 if times is not None else fps
    with av.open(str(path), "w", options=options or {}) as container:
        quality = {"crf": "10", "sc_threshold": "0", "preset": "superfast"} if codec == "libx264" else {}
        stream: VideoStream | None = None
        for index, image in enumerate(images):
            if stream is None:
                stream = cast("VideoStream", container.add_stream(codec, rate=fps, options=quality))
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.bit_rate = 4_000_000
                stream.codec_context.time_base = Fraction(1, ticks)
                if pixel_aspect:
                    stream.codec_context.sample_aspect_ratio = pixel_aspect
                stream.codec_context.gop_size = key_every
                stream.codec_context.max_b_frames = b_frames
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round(times[index] * ticks) if times is not None else index
            frame.time_base = Fraction(1, ticks)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return path


def set_display_matrix(path: Path, terms: tuple[int, int, int, int]) -> None:
    """Writes (a, b, c, d) into the track header of an mp4."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = (term * 65536 for term in terms)
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4")
    content[start : start + 36] = matrix.tobytes()
    path.write_bytes(content)


def damage_packets(path: Path, numbers: Sequence[int], *, kept: float = 0.0) -> None:
    """Overwrites the packets with these numbers, in the order of storage, but for a first share that is kept."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for position, size in (places[number] for number in numbers):
        assert position is not None
        start = max(0 if path.suffix == ".mp4" else 8, int(kept * size))  # 8 bytes may belong to the container
        content[position + start : position + size] = b"\xff" * max(0, size - start)
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    """Keeps only the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
