"""The page: one HTML file that shows clips with their boxes, without a server or a network."""

import base64
import hashlib
import json
import mimetypes
import os
import re
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import numpy as np

from flowdet.errors import ConfigError, VideoError
from flowdet.files import IMAGE_SUFFIXES, replacing, write_text
from flowdet.video.containers import open_container, video_stream
from flowdet.video.description import describe_source
from flowdet.video.images import image_files
from flowdet.video.reader import open_video
from flowdet.video.writer import VideoWriter
from flowdet.viewer.clips import Clip, Layer, frame_times

__all__ = [
    "LARGEST_EMBEDDED",
    "Media",
    "converted",
    "fill_template",
    "find_source",
    "media_of",
    "page_of",
    "unplayable",
    "video_media",
    "write_page",
]

Media = Literal["link", "copy", "convert", "embed"]

LARGEST_EMBEDDED: Final = 64 << 20
"""Bytes of videos and pictures that go into a page; browsers hold a data URI several times in memory."""

_PLAYABLE: Final = {".mp4": {"h264", "av1"}, ".m4v": {"h264"}, ".mov": {"h264"}, ".webm": {"vp8", "vp9", "av1"}}
_COLORS: Final = {"yuv420p", "yuvj420p"}
_SHOWN_PICTURES: Final = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def find_source(clip: Clip, sources: Sequence[Path], images: Path | None = None) -> Path | None:
    """Returns the video, picture or folder of a clip; None if it is not found.

    Args:
        clip: The clip.
        sources: The one of its name is taken; without it, what the results say.
        images: Folder of the images of the data set, for results on one.

    Raises:
        VideoError: One of the sources does not exist.
    """
    if _is_of_data_set(clip):
        return images
    named = {describe_source(source).name: source for source in sources}
    if clip.name in named or len(named) == 1:
        return named.get(clip.name) or sources[0]
    settings = clip.layers[0].settings
    text = str(settings.get("source", ""))
    for place in (Path(text), clip.path.parent / Path(text).name) if text else ():
        if place.is_dir():
            return place
        if place.is_file() and place.stat().st_size == settings.get("source_bytes", place.stat().st_size):
            return place
    return None


def media_of(clip: Clip, source: Path | None, page: Path, media: Media) -> dict[str, Any]:
    """Returns what the page shows below the boxes of a clip, as its script wants it.

    Args:
        clip: The clip.
        source: Its video, picture or folder of pictures; None: the page asks for it.
        page: The page to be written.
        media: "link" refers to the source where it is; "copy" and "convert" put a copy, or one in H.264, beside the
            page; "embed" puts it into the page.

    Raises:
        ConfigError: It is too large to embed, or a picture is missing.
        VideoError: Browsers cannot play it.
    """
    if source is None:
        return {"kind": "images" if _is_of_data_set(clip) else "video", "name": clip.name, "sources": []}
    pictures = _pictures(clip, source)
    if pictures is not None:
        return {"kind": "images", "name": clip.name, "sources": [_address(file, page, media) for file in pictures]}
    if media == "convert":
        source = converted(source, page.parent)
    elif reason := unplayable(source):
        raise VideoError(
            f"{source}: browsers do not play {reason}; --media convert writes an H.264 copy beside the page"
        )
    return {**video_media(source, clip.name), "sources": [_address(source, page, media)]}


def video_media(video: Path, name: str) -> dict[str, Any]:
    """Returns what `media_of` does for a video, but for its address.

    "start" is the second of its first frame on the browser's clock; results count from that frame on.

    Raises:
        VideoError: It cannot be read.
    """
    with open_container(f"file:{video}", str(video)) as container:
        stream = video_stream(container)
        start = float((stream.start_time or 0) * (stream.time_base or 0))
    return {"kind": "video", "name": name, "start": max(0.0, round(start, 6))}


def _is_of_data_set(clip: Clip) -> bool:
    return any(frame.time is None for frame in clip.frames.values())


def _pictures(clip: Clip, source: Path) -> list[Path] | None:
    """Returns the picture of each frame; None for a video."""
    if _is_of_data_set(clip):
        files = [source / (frame.file_name or "") for frame in clip.frames.values()]
    elif source.is_dir():
        found = dict(enumerate(image_files(source.iterdir())))
        files = [found.get(number, source / f"picture {number + 1}.jpg") for number in clip.frames]
    elif source.suffix.lower() in IMAGE_SUFFIXES:
        files = [source] * len(clip.frames)
    else:
        return None
    if odd := next((file for file in files if file.suffix.lower() not in _SHOWN_PICTURES), None):
        raise ConfigError(f"browsers do not show {odd.name}: save the pictures as JPEG or PNG")
    missing = next((file for file in files if not file.is_file()), None)
    if missing:
        raise ConfigError(f"{missing} does not exist; name the folder of the pictures of {clip.name} with --source")
    return files


def unplayable(file: Path) -> str | None:
    """Returns what browsers cannot play of a video; None if they can.

    Raises:
        VideoError: It cannot be read.
    """
    with open_container(f"file:{file}", str(file)) as container:
        stream = video_stream(container)
        codec, colors = stream.codec_context.name, stream.codec_context.pix_fmt
    if codec not in _PLAYABLE.get(file.suffix.lower(), set()):
        return f"{codec} in a file {file.suffix or 'without suffix'}"
    return None if colors in _COLORS else f"{codec} with the pixel format {colors}"


def converted(source: Path, folder: Path) -> Path:
    """Writes an H.264 copy of a video, without its sound, into a folder.

    Raises:
        VideoError: The video cannot be read, or the copy not be written.
    """
    target = folder / f"{source.stem}.h264.mp4"
    with open_video(source) as video:
        frames = iter(video)
        first = next(frames, None)
        if first is None:
            raise VideoError(f"{source} holds no frame")
        with VideoWriter(target, (first.image.shape[0], first.image.shape[1]), video.fps) as writer:
            writer.write(first.image, first.time)
            for frame in frames:
                writer.write(frame.image, frame.time)
    return target


def _address(file: Path, page: Path, media: Media) -> str:
    if media == "embed":
        if file.stat().st_size > LARGEST_EMBEDDED:
            raise ConfigError(
                f"{file} has {file.stat().st_size >> 20} MB, and at most {LARGEST_EMBEDDED >> 20} MB can be embedded; "
                "use --media link or copy"
            )
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    folder = page.parent.resolve()
    if media == "copy" and file.resolve().parent != folder:
        copy = folder / file.name
        if copy.exists() and copy.stat().st_size != file.stat().st_size:
            raise ConfigError(f"{copy} is another file than {file}; name another page with --out")
        if not copy.exists():
            with replacing(copy) as partial:
                shutil.copyfile(file, partial)
        file = copy
    try:
        relative = os.path.relpath(file.resolve(), folder)
    except ValueError:  # on another drive of Windows
        return file.resolve().as_uri()
    return quote(Path(relative).as_posix())


def page_of(clips: Sequence[Clip], media: Sequence[dict[str, Any]], *, home: str | None = None) -> str:
    """Returns the HTML of a page.

    Args:
        clips: What to show.
        media: For each clip what `media_of` returns.
        home: Where another clip can be chosen.
    """
    names = sorted({layer.class_names[label] for clip in clips for layer in clip.layers for label in layer.labels})
    label_of = {name: label for label, name in enumerate(names)}
    document = {
        "home": home,
        "classes": names,
        "clips": [_clip(clip, label_of, media_) for clip, media_ in zip(clips, media, strict=True)],
    }
    template = (files("flowdet.viewer") / "page.html").read_text(encoding="utf-8")
    return fill_template(template, "page.js", document)


def fill_template(template: str, script_name: str, document: dict[str, Any]) -> str:
    """Returns a page of this room with its style, a script, whose digest alone may run, and the data of the script."""
    style, script = ((files("flowdet.viewer") / name).read_text(encoding="utf-8") for name in ("page.css", script_name))
    # "<" as an escape: no name of a class can end the element that holds it.
    data = json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"STYLE": style, "SCRIPT": script, "DATA": data, "DIGEST": digest}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _clip(clip: Clip, label_of: dict[str, int], media: dict[str, Any]) -> dict[str, Any]:
    place = {number: position for position, number in enumerate(clip.frames)}
    sizes = {frame.size for frame in clip.frames.values()}
    height, width = max(sizes, default=(1, 1))
    return {
        "name": clip.name,
        "width": width,
        "height": height,
        "numbers": list(clip.frames),
        "times": [round(time, 6) for time in frame_times(clip)],
        "media": media,
        "layers": [_layer(layer, place, label_of) for layer in clip.layers],
        "worst": [
            {"layer": one.layer, "frame": place[one.number], "cost": one.cost, "missed": one.missed, "false": one.false}
            for one in clip.worst
        ],
    }


def _layer(layer: Layer, place: dict[int, int], label_of: dict[str, int]) -> dict[str, Any]:
    """Returns a layer with its boxes frame by frame: those of frame i are from starts[i] to starts[i + 1]."""
    frames = np.array([place[number] for number in layer.frames.tolist()], dtype=np.int64)
    order = np.lexsort((-layer.scores, frames))
    return {
        "name": layer.name,
        "truth": layer.is_truth,
        "settings": {str(key): _plain(value) for key, value in layer.settings.items()},
        "covered": [place[number] for number in layer.numbers.tolist()] if len(layer.numbers) < len(place) else None,
        "starts": np.searchsorted(frames[order], np.arange(len(place) + 1)).tolist(),
        "boxes": layer.boxes[order].round(1).ravel().tolist(),
        "scores": layer.scores[order].round(3).tolist(),
        "labels": [label_of[layer.class_names[label]] for label in layer.labels[order].tolist()],
        "tracks": layer.tracks[order].tolist() if (layer.tracks >= 0).any() else None,
    }


def _plain(value: object) -> object:
    """Returns a value that the JSON of browsers can hold: as text if it has a NaN or an infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


def write_page(
    page: Path, clips: Sequence[Clip], sources: Sequence[Path], media: Media, *, images: Path | None = None
) -> list[str]:
    """Writes a page, and with "copy" and "convert" the videos beside it.

    Args:
        page: The file to write.
        clips: What it shows.
        sources: See `find_source`.
        media: See `media_of`.
        images: See `find_source`.

    Returns:
        The names of the clips whose source was not found, for which the page asks.

    Raises:
        ConfigError: A file cannot be written, or what it should embed is too large.
        VideoError: Browsers cannot play a source.
    """
    found = [find_source(clip, sources, images) for clip in clips]
    shown = [media_of(clip, source, page, media) for clip, source in zip(clips, found, strict=True)]
    if media == "embed" and sum(len(one) for each in shown for one in each["sources"]) > LARGEST_EMBEDDED * 4 // 3 + 99:
        raise ConfigError(
            f"the clips together have more than the {LARGEST_EMBEDDED >> 20} MB that can be embedded; "
            "use --media link or copy"
        )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, page_of(clips, shown))
    return [clip.name for clip, source in zip(clips, found, strict=True) if source is None]
