"""ImageNet VID and DET as CocoVID: the same entries as mmtracking's converter writes."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from flowdet.data.ilsvrc_frames import Frame, FrameObject, FramesJob, read_frames
from flowdet.data.ilsvrc_lists import VID_CLASSES, ListedSet, ListedVideo
from flowdet.data.writing import CocoVIDWriter, Written, writing_cocovid

__all__ = ["convert_ilsvrc"]

_CATEGORY_IDS = {code: number for number, code in enumerate(VID_CLASSES, start=1)}
_OTHER_ID = len(VID_CLASSES) + 1
_STILLS_A_JOB = 1000
_JOBS_AHEAD = 4  # for each process, so that none waits and results do not pile up


def convert_ilsvrc(
    listed: ListedSet,
    out: Path,
    *,
    processes: int = 1,
    strict: bool = False,
    progress: Callable[[int], None] = lambda frames: None,
) -> Written:
    """Converts ImageNet VID train, VID val or DET to one CocoVID file.

    Frames without objects are kept. In videos, objects of a class outside the 30 are left out; in stills they get the
    class that stands for all others. A frame without XML file or picture, or with a damaged XML file, is left out
    and so is an object with a damaged box; neither changes the numbers of other frames, videos or images.
    The result does not depend on the number of processes.

    Args:
        listed: What to convert, from `find_lists`.
        out: Folder of the file.
        processes: How many read XML files at the same time. A script that asks for more than one needs
            `if __name__ == "__main__":`.
        strict: Anything damaged or missing is an error.
        progress: Told now and then how many frames are done.

    Raises:
        DataError: No frame is left, something is damaged or missing and `strict` is set, or `out` cannot be written to.
    """
    categories = listed.categories()
    videos = [
        {"id": number, "name": video.name, "vid_train_frames": list(video.training_frames)}
        for number, video in enumerate(listed.videos, start=1)
    ]
    path = out / f"{listed.name}.json"
    with (
        writing_cocovid(path, categories=categories, videos=videos, strict=strict) as writer,
        closing(_read_in_order(_jobs(listed), processes)) as batches,
    ):
        if not listed.pictures.is_dir():
            remark = f"frames whose pictures were not looked for, as there is no folder {listed.pictures}"
            writer.remark(remark, listed.frame_count)
        if listed.videos:
            _write_videos(listed.videos, batches, writer, progress)
        else:
            _write_stills(listed, batches, writer, progress)
    return writer.written()


def _jobs(listed: ListedSet) -> Iterator[FramesJob]:
    annotations = str(listed.annotations)
    pictures = str(listed.pictures) if listed.pictures.is_dir() else None
    for video in listed.videos:
        names = [f"{video.name}/{number:06d}" for number in range(video.frame_count)]
        yield FramesJob(annotations, pictures, names)
    for start in range(0, len(listed.stills), _STILLS_A_JOB):
        yield FramesJob(annotations, pictures, listed.stills[start : start + _STILLS_A_JOB])


def _read_in_order(jobs: Iterator[FramesJob], processes: int) -> Generator[list[Frame], None, None]:
    if processes == 1:
        yield from map(read_frames, jobs)
        return
    # Ctrl-C is for the process that writes; the others end with it.
    quiet = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=signal.signal, initargs=quiet) as pool:
        waiting: deque[Future[list[Frame]]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(read_frames, job))
                if len(waiting) > processes * _JOBS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_videos(
    videos: tuple[ListedVideo, ...],
    batches: Iterator[list[Frame]],
    writer: CocoVIDWriter,
    progress: Callable[[int], None],
) -> None:
    done = instances = 0
    for video_id, (video, frames) in enumerate(zip(videos, batches, strict=True), start=1):
        tracks: dict[str, int] = {}
        marked = set(video.training_frames)
        for number, frame in enumerate(frames):
            done += 1
            objects = []
            for found in _known(frame, writer):
                if found.track is not None and found.track not in tracks:
                    instances += 1
                    tracks[found.track] = instances
                objects.append(_video_object(found, tracks))
            if frame.size:
                numbers = {"id": done, "frame_id": number, "video_id": video_id, "is_vid_train_frame": number in marked}
                writer.image(_picture(f"{video.name}/{number:06d}", frame.size) | numbers, objects)
        progress(done)


def _write_stills(
    listed: ListedSet, batches: Iterator[list[Frame]], writer: CocoVIDWriter, progress: Callable[[int], None]
) -> None:
    done = 0
    repeated = len(listed.stills) - len(set(listed.stills))
    if repeated:
        writer.remark("pictures that the list names again, kept as often as it does", repeated)
    for frames in batches:
        for frame in frames:
            name = listed.stills[done]
            done += 1
            _take_down(frame, writer)
            if frame.size:
                numbers = {"id": done, "is_vid_train_frame": done <= listed.listed_stills}
                objects = [_object(found, _CATEGORY_IDS.get(found.code, _OTHER_ID)) for found in frame.objects]
                writer.image(_picture(name, frame.size) | numbers, objects)
        progress(done)


def _known(frame: Frame, writer: CocoVIDWriter) -> list[FrameObject]:
    """The frame's objects of the 30 classes; what else is there is counted."""
    _take_down(frame, writer)
    known = [found for found in frame.objects if found.code in _CATEGORY_IDS]
    if len(known) < len(frame.objects):
        writer.remark("objects of a class outside the 30, left out", len(frame.objects) - len(known))
    return known


def _take_down(frame: Frame, writer: CocoVIDWriter) -> None:
    for kind, sentence in frame.problems:
        writer.problem(kind, sentence)


def _picture(name: str, size: tuple[int, int]) -> dict[str, Any]:
    return {"file_name": f"{name}.JPEG", "height": size[1], "width": size[0]}


def _object(found: FrameObject, category: int) -> dict[str, Any]:
    area = found.box[2] * found.box[3]
    return {"category_id": category, "bbox": list(found.box), "area": area, "iscrowd": False}


def _video_object(found: FrameObject, tracks: dict[str, int]) -> dict[str, Any]:
    entry = _object(found, _CATEGORY_IDS[found.code])
    instance = {} if found.track is None else {"instance_id": tracks[found.track]}
    category = {"category_id": entry.pop("category_id")}
    return category | instance | entry | {"occluded": found.occluded, "generated": found.generated}
