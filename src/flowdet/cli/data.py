"""flowdet data: convert, import and check annotated data."""

import os
from json import dumps as to_json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flowdet.cli import console
from flowdet.cli.console import progress_bar
from flowdet.cli.data_report import print_report, print_written
from flowdet.data.check import check as check_file
from flowdet.data.cvat import import_cvat as run_import_cvat
from flowdet.data.ilsvrc import LIST_FILES, find_lists
from flowdet.data.ilsvrc import convert_ilsvrc as convert_listed
from flowdet.data.label_studio import import_label_studio as run_import_label_studio
from flowdet.data.mot import import_mot as run_import_mot
from flowdet.data.yolo import import_yolo as run_import_yolo
from flowdet.errors import ConfigError, DataError, counted
from flowdet.files import write_text

__all__ = ["data"]

data = App(name="data", help="Convert, import and check annotated videos and pictures.")

# Loaded when it is called, for it needs PyTorch.
data.command(
    "flowdet.cli.synthesize:synthesize", help="Make the synthetic benchmark: clips with boxes, tracks and known flow."
)

data.command("flowdet.cli.data_export:export", help="Write detections or annotations in the format of another tool.")

Names = Annotated[tuple[str, ...], Parameter(negative=())]


@data.command
def convert_ilsvrc(
    root: Path,
    *,
    out: Path | None = None,
    processes: int | None = None,
    strict: bool = False,
    shifted_training_frames: bool = False,
) -> int:
    """Convert ImageNet VID and DET to CocoVID.

    Converts VID train, VID val and DET if their lists are in ROOT/Lists or ROOT/ImageSets: VID_train_15frames.txt,
    VID_val_videos.txt, DET_train_30classes.txt.

    Args:
        root: Folder with Annotations and Data as they come from ImageNet, and the lists.
        out: Folder of the files. [default: ROOT/annotations]
        processes: Number of processes that read XML files. [default: one for each core, at most 8]
        strict: Anything damaged or missing is an error, and that file is not written.
        shifted_training_frames: Subtract 1 from the frame numbers of VID_train_15frames.txt, as mmtracking does, to get
            the files that it trains on. The numbers count from 0, so this marks the frame before each that is meant.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"the number of processes is 1 or more, not {processes}")
    sets = find_lists(root, shifted_training_frames=shifted_training_frames)
    for name, file_name in LIST_FILES.items():
        found = next((one for one in sets if one.name == name), None)
        if found:
            console.out.print(f"{found.list_file}: {counted(found.frame_count, 'frame')}, to be {name}.json")
        else:
            console.out.print(f"{file_name}: not found, so there will be no {name}.json")
    failures = 0
    for one in sets:
        try:
            with progress_bar(one.name, one.frame_count, "frames") as progress:
                # A few frames are read before other processes have started.
                workers = 1 if one.frame_count < 10_000 else processes or min(8, os.cpu_count() or 1)
                folder = out or root / "annotations"
                written = convert_listed(one, folder, processes=workers, strict=strict, progress=progress)
            print_written(written, one.pictures)
        except DataError as error:
            failures += 1
            console.complain(error)
    return 1 if failures else 0


@data.command
def import_yolo(
    root: Path,
    *,
    out: Path,
    labels: Path | None = None,
    names: Names = (),
    stills: bool = False,
    strict: bool = False,
) -> None:
    """Import folders of frames with YOLO labels.

    Each folder with pictures is a video, its frames in natural order. A line of a label file is "class cx cy width
    height", as shares of the picture, and may end with a track number. Label files lie beside the pictures or in a
    folder labels that mirrors the folder images.

    Args:
        root: Folder with the folders of frames, and data.yaml, classes.txt or obj.names with the class names.
        out: The .json file to write; its file names lie below ROOT.
        labels: Folder of the label files, if it is another one.
        names: Class names in place of those of a file; repeat the option or separate them with commas.
        stills: The pictures are not frames of videos.
        strict: Anything that cannot be read is an error, and nothing is written.
    """
    with progress_bar("reading", None, "pictures") as progress:
        written = run_import_yolo(
            root, out, labels=labels, names=_split(names), stills=stills, strict=strict, progress=progress
        )
    print_written(written, root)


@data.command
def import_mot(root: Path, *, out: Path, classes: Names = (), only: str = "*", strict: bool = False) -> None:
    """Import MOT-challenge folders, each with img1, gt/gt.txt and seqinfo.ini.

    Rows marked as ignored are left out and counted. The classes are those of gt/labels.txt, or else those of MOT17; the
    file gets the classes that occur.

    Args:
        root: One such folder, or a folder of them.
        out: The .json file to write; its file names lie below ROOT.
        classes: Names of the classes 1, 2, ..., all of which the file gets.
        only: Pattern of the folders to take; MOT17 has each video three times, "*-FRCNN" takes it once.
        strict: Anything that cannot be read is an error, and nothing is written.
    """
    with progress_bar("reading", None, "folders") as progress:
        written = run_import_mot(root, out, classes=_split(classes), only=only, strict=strict, progress=progress)
    print_written(written, root)


@data.command
def import_cvat(
    *files: Path, out: Path, images: Path | None = None, frames: str | None = None, strict: bool = False
) -> None:
    """Import XML files of CVAT, for video or for images, version 1.1.

    A file about a video becomes a video, other pictures become stills. The frames of a video are pictures whose names
    hold the frame's number, as CVAT exports them, or as `ffmpeg -i clip.mp4 -start_number 0 images/frame_%06d.png`
    makes them.

    Args:
        files: The XML files.
        out: The .json file to write.
        images: Folder that its file names lie below. [default: that of the XML files]
        frames: Names of the frames of videos below that folder, with "%06d" for the number and "{name}" for the video's
            name. [default: images/frame_%06d.png, or with another suffix if it is found]
        strict: Anything that cannot be read is an error, and nothing is written.
    """
    with progress_bar("reading", len(files), "files") as progress:
        written = run_import_cvat(files, out, images=images, frames=frames, strict=strict, progress=progress)
    print_written(written, images)


@data.command
def import_label_studio(
    *files: Path, out: Path, images: Path | None = None, frames: str | None = None, strict: bool = False
) -> None:
    """Import JSON files of Label Studio: tasks about videos with rectangles.

    Each task becomes a video. Of a task the newest annotation counts, or else the newest prediction.

    Args:
        files: The files, exported as "JSON".
        out: The .json file to write.
        images: Folder that its file names lie below. [default: that of the first file]
        frames: Names of the frames of videos below that folder, with "%06d" for the number, from 0, and "{name}" for
            the video's name. [default: images/{name}/%06d.jpg, or .png if it is found]
        strict: Anything that cannot be read is an error, and nothing is written.
    """
    with progress_bar("reading", None, "tasks") as progress:
        written = run_import_label_studio(files, out, images=images, frames=frames, strict=strict, progress=progress)
    print_written(written, images)


@data.command
def check(
    file: Path,
    *,
    images: Path | None = None,
    decode: Annotated[bool, Parameter(negative=())] = False,
    all_: Annotated[bool, Parameter("--all", negative=())] = False,
    json: Path | None = None,
) -> int:
    """Check a CocoVID or COCO file, and print statistics of the data set.

    The exit code is 1 if there is an error, which keeps the file from being used.

    Args:
        file: The .json file.
        images: Folder of its pictures, whose sizes are compared. [default: that of the file, if pictures are there]
        decode: Decode every picture to find damaged ones; otherwise only their headers are read.
        all_: Print every error and warning, not only the first of a kind.
        json: Also write everything found to this file.
    """
    with progress_bar("reading", None, "pictures") as progress:
        report = check_file(file, images, decode=decode, progress=progress)
    print_report(report, show_all=all_)
    if json:
        write_text(json, to_json(report.to_json(), indent=1, allow_nan=False) + "\n", error=DataError)
    return 1 if report.problems else 0


def _split(names: tuple[str, ...]) -> list[str]:
    return [name.strip() for part in names for name in part.split(",")]
