"""The synthetic benchmark on disk: JPEG frames and CocoVID annotations, the same bytes on every run."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flowdet.data.synthetic.assets import SPLITS, Split, load_assets
from flowdet.data.synthetic.clip import SyntheticClip, SyntheticFrame
from flowdet.data.synthetic.config import SPEC, SyntheticConfig
from flowdet.data.synthetic.scene import draw_scene
from flowdet.errors import ConfigError, DataError
from flowdet.files import replacing, write_text
from flowdet.work.jobs import Do, results
from flowdet.work.pool import spread

__all__ = ["CLIPS", "FRAMES", "SEED", "Benchmark", "clip_count", "synthesize"]

CLIPS: dict[Split, int] = {"train": 600, "val": 180}
FRAMES: dict[Split, int] = {"train": 24, "val": 34}
SEED = 2

_NOISE, _SCENE = 0, 1


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One split of the benchmark.

    Attributes:
        split: Selects the drawings and photographs.
        class_names: Names of the classes, in the order of the categories.
        seed: With the split and the number of the clip, it determines every random choice.
        config: The parameters.
    """

    split: Split
    class_names: tuple[str, ...]
    seed: int = SEED
    config: SyntheticConfig = field(default_factory=SyntheticConfig)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"the splits of the benchmark are {' and '.join(SPLITS)}, not {self.split!r}")
        missing = [name for name in self.class_names if name not in load_assets(self.split).drawings]
        if missing or not self.class_names:
            raise ConfigError(f"there is no drawing of {', '.join(missing) or 'no class at all'}")
        if self.seed < 0:
            raise ConfigError(f"a seed is 0 or more, not {self.seed}")

    def clip(self, number: int) -> SyntheticClip:
        """Returns a clip by its number from 0; the classes of the first objects take turns."""
        seed = self.seed, SPLITS.index(self.split), number
        rng = np.random.default_rng((*seed, _SCENE))
        scene = draw_scene(
            rng,
            load_assets(self.split),
            first=self.class_names[number % len(self.class_names)],
            class_names=self.class_names,
            length=FRAMES[self.split],
            config=self.config,
        )
        return SyntheticClip(scene, self.config, (*seed, _NOISE))


def clip_count(splits: Sequence[Split], clips: int | None = None) -> int:
    """Returns the number of clips of all splits together, `clips` in each or as many as the benchmark has."""
    return sum(clips or CLIPS[split] for split in splits)


def synthesize(
    out: Path,
    splits: Sequence[Split],
    class_names: Sequence[str],
    *,
    clips: int | None = None,
    seed: int = SEED,
    processes: int = 1,
    progress: Callable[[int], None] = lambda clips: None,
) -> list[Path]:
    """Writes splits to a folder; an interrupted run continues with the clips that are missing.

    Args:
        out: Gets `<split>/<clip>/<frame>.jpg` and `annotations/synthetic_<split>.json`.
        splits: The splits to write.
        class_names: Names of the classes, in the order of the categories.
        clips: Number of clips in each split; by default as many as the benchmark has.
        seed: Another seed makes other clips, which are not the benchmark's.
        processes: Number of processes; the result is the same for any number.
        progress: Called with the number of clips done.

    Returns:
        The annotation files.

    Raises:
        ConfigError: A number is out of range, or a class has no drawing.
        DataError: The folder cannot be written to, or holds clips of another version or seed.
    """
    if (clips is not None and clips < 1) or processes < 1:
        raise ConfigError("synthetic clips and processes are 1 or more")
    benchmarks = [Benchmark(split, tuple(class_names), seed) for split in splits]
    todo = [(benchmark, number) for benchmark in benchmarks for number in range(clips or CLIPS[benchmark.split])]
    try:
        records = _records(todo, out, processes, progress)
        return [_annotate(benchmark, records[benchmark.split], out) for benchmark in benchmarks]
    except OSError as error:
        raise DataError(f"{out} cannot be written to: {error.strerror}") from error


def _records(
    todo: Sequence[tuple[Benchmark, int]], out: Path, processes: int, progress: Callable[[int], None]
) -> dict[Split, list[dict[str, Any]]]:
    """Returns the record of each clip by split, in the order of the clips."""
    done: dict[tuple[Split, int], dict[str, Any]] = {}
    alone = (_written(out, job) for job in todo)
    shared = results(spread(todo, partial(_worker, out), processes=processes))
    with closing(alone if processes == 1 else shared) as ready:
        for split, number, record in ready:
            done[split, number] = record
            progress(len(done))
    by_split: dict[Split, list[dict[str, Any]]] = {}
    for benchmark, number in todo:
        by_split.setdefault(benchmark.split, []).append(done[benchmark.split, number])
    return by_split


def _worker(out: Path, number: int) -> Do[tuple[Benchmark, int], tuple[Split, int, dict[str, Any]]]:
    del number
    return lambda job, advance: _written(out, job)


def _written(out: Path, job: tuple[Benchmark, int]) -> tuple[Split, int, dict[str, Any]]:
    """Returns split, number and record of a clip, which is written unless it is there.

    Raises:
        DataError: The folder cannot be written to, or holds clips of another version or seed.
    """
    benchmark, number = job
    try:
        return benchmark.split, number, _write_clip(benchmark, number, out)
    except OSError as error:
        raise DataError(f"{out} cannot be written to: {error.strerror}") from error


def _write_clip(benchmark: Benchmark, number: int, out: Path) -> dict[str, Any]:
    """Writes the frames of one clip unless they are there; its record, which is written last, says so."""
    name = f"{benchmark.split}/synthetic_{benchmark.split}_{number:05d}"
    folder = out / name
    stamp = _stamp(benchmark)
    record_path = folder / "clip.json"
    if record_path.exists():
        record: dict[str, Any] = json.loads(record_path.read_bytes())
        if record["made_with"] != stamp:
            raise DataError(f"{folder} was made with {record['made_with']}, not with {stamp}; name another folder")
        return record
    folder.mkdir(parents=True, exist_ok=True)
    clip = benchmark.clip(number)
    frames = []
    for frame_number in range(FRAMES[benchmark.split]):
        frame = clip.frame(frame_number)
        path = folder / f"{frame_number:06d}.jpg"
        with replacing(path, error=DataError) as partial:
            partial.write_bytes(clip.jpeg(frame.image))
        frames.append({"file_name": f"{name}/{path.name}", **_frame_record(frame)})
    scene = clip.scene
    record = {
        "made_with": stamp,
        "name": name,
        "motion": round(scene.motion, 6),
        "pictures": list(scene.pictures),
        "frames": frames,
    }
    write_text(record_path, json.dumps(record), error=DataError)
    return record


def _stamp(benchmark: Benchmark) -> dict[str, Any]:
    """Returns what all clips of a folder must have in common."""
    return {"spec": SPEC, "seed": benchmark.seed, "classes": list(benchmark.class_names)}


def _frame_record(frame: SyntheticFrame) -> dict[str, Any]:
    return {
        "degradation": frame.degradation,
        "left_out": frame.left_out,
        "objects": [
            {
                "class_name": each.class_name,
                "instance_id": each.track,
                "bbox": [*each.box[:2], each.box[2] - each.box[0], each.box[3] - each.box[1]],
                "occluded": each.is_occluded,
                "visibility": round(each.visible, 4),
            }
            for each in frame.objects
        ],
    }


def _annotate(benchmark: Benchmark, records: Sequence[dict[str, Any]], out: Path) -> Path:
    """Writes the CocoVID file of a split and returns its path."""
    height, width = benchmark.config.size
    categories = {name: number for number, name in enumerate(benchmark.class_names, start=1)}
    videos: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video, record in enumerate(records, start=1):
        sizes = {"width": width, "height": height}
        videos.append({"id": video, "name": record["name"], **sizes, "motion": record["motion"]})
        for number, frame in enumerate(record["frames"]):
            image = len(images) + 1
            images.append(
                {
                    "id": image,
                    "file_name": frame["file_name"],
                    **sizes,
                    "video_id": video,
                    "frame_id": number,
                    "is_vid_train_frame": benchmark.split == "train",
                    "degraded": frame["degradation"] is not None,
                    "degradation": frame["degradation"],
                }
            )
            annotations += [
                {
                    "id": len(annotations) + count,
                    "video_id": video,
                    "image_id": image,
                    "category_id": categories[each["class_name"]],
                    "instance_id": each["instance_id"],
                    "bbox": each["bbox"],
                    "area": each["bbox"][2] * each["bbox"][3],
                    "iscrowd": False,
                    "occluded": each["occluded"],
                    "generated": False,
                    "visibility": each["visibility"],
                }
                for count, each in enumerate(frame["objects"], start=1)
            ]
    left_out = sum(frame["left_out"] for record in records for frame in record["frames"])
    info = {"description": SPEC, "split": benchmark.split, "seed": benchmark.seed, "left_out_objects": left_out}
    document = {
        "info": {**info, "clips": len(records), "parameters": asdict(benchmark.config)},
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "videos": videos,
        "images": images,
        "annotations": annotations,
    }
    path = out / "annotations" / f"synthetic_{benchmark.split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document), error=DataError)
    return path
