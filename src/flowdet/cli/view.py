"""flowdet view: results as a page to look at."""

import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowdet.cli import console
from flowdet.errors import ConfigError, counted
from flowdet.viewer.clips import read_clips
from flowdet.viewer.page import Media, write_page

__all__ = ["view"]

Paths = Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)]


def view(
    *results: Path,
    source: Paths = (),
    truth: Path | None = None,
    images: Path | None = None,
    score: float = 0.05,
    media: Media = "link",
    out: Path | None = None,
    show: Annotated[bool, Parameter(name="--open", negative=())] = False,
) -> int:
    """Make a page that shows results: open it by a double click, it needs no server and no network.

    Results of the same video become layers of one clip, for instance those of two systems.

    Args:
        results: Files that `flowdet detect` wrote, or folders of them; with --truth also the results.json of
            `flowdet evaluate`.
        source: The video or the folder of pictures, if it is not where the results say; repeat the option for several.
        truth: CocoVID or COCO file: its annotations become a layer, and the worst frames a list.
        images: Folder of the images of --truth, for a results.json. [default: the folder of --truth]
        score: Leave out detections below this score.
        media: link refers to the video where it is, copy puts it beside the page, convert does so in H.264 (for
            videos that browsers do not play), embed puts it into the page.
        out: The page to write. [default: beside the first result]
        show: Open the page in the browser.
    """
    if not results:
        raise ConfigError("name at least one result: `flowdet view detections/clip.json`")
    if not 0 <= score <= 1:
        raise ConfigError(f"a score lies between 0 and 1, not at {score}")
    if images and not truth:
        raise ConfigError("--images is the folder of the images of --truth; name both")
    clips = read_clips(results, truth=truth, score=score)
    page = out or (results[0] / "view.html" if results[0].is_dir() else results[0].with_suffix(".html"))
    for name in write_page(page, clips, source, media, images=images or (truth.parent if truth else None)):
        console.err.print(
            f"the source of {name} is not where its results say: the page asks for it; or name it with --source",
            style="yellow",
        )
    boxes = sum(len(layer.frames) for clip in clips for layer in clip.layers if not layer.is_truth)
    frames = sum(len(clip.frames) for clip in clips)
    console.out.print(f"{page}: {counted(boxes, 'detection')} in {counted(frames, 'frame')}")
    if show:
        webbrowser.open(page.resolve().as_uri())
    return 0
