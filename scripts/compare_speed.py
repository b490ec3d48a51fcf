"""Compares the speed of flowdet with that of mmtracking 0.14, side by side in alternation.

    python scripts/compare_speed.py dff-r50 fgfa-r50 --peer PYTHON FOLDER --json speed.json
    python scripts/compare_speed.py selsa-r50 troia-r50 --rows torch optimised --peer PYTHON FOLDER --json speed.json

PYTHON is the interpreter of an environment with mmtracking, FOLDER holds its `peer.py` and `seeded.py`. Both sides run
with as many threads, with the same seeded weights, on the same frames of the same synthetic clip at 600x1000 (padded to
608x1008). Timed is forward and post-processing: a key frame and another frame of DFF, a frame of FGFA whose window is
full, a frame of SELSA and Temporal RoI Align after the 14 references were seen. Each side is a process of its own that
waits while the other one works; every measured time of ours has one of the peer right before or after it, and what is
given is the ratio of the two, median and quartiles. The allocator is set for our side as the command line sets it, and
left alone for the peer, unless its environment says otherwise.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from typing import IO, Any

SIZE = (600, 1000)
_SEED = 2
_FRAMES, _WINDOW_FRAMES = 15, 3

ROWS = ("torch", "optimised", "openvino")
"""Forms of our systems: BACKEND or BACKEND:VARIANT, as for `flowdet.load`; a folder of int8 parts is a backend too."""

# Runs in the peer's environment: reads the kind of a frame from each line, answers with its seconds and the most memory
# that the process has had so far, KB.
_PEER = """
import resource, sys, time
folder, method, backbone, threads = sys.argv[1:]
sees_all = method in ("selsa", "troia")
sys.path.insert(0, folder)
import mmshim  # first
import numpy as np, torch
from addict import Dict
from peer import build
from seeded import synthetic_clip
torch.set_num_threads(int(threads))
mean, std = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])

def meta(number):
    window = {} if sees_all else dict(num_left_ref_imgs=15, frame_stride=1)
    return [dict(img_shape=(600, 1000, 3), ori_shape=(600, 1000, 3), pad_shape=(608, 1008, 3), flip=False,
                 scale_factor=np.ones(4, np.float32), frame_id=number, img_norm_cfg=dict(mean=mean, std=std), **window)]

def prepare(frame):
    padded = np.zeros((3, 608, 1008), np.float32)
    padded[:, :600, :1000] = ((frame[..., ::-1].astype(np.float32) - mean) / std).transpose(2, 0, 1)
    return torch.from_numpy(padded)[None]

clip = [prepare(frame) for frame in synthetic_clip(15 if sees_all else 3, 600, 1000, 2)]
model = build(method, backbone)
torch.set_grad_enabled(False)
if method == "fgfa":
    features = [model.detector.extract_feat(image)[0] for image in clip]
    model.memo = Dict(img=torch.cat([clip[n % 3] for n in range(31)]))
    model.memo.feats = [torch.cat([features[n % 3] for n in range(31)])]
if sees_all:
    model.memo = Dict(img_metas=[meta(number)[0] for number in range(14)])
    model.memo.feats = [torch.cat([model.detector.extract_feat(image)[0] for image in clip[:14]])]
frames = {
    "key": lambda: model.simple_test(clip[0], meta(0)),
    "other": lambda: model.simple_test(clip[1], meta(1)),
    "frame": lambda: model.simple_test(clip[14], meta(14), rescale=True) if sees_all else
        model.simple_test(clip[1], meta(1), ref_img=[clip[2][None]], ref_img_metas=[None]),
}
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    frames[line.strip()]()
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""

Timer = Callable[[str], float]
"""Runs a frame of this kind, gives its seconds."""


@dataclass(frozen=True)
class Comparison:
    """What one row of one system costs beside the peer.

    Attributes:
        system: Its name.
        row: The form of our system.
        kind: Of the frames; "mean" is that over a key-frame period of DFF. A frame of the variant recursive is the
            mean over its own period.
        ours: Seconds, one a turn.
        peers: Seconds of the peer in the same turn.
        memory: The most that our process and that of the peer have had, MB.
    """

    system: str
    row: str
    kind: str
    ours: Sequence[float]
    peers: Sequence[float]
    memory: tuple[float, float]

    def figures(self) -> dict[str, Any]:
        """As JSON: the quartiles of both and of their ratio, and every time."""
        ratios = [theirs / mine for mine, theirs in zip(self.ours, self.peers, strict=True)]
        spread = {"ours": self.ours, "peer": self.peers, "ratio": ratios}
        return {
            "system": self.system,
            "row": self.row,
            "kind": self.kind,
            **{
                name: dict(zip(("low", "median", "high"), quantiles(v, method="inclusive"), strict=True))
                for name, v in spread.items()
            },
            "memory_mb": dict(zip(("ours", "peer"), self.memory, strict=True)),
            "seconds": {"ours": list(self.ours), "peer": list(self.peers)},
        }


class Side:
    """A process that times frames when it is told to.

    Attributes:
        memory: The most that it has had, MB.
    """

    def __init__(self, command: Sequence[str], folder: Path | None) -> None:
        self.memory = 0.0
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
        assert self._process.stdin
        assert self._process.stdout
        self._to: IO[str] = self._process.stdin
        self._from: IO[str] = self._process.stdout
        while (line := self._from.readline().strip()) != "ready":
            if not line and self._process.poll() is not None:
                raise SystemExit(f"this side did not start: {' '.join(command[:1])}")

    def __call__(self, kind: str) -> float:
        """Seconds of a frame of this kind."""
        print(kind, file=self._to, flush=True)
        seconds, memory = self._from.readline().split()
        self.memory = float(memory) / 1024
        return float(seconds)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._to.close()
        self._process.wait()


def kinds_of(system: str) -> Mapping[str, int]:
    """The kinds of frames of a system, and how many there are in a key-frame period."""
    return {"key": 1, "other": 9} if system.startswith("dff") else {"frame": 1}


def compare(system: str, rows: Sequence[str], peer: tuple[Path, Path], turns: int, threads: int) -> list[Comparison]:
    """Measures all rows of a system and the peer in turn; the first turn warms up and does not count."""
    method, backbone = system.split("-")
    python, folder = peer
    with ExitStack() as stack:
        others = [str(python), "-c", _PEER, str(folder), method, backbone, str(threads)]
        sides = {"peer": stack.enter_context(Side(others, folder))}
        for row in rows:
            mine = [sys.executable, __file__, "--serve", system, row, str(threads)]
            sides[row] = stack.enter_context(Side(mine, None))
        found: dict[tuple[str, str], list[float]] = {(side, kind): [] for side in sides for kind in kinds_of(system)}
        for turn in range(turns + 1):
            for kind in kinds_of(system):
                for name in sides if turn % 2 else reversed(sides):
                    seconds = sides[name](kind)
                    if turn:
                        found[name, kind].append(seconds)
            sys.stderr.write(f"{system}: turn {turn} of {turns}\n")
        peaks = {name: side.memory for name, side in sides.items()}
    comparisons = []
    for row in rows:
        memory = (peaks[row], peaks["peer"])
        for kind in kinds_of(system):
            comparisons.append(Comparison(system, row, kind, found[row, kind], found["peer", kind], memory))
        if len(kinds_of(system)) > 1:
            means = {side: _means([(found[side, k], n) for k, n in kinds_of(system).items()]) for side in (row, "peer")}
            comparisons.append(Comparison(system, row, "mean", means[row], means["peer"], memory))
    return comparisons


def _means(parts: Sequence[tuple[Sequence[float], int]]) -> list[float]:
    """The mean over a key-frame period, turn by turn, from seconds and numbers of frames of each kind."""
    period = sum(count for _, count in parts)
    turns = zip(*([each * count for each in seconds] for seconds, count in parts), strict=True)
    return [sum(turn) / period for turn in turns]


def table(comparisons: Sequence[Comparison]) -> str:
    """For people: seconds are medians, the ratio with its quartiles."""
    lines = ["| system | row | frame | ours, s | peer, s | peer / ours | ours, MB | peer, MB |", "|---" * 8 + "|"]
    for each in comparisons:
        figures = each.figures()
        ratio = figures["ratio"]
        lines.append(
            f"| {each.system} | {each.row} | {each.kind} | {figures['ours']['median']:.3f} | "
            f"{figures['peer']['median']:.3f} | {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) | "
            f"{each.memory[0]:.0f} | {each.memory[1]:.0f} |"
        )
    return "\n".join(lines)


def serve(system: str, row: str, threads: int) -> None:
    """Our side: builds the system and times a frame for each line that comes in."""
    from flowdet.cli import keep_memory  # noqa: PLC0415  (before the first tensor)

    keep_memory()
    timer = _timer(system, row, threads)
    _say("ready")
    for line in sys.stdin:
        _say(f"{timer(line.strip())} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _timer(name: str, row: str, threads: int) -> Timer:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import torch  # noqa: PLC0415

    from flowdet.backends.choice import with_backend  # noqa: PLC0415
    from flowdet.benchmark.clip import Clip  # noqa: PLC0415
    from flowdet.benchmark.meter import MeteredStream  # noqa: PLC0415
    from flowdet.systems.detector import VideoDetector  # noqa: PLC0415
    from flowdet.systems.options import SystemOptions, apply_options  # noqa: PLC0415
    from flowdet.types import Frame  # noqa: PLC0415
    from tests.seeded import seeded_system, synthetic_clip  # noqa: PLC0415

    torch.set_num_threads(threads)
    backend, _, variant = row.partition(":")
    seeded = seeded_system(name)
    config = apply_options(seeded.config, SystemOptions(variant=variant or None))
    system = VideoDetector(config, seeded.detector, seeded.flow_net, seeded.method_modules).eval()
    clip = Clip(Path())
    count = _FRAMES if config.method.preview else _WINDOW_FRAMES
    clip.frames = [Frame(n, n / 25, image) for n, image in enumerate(synthetic_clip(count, SIZE, _SEED))]
    costs = MeteredStream(with_backend(system, backend), clip).frames()
    kinds = config.method.kinds
    upcoming = cycle(kinds)

    def seconds(kind: str) -> float:
        if kind == "frame":
            return sum(next(costs)["forward"] for _ in kinds) / len(kinds)
        while True:
            is_wanted, cost = next(upcoming) == kind, next(costs)
            if is_wanted:
                return cost["forward"]

    return seconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=["dff-r50", "fgfa-r50"])
    parser.add_argument("--peer", nargs=2, type=Path, metavar=("PYTHON", "FOLDER"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="BACKEND or BACKEND:VARIANT")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        system, row, threads = arguments.serve
        serve(system, row, int(threads))
        return
    if not arguments.peer:
        parser.error("--peer says where mmtracking is")
    if arguments.turns < 2:
        parser.error("quartiles need 2 turns or more")
    comparisons = []
    for system in arguments.systems:
        peer = (arguments.peer[0].absolute(), arguments.peer[1].absolute())
        comparisons += compare(system, arguments.rows, peer, arguments.turns, arguments.threads)
        _say(table(comparisons))
    if arguments.json:
        rows = [each.figures() for each in comparisons]
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
