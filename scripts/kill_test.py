"""Kills at random moments: what a run leaves is whole, and the same call again ends with the bytes of a run in peace.

    python scripts/kill_test.py --kills 50 --frames 20000

detect, evaluate, train and convert get SIGKILL or SIGTERM. `--frames` instead lets detect read a long video while its
memory is watched. Ends with 1 if something differs, is left behind or grows. Not for Windows.
"""

import argparse
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fuzz import flowdet_call, in_child, make_clip, make_data
from safetensors.torch import load_file

from flowdet import load, save_native

_SYSTEM = "single-nano"
_GROWTH = 60e6  # bytes, from a tenth of the frames to the end


@dataclass(frozen=True)
class Command:
    """A call, the files that it makes, and their content without what depends on the clock."""

    call: Callable[[], object]
    files: Sequence[str]
    content: Callable[[Path], object]


def _timeless(path: Path) -> object:
    return re.sub(rb'"(source_modified|seconds_per_frame|seconds)": [0-9.e+-]+', b"", path.read_bytes())


def _weights(path: Path) -> object:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def commands(inputs: Path) -> Mapping[str, Command]:
    """Returns what is killed."""
    data = inputs / "data.json"
    detect = ("detect", inputs / "clip.mp4", "--system", _SYSTEM, "--score", 0, "--backend", "torch", "--out", "out")
    evaluate = ("evaluate", _SYSTEM, "--data", data, "--backend", "torch", "--bootstrap", 20, "--out", "out")
    plan = ("--epochs", 2, "--batch", 2, "--warm-up-steps", 0, "--workers", 0, "--save-every", 1)
    train = ("train", _SYSTEM, "--data", data, "--out", "out", *plan)
    checkpoint = ("models", "convert", inputs / "w.safetensors", "out.safetensors", "--system", _SYSTEM)
    return {
        "detect": Command(flowdet_call(*detect), ("out/clip.json", "out/clip.mp4"), _timeless),
        "detect jsonl": Command(flowdet_call(*detect, "--results", "jsonl"), ("out/clip.jsonl",), _timeless),
        "evaluate": Command(flowdet_call(*evaluate), ("out/results.json",), Path.read_bytes),
        "train": Command(flowdet_call(*train), ("out/weights.safetensors",), _weights),
        "convert": Command(flowdet_call(*checkpoint), ("out.safetensors",), Path.read_bytes),
    }


def differences(command: Command, folder: Path, wanted: Mapping[str, object]) -> Iterator[str]:
    """Yields what a folder lacks of a run in peace, and what it has too much."""
    for name, content in wanted.items():
        if not (folder / name).exists():
            yield f"{name} is missing"
        elif command.content(folder / name) != content:
            yield f"{name} differs"
    left = [path.name for path in folder.rglob("*") if path.name.endswith((".part", ".lock"))]
    if left:
        yield f"left behind: {', '.join(left)}"


def kill_often(kills: int, seed: int, inputs: Path, scratch: Path) -> int:
    """Kills and runs again; returns the number of kills after which something was wrong."""
    rng = random.Random(seed)
    known: dict[str, tuple[dict[str, object], float]] = {}
    table = commands(inputs)
    for name, command in table.items():
        folder = scratch / "peace"
        folder.mkdir()
        ended = in_child(command.call, folder, seconds=300)
        if ended.code:
            raise SystemExit(f"{name} fails in peace: {ended}")
        known[name] = {each: command.content(folder / each) for each in command.files}, ended.seconds
        shutil.rmtree(folder)
    failed = 0
    for number in range(kills):
        name = list(table)[number % len(table)]
        command, (wanted, seconds) = table[name], known[name]
        how = rng.choice((signal.SIGKILL, signal.SIGTERM))
        moment = rng.uniform(0, 1.05) * seconds
        folder = scratch / f"kill-{number}"
        folder.mkdir()
        killed = in_child(command.call, folder, seconds=300, end=(moment, how))
        faults = []
        expected = {0, -how} if how == signal.SIGKILL else {0, 143, -how}
        if killed.code not in expected or "Traceback" in killed.err:
            faults.append(f"it ended with {killed.code}: {killed.err[-500:]}")
        if how == signal.SIGTERM and list(folder.rglob("*.part")):
            faults.append("SIGTERM left a partial file")
        again = in_child(command.call, folder, seconds=300)
        if again.code:
            faults.append(f"the same call again ended with {again.code}: {again.err[-500:]}")
        faults += differences(command, folder, wanted)
        if faults:
            failed += 1
            sys.stdout.write(f"{number}, {name}, {how.name} after {moment:.2f} s: {'; '.join(faults)}\n")
        shutil.rmtree(folder)
    sys.stdout.write(f"{kills} kills of seed {seed}, {failed} failed\n")
    return failed


def watch_memory(frames: int, folder: Path) -> int:
    """Lets detect read a video of so many frames; returns 1 if it failed or its memory grew."""
    make_clip(folder / "long.mp4", "libx264", frames=frames, size=(32, 48))
    marks: list[tuple[float, int]] = []
    call = flowdet_call("detect", "long.mp4", "--system", _SYSTEM, "--backend", "torch", "--results", "jsonl")
    running = threading.Event()
    ended = []

    def run() -> None:
        ended.append(in_child(call, folder, seconds=3600))
        running.set()

    thread = threading.Thread(target=run)
    thread.start()
    lines = folder / "detections"
    while not running.wait(1.0):
        done = sum(path.stat().st_size for path in lines.glob("*long.jsonl*")) if lines.exists() else 0
        marks.append((done, _resident_of_child()))
    thread.join()
    settled = [memory for done, memory in marks if done > marks[-1][0] / 10] or [0]
    growth = max(settled[len(settled) // 2 :]) - settled[0]
    sys.stdout.write(
        f"{frames} frames in {ended[0].seconds:.0f} s, exit code {ended[0].code}: {ended[0].out[-200:]}"
        f"resident {settled[0] / 1e6:.0f} MB after a tenth, at most {max(settled) / 1e6:.0f} MB\n"
    )
    return int(ended[0].code != 0 or growth > _GROWTH)


def _resident_of_child() -> int:
    """The resident bytes of the one child of this process."""
    children = Path("/proc/self/task").glob("*/children")
    numbers = [number for file in children for number in file.read_text().split()]
    try:
        return int(Path(f"/proc/{numbers[0]}/statm").read_text().split()[1]) * 4096
    except (IndexError, OSError):
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=0, help="also read a video of so many frames; 20000 take minutes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flowdet-kill-") as temporary:
        inputs = Path(temporary) / "inputs"
        inputs.mkdir()
        make_clip(inputs / "clip.mp4", "libx264")
        make_data(inputs)
        save_native(load(_SYSTEM), inputs / "w.safetensors")
        failed = kill_often(options.kills, options.seed, inputs, Path(temporary))
        if options.frames:
            failed += watch_memory(options.frames, Path(temporary))
    sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
