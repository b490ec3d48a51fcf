"""Damaged inputs through the command line: no traceback, one sentence, nothing left behind, no frame lost unsaid.

    python scripts/fuzz.py --minutes 60 --keep found

Each case is a file or a call of flowdet, changed at random; case N of a seed is always the same. It runs in a forked
child with limits of time, memory and disk. What fails is kept, and the script ends with 1. Not for Windows.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from PIL import Image

import flowdet.cli.benchmark
import flowdet.cli.data
import flowdet.cli.detect
import flowdet.cli.evaluate
import flowdet.cli.models
import flowdet.cli.train  # noqa: F401  (loaded once, before the forks)
from flowdet import load, open_video, save_native
from flowdet.cli import main as run_flowdet
from flowdet.errors import FlowdetError
from flowdet.video.containers import demuxed, video_stream

FRAMES = 40
_SECONDS = 60
_MEMORY = 3_000_000_000
_FILE_SIZE = 300_000_000
_SYSTEM = "single-nano"
_CLIPS = (
    ("a.mp4", "libx264", 2),
    ("b.mkv", "libx264", 2),
    ("c.webm", "libvpx", 0),
    ("d.avi", "mpeg4", 2),
    ("e.ts", "libx264", 2),
    ("f.mpg", "mpeg2video", 2),
    ("g.gif", "gif", 0),
)
_NUMBERS = (
    "-1",
    "0",
    "1e23",
    "1e309",
    "-1e308",
    "NaN",
    "99999999999999999999",
    "2147483648",
    "0.5",
    '""',
    "null",
    "true",
)
_WORDS = ("", "\ufeff", "\x1b[31m", "\ud800", "汽车", "../../x", "a" * 300, "%s%n", "\x00", "'")


# ---------------------------------------------------------------- the child


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: the signal), and what it wrote."""

    code: int
    out: str
    err: str
    seconds: float


def in_child(
    work: Callable[[], object],
    folder: Path,
    *,
    seconds: float = _SECONDS,
    end: tuple[float, signal.Signals] | None = None,
) -> Ended:
    """Runs `work` in a forked child, its output in files beside its folder.

    Args:
        work: Its exit code is that of SystemExit, 0 if it returns, 70 after a traceback.
        folder: Where it runs.
        seconds: When it is killed.
        end: After how many seconds it gets which signal.
    """
    out, err = folder.with_suffix(".out"), folder.with_suffix(".err")
    for path in (out, err):
        path.touch()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(_child(work, folder, out, err))
    status = None
    while status is None:
        found, ended = os.waitpid(child, os.WNOHANG)
        passed = time.monotonic() - began
        if found:
            status = ended
        elif passed > seconds:
            os.kill(child, signal.SIGKILL)
        elif end and passed > end[0]:
            os.kill(child, end[1])
            end = None
        else:
            time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    read = (path.read_text(errors="replace") for path in (out, err))
    return Ended(code, *read, time.monotonic() - began)


def _child(work: Callable[[], object], folder: Path, out: Path, err: Path) -> int:
    os.setsid()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_SIZE,) * 2)
    code: Any = 0
    try:
        work()
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        code = 70
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else 1


def flowdet_call(*words: object) -> Callable[[], None]:
    """Returns a call of the command line."""
    return lambda: run_flowdet(list(map(str, words)))


# ---------------------------------------------------------------- the sound inputs


def make_clip(
    path: Path, codec: str, frames: int = FRAMES, b_frames: int = 0, size: tuple[int, int] = (48, 64)
) -> None:
    """Writes pictures that all differ."""
    with av.open(str(path), "w") as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=25))
        stream.height, stream.width = size
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        stream.codec_context.gop_size = 10
        stream.codec_context.max_b_frames = b_frames
        for index in range(frames):
            grey = np.full((*size, 3), 8 + 4 * (index % 60), np.uint8)
            grey[index % size[0], :, 0] = 255
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make_data(folder: Path) -> Path:
    """Writes a data set of one video of 4 frames; returns its CocoVID file."""
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(1, 5):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        entry: dict[str, Any] = {"id": number, "file_name": f"{number}.png", "height": 48, "width": 64}
        images.append(entry | {"video_id": 1, "frame_id": number - 1})
        box = {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [4, 6, 20, 10]}
        boxes.append(box | {"instance_id": 0, "area": 200, "iscrowd": 0})
    document = {
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "videos": [{"id": 1, "name": "a"}],
        "images": images,
        "annotations": boxes,
    }
    path = folder / "data.json"
    path.write_text(json.dumps(document))
    return path


def _make_annotations(folder: Path) -> None:
    """MOT, YOLO, CVAT and ILSVRC, each of pictures of the data set."""
    picture = folder / "data" / "1.png"
    for name in (
        "mot/img1/000001.png",
        "mot/img1/000002.png",
        "yolo/v/1.png",
        "yolo/v/2.png",
        "cvat/images/frame_000000.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / name)
    (folder / "mot" / "gt").mkdir()
    (folder / "mot" / "gt" / "gt.txt").write_text(
        "1,2,11,21,30,20,1,1,0.5\n2,2,12.5,21,30,20,1,1,1\n1,5,1,1,10,10,0,7,1\n"
    )
    (folder / "mot" / "seqinfo.ini").write_text(
        "[Sequence]\nname=x\nimDir=img1\nseqLength=2\nimWidth=64\nimHeight=48\n"
    )
    (folder / "yolo" / "v" / "1.txt").write_text("1 0.5 0.5 0.25 0.5 7\n0 0.1 0.1 0.2 0.2\n")
    (folder / "yolo" / "data.yaml").write_text("train: images # all\nnc: 2\nnames:\n  0: person\n  1: 'dog'\n")
    size = "<original_size><width>64</width><height>48</height></original_size>"
    labels = "<labels><label><name>person</name></label><label><name>dog</name></label></labels>"
    box = '<box frame="0" outside="0" occluded="0" keyframe="1" xtl="1" ytl="2" xbr="30" ybr="40"/>'
    (folder / "cvat" / "a.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<annotations><meta><task><name>clip</name><size>3</size>{labels}{size}</task></meta>"
        f'<track id="0" label="dog" source="manual">{box}</track></annotations>'
    )
    root = folder / "ilsvrc"
    for part in ("Annotations", "Data"):
        (root / part / "VID" / "val" / "v").mkdir(parents=True)
    (root / "Lists").mkdir()
    (root / "Lists" / "VID_val_videos.txt").write_text("val/v 1 0 2\n")
    for number in range(2):
        (root / "Annotations" / "VID" / "val" / "v" / f"{number:06d}.xml").write_text(
            "<annotation><size><width>64</width><height>48</height></size><object><trackid>0</trackid>"
            "<name>n02084071</name><bndbox><xmax>11</xmax><xmin>1</xmin><ymax>22</ymax><ymin>2</ymin></bndbox>"
            "</object></annotation>"
        )
        Image.open(picture).save(root / "Data" / "VID" / "val" / "v" / f"{number:06d}.JPEG", "JPEG")


@dataclass(frozen=True)
class Kind:
    """A kind of case: the folder of its inputs, the files that are damaged, and what is called.

    Attributes:
        folder: Copied for each case.
        targets: Patterns of the files, one of which is changed.
        work: Returns what the child does in the copy, from the changed file.
    """

    folder: str
    targets: Sequence[str]
    work: Callable[[Path], Callable[[], object]]


def make_inputs(folder: Path) -> dict[str, Kind]:
    """Writes sound inputs of each kind; returns the kinds."""
    for name in ("clips", "pictures", "data", "weights"):
        (folder / name).mkdir(parents=True)
    for name, codec, b_frames in _CLIPS:
        make_clip(folder / "clips" / name, codec, b_frames=b_frames)
    make_data(folder / "data")
    _make_annotations(folder)
    still = Image.open(folder / "data" / "1.png")
    for suffix in ("png", "jpg", "webp", "tif", "bmp", "gif"):
        still.save(folder / "pictures" / f"p.{suffix}")
    Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20).save(folder / "pictures" / "grey16.png")
    save_native(load(_SYSTEM), folder / "weights" / "w.safetensors")
    weights = {f"detector.backbone.layer{n}.weight": torch.rand(8, 8) for n in range(20)}
    torch.save({"meta": {"CLASSES": ("a", "b")}, "state_dict": weights}, folder / "weights" / "y.pth")
    for each in ("json", "jsonl"):
        call = flowdet_call("detect", folder / "clips" / "a.mp4", "--system", _SYSTEM, "--score", 0, "--results", each)
        (folder / each).mkdir()
        ended = in_child(call, folder / each)
        assert ended.code == 0, ended
        shutil.copy(folder / each / "detections" / f"a.{each}", folder / "data" / f"found.{each}")
    rows = [{"image_id": n, "category_id": 1, "bbox": [4, 6, 20, 10], "score": n / 5} for n in range(1, 5)]
    (folder / "data" / "results.json").write_text(json.dumps(rows))
    evaluate = (
        "evaluate",
        "--data",
        "data.json",
        "--bootstrap",
        20,
        "--protocol",
        "coco",
        "--protocol",
        "ilsvrc-motion",
    )
    detect = ("detect", "--system", _SYSTEM, "--out", "out", "--score", "0.1", "--backend", "torch")
    return {
        "video": Kind("clips", ("*",), lambda path: lambda: _read(path)),
        "annotated video": Kind("clips", ("*",), lambda path: flowdet_call(*detect, path.name)),
        "picture": Kind("pictures", ("*",), lambda path: flowdet_call(*detect, path.name)),
        "check": Kind("data", ("data.json", "*.png"), lambda _: flowdet_call("data", "check", "data.json", "--decode")),
        "annotation": Kind("data", ("data.json",), lambda _: flowdet_call(*evaluate, "--results", "results.json")),
        "results": Kind(
            "data", ("results.json", "found.*"), lambda path: flowdet_call(*evaluate, "--results", path.name)
        ),
        "mot": Kind("mot", ("*.txt", "*.ini"), lambda _: flowdet_call("data", "import-mot", ".", "--out", "o.json")),
        "yolo": Kind(
            "yolo", ("*.txt", "*.yaml"), lambda _: flowdet_call("data", "import-yolo", ".", "--out", "o.json")
        ),
        "cvat": Kind("cvat", ("*.xml",), lambda _: flowdet_call("data", "import-cvat", "a.xml", "--out", "o.json")),
        "ilsvrc": Kind("ilsvrc", ("*.xml", "*.txt"), lambda _: flowdet_call("data", "convert-ilsvrc", ".")),
        "native weights": Kind(
            "weights", ("*.safetensors",), lambda _: flowdet_call("models", "show", "w.safetensors")
        ),
        "pickled weights": Kind(
            "weights",
            ("*.pth",),
            lambda _: flowdet_call("models", "convert", "y.pth", "o.safetensors", "--system", "single-lite"),
        ),
    }


def _read(path: Path) -> None:
    """Reads a video as people do in Python; writes what came of it."""
    try:
        video = open_video(path)
        frames = [(frame.index, frame.time) for frame in video]
    except FlowdetError as error:
        sys.stderr.write(f"flowdet: {error}\n")
        raise SystemExit(1) from error
    hidden = 0
    with suppress(av.FFmpegError), av.open(str(path), metadata_errors="ignore") as container:
        stream = video_stream(container)
        for packet in demuxed(container, stream):
            is_vp8 = packet.size > 0 and stream.codec_context.name in ("vp8", "libvpx")
            hidden += packet.is_discard or (is_vp8 and not bytes(packet)[0] & 0x10)
    sys.stdout.write(json.dumps({"frames": frames, "problems": video.problems, "hidden": hidden}))


# ---------------------------------------------------------------- the damage


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Returns bytes with a few changes: of text also numbers, words, lines and encodings."""
    try:
        text = data.decode() if b"\x00" not in data[:1000] else None
    except UnicodeDecodeError:
        text = None
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if text is not None and rng.random() < 0.8:
            text = _damaged_text(text, rng)
            data = text.encode(errors="surrogatepass")
        else:
            data, text = _damaged_bytes(bytearray(data or b"x"), rng), None
    if text is not None and rng.random() < 0.05:
        data = text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), errors="replace")
    return data


def _damaged_bytes(data: bytearray, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    match rng.randrange(6):
        case 0:
            data[place] = rng.randrange(256)
        case 1:
            data[place : place + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(1, 64))
        case 2:
            del data[place : place + rng.randrange(1, 200)]
        case 3:
            data[place : place + 4] = rng.choice((b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00"))
        case 4:
            data[place:place] = data[place : place + rng.randrange(1, 500)]
        case _:
            if rng.random() < 0.3:
                del data[place:]
            data[:0] = b"" if rng.random() < 0.9 else b"\xef\xbb\xbf"
    return bytes(data)


def _damaged_text(text: str, rng: random.Random) -> str:
    numbers = list(re.finditer(r"-?\d+(\.\d+)?", text))
    words = list(re.finditer(r"[A-Za-z_]{2,}", text))
    match rng.randrange(4):
        case 0 | 1 if numbers:
            place, new = rng.choice(numbers), rng.choice(_NUMBERS)
        case 2 if words:
            place, new = rng.choice(words), rng.choice((*_WORDS, rng.choice(words)[0]))
        case _:
            lines = list(re.finditer(r"[^\n<>{},]+[\n<>{},]", text))
            if not lines:
                return text
            place = rng.choice(lines)
            new = rng.choice(("", 2 * place[0], rng.choice(lines)[0]))
    return text[: place.start()] + new + text[place.end() :]


def damaged_call(rng: random.Random) -> list[str]:
    """Returns a call with options that are odd."""
    numbers = {
        "detect": ("--score", "--every", "--start", "--end", "--processes", "--key-frame-interval"),
        "evaluate": ("--processes", "--threads", "--bootstrap", "--pictures"),
        "benchmark": ("--frames", "--threads", "--size"),
    }
    texts = (
        "--system",
        "--weights",
        "--device",
        "--variant",
        "--backend",
        "--classes",
        "--out",
        "--precision",
        "--flow",
    )
    command = rng.choice(("detect", "detect", "evaluate", "benchmark"))
    base = {
        "detect": ["detect", "a.mp4", "--system", rng.choice((_SYSTEM, "dff-nano")), "--end", "0.2"],
        "evaluate": ["evaluate", "--data", "data.json", "--results", "results.json"],
        "benchmark": ["benchmark", "no-such-system"],
    }[command]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.5:
            option, value = rng.choice(numbers[command]), rng.choice((*_NUMBERS, "1", "2"))
            value = "1" if option in ("--processes", "--threads") and len(value) > 1 and value.isdecimal() else value
        else:
            option, value = rng.choice(texts), rng.choice((*_WORDS, "cpu", "cuda", "torch", "bf16", "dis", "."))
        if "\x00" not in value and "\ud800" not in value:
            base += [option if rng.random() < 0.9 else option[:-1], value]
    return base


# ---------------------------------------------------------------- the judgement


def faults_of(kind: str, path: Path, ended: Ended, folder: Path) -> Iterator[str]:
    """Yields what is wrong with the end of a case."""
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        yield "it took too long" if name == "SIGKILL" and ended.seconds >= _SECONDS else f"it was ended by {name}"
    elif ended.code not in (0, 1, 2):
        yield f"exit code {ended.code}"
    if "Traceback" in ended.err + ended.out:
        yield "a traceback"
    if ended.code == 1 and kind != "check":
        told = [line for line in ended.err.splitlines() if line.startswith("flowdet: ")]
        if not told:
            yield "it failed without a message"
    yield from (f"a message of {len(line)} letters" for line in ended.err.splitlines() if len(line) > 1500)
    left = [each.name for each in folder.rglob("*") if each.name.endswith((".part", ".lock"))]
    if left:
        yield f"left behind: {', '.join(left)}"
    if kind == "video" and ended.code == 0:
        yield from _faults_of_frames(path, json.loads(ended.out))


def _faults_of_frames(path: Path, found: Mapping[str, Any]) -> Iterator[str]:
    indices, times = zip(*found["frames"], strict=True)
    if list(indices) != sorted(set(indices)):
        yield f"frame numbers do not rise: {indices}"
    if list(times) != sorted(times):
        yield f"times fall: {times}"
    wanted = FRAMES - found["hidden"]  # by the edit list of an mp4 or the head of a VP8 frame, damaged or not
    if len(indices) < wanted and not found["problems"]:
        yield f"frames lost in silence ({path.suffix}): {wanted - len(indices)}"
    if len(indices) > FRAMES + 20 and not found["problems"]:
        yield f"frames won in silence ({path.suffix}): {len(indices) - FRAMES}"


def check_sound(name: str, kind: Kind, inputs: Path, scratch: Path) -> None:
    """Checks that the undamaged input of a kind works, so that its cases test something."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(inputs / kind.folder, scratch)
    path = next(scratch.rglob(kind.targets[0]))
    ended = in_child(kind.work(path), scratch)
    if name == "pickled weights":
        return  # they fit no system: what is damaged is how they are stored
    if ended.code or list(faults_of(name, path, ended, scratch)):
        raise SystemExit(f"{name}: {path} does not work undamaged: {ended}")


def run_case(
    number: int, seed: int, inputs: Path, kinds: Mapping[str, Kind], scratch: Path
) -> tuple[str, list[str], Ended]:
    """Runs a case in `scratch`, which is made; returns its kind, its faults and its end."""
    rng = random.Random(f"{seed} {number}")
    name = rng.choice(["video", "video", "options", *kinds])
    if name == "options":
        shutil.copytree(inputs / "data", scratch)
        shutil.copy(inputs / "clips" / "a.mp4", scratch)
        call = damaged_call(rng)
        scratch.with_suffix(".txt").write_text(" ".join(call), errors="replace")
        ended = in_child(flowdet_call(*call), scratch)
        return name, list(faults_of(name, scratch, ended, scratch)), ended
    kind = kinds[name]
    shutil.copytree(inputs / kind.folder, scratch)
    path = rng.choice(sorted(path for pattern in kind.targets for path in scratch.rglob(pattern) if path.is_file()))
    path.write_bytes(damaged(path.read_bytes(), rng))
    scratch.with_suffix(".txt").write_text(f"{name}: {path.relative_to(scratch)}")
    ended = in_child(kind.work(path), scratch)
    return name, list(faults_of(name, path, ended, scratch)), ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs cases until the time is over; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--cases", type=int, default=1_000_000, help="the most cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of the cases that failed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    failed = 0
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="flowdet-fuzz-") as temporary:
        inputs = Path(temporary) / "inputs"
        kinds = make_inputs(inputs)
        for name, kind in kinds.items():
            check_sound(name, kind, inputs, Path(temporary) / "case-sound")
        for number in range(options.first, options.first + options.cases):
            if time.monotonic() > until:
                break
            scratch = Path(temporary) / f"case-{number}"
            kind, faults, ended = run_case(number, options.seed, inputs, kinds, scratch)
            counts[f"{kind}: {'read' if ended.code == 0 else 'refused'}"] += 1
            if faults:
                failed += 1
                what = scratch.with_suffix(".txt").read_text()
                sys.stdout.write(f"case {number} ({what}): {'; '.join(faults)}\n{ended.err[-600:]}\n")
                if options.keep:
                    shutil.copytree(scratch, options.keep / scratch.name, dirs_exist_ok=True)
            for each in Path(temporary).glob("case-*"):
                shutil.rmtree(each) if each.is_dir() else each.unlink()
    for name, count in sorted(counts.items()):
        sys.stdout.write(f"{name}: {count}\n")
    sys.stdout.write(f"{counts.total()} cases of seed {options.seed}, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
