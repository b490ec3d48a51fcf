"""flowdet data export: labels and detections in the formats of other tools."""

from pathlib import Path
from typing import Literal

from flowdet.cli import console
from flowdet.cli.console import progress_bar
from flowdet.data.cvat import export_cvat
from flowdet.data.label_studio import export_label_studio
from flowdet.data.labelled_sources import read_labels, write_pictures
from flowdet.data.labels import export_coco
from flowdet.data.mot import export_mot
from flowdet.data.yolo import export_yolo
from flowdet.errors import ConfigError, counted

__all__ = ["export"]


def export(
    *files: Path,
    to: Literal["coco", "cvat", "label-studio", "mot", "yolo", "yolo-tracks"],
    out: Path,
    images: Path | None = None,
    score: float = 0.0,
) -> None:
    """Write detections or annotations in the format of another tool.

    Args:
        files: Results of `flowdet detect` (.json or .jsonl), or CocoVID or COCO annotations.
        to: The format. yolo-tracks has the track as a sixth column, which other readers of YOLO may refuse.
        out: The folder to write, new or empty; a .json file for coco.
        images: Write the pictures, too: copies from this folder, or the frames of this video as JPEG.
        score: Leave out detections below this score.
    """
    if not files:
        raise ConfigError(
            "name at least one file: `flowdet data export detections/clip.json --to cvat --out clip-cvat`"
        )
    labels = read_labels(files, score=score)
    match to:
        case "coco":
            exported = export_coco(labels, out, has_pictures=images is not None)
        case "cvat":
            exported = export_cvat(labels, out)
        case "label-studio":
            exported = export_label_studio(labels, out)
        case "mot":
            exported = export_mot(labels, out)
        case _:
            exported = export_yolo(labels, out, tracks=to == "yolo-tracks")
    pictures = counted(len(exported.pictures), "picture")
    if images:
        with progress_bar("pictures", len(exported.pictures), "pictures") as progress:
            write_pictures(exported, images, progress)
    else:
        pictures += ", not copied: --images writes them"
    console.out.print(f"{exported.path}: {counted(exported.boxes, 'object')} in {pictures}")
    for remark, count in exported.remarks.items():
        console.out.print(f"{remark}: {count}")
