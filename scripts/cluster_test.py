"""What happens to a job of many clips when workers, machines or the driver are killed, and what sharing costs.

    python scripts/cluster_test.py workers --clips 200 --seconds 5
    python scripts/cluster_test.py drivers --kills 10
    python scripts/cluster_test.py nodes
    python scripts/cluster_test.py throughput --repeats 3
    python scripts/cluster_test.py overhead

`workers` kills a random worker every few seconds, `drivers` the command itself at random moments, `nodes` a machine of
a cluster of three that are processes of this one; then results are compared with those of a run in peace. `throughput`
compares numbers of workers with `--processes`; `overhead` measures what a source costs beside its detection. Ends with
1 if something was lost. Needs Ray; not for Windows.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil
from fuzz import make_clip

from flowdet.cli.sources import expanded
from flowdet.video.description import describe_source
from flowdet.video.results import read_finished
from flowdet.work.cluster import Cluster, spread_over
from flowdet.work.jobs import Advance, Do, Event, Finished, hear
from flowdet.work.manifest import open_manifest
from flowdet.work.pool import spread

_RAY = ("--engine", "ray")
_SYSTEM = "single-nano"


def detect(folder: Path, out: str, *options: str) -> list[str]:
    """Returns the command that detects in all clips of a folder."""
    command = [sys.executable, "-m", "flowdet", "detect", str(folder / "clips"), "--system", _SYSTEM, "--no-video"]
    return [*command, "--backend", "torch", "--score", "0.05", "--out", str(folder / out), "--json-progress", *options]


def make_clips(folder: Path, count: int, frames: int) -> None:
    """Makes clips of about so many frames, which differ in length."""
    (folder / "clips").mkdir()
    for number in range(count):
        make_clip(folder / "clips" / f"{number:04d}.mp4", "libx264", frames=frames + number % 5)


def documents(folder: Path) -> dict[str, object]:
    """Returns the results in a folder, without what depends on the clock."""
    found = {}
    for path in folder.glob("*.json"):
        found[path.name] = content = json.loads(path.read_text())
        assert content.pop("info")["complete"]
    return found


def say(**record: object) -> None:
    """Prints what was found."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def last_line(text: str) -> dict[str, object]:
    """Returns what a command said at its end."""
    found: dict[str, object] = json.loads(text.splitlines()[-1])
    return found


def run(command: Sequence[str]) -> tuple[int, dict[str, object], float]:
    """Runs a command; returns its exit code, what it said at its end, and how long it took."""
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, last_line(done.stdout), time.monotonic() - began


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    """Returns the workers that this driver started and that detect."""
    found = []
    for child in driver.children(recursive=True):
        try:
            if child.cmdline()[:1] == ["ray::_Actor.do"]:
                found.append(child)
        except psutil.Error:
            continue
    return found


def kill_workers(folder: Path, options: argparse.Namespace) -> int:
    """Kills a random worker every few seconds until the command ends."""
    rng = random.Random(options.seed)
    make_clips(folder, options.clips, options.frames)
    command = detect(folder, "killed", *_RAY, "--workers", str(options.workers))
    kills, began = 0, time.monotonic()
    with (folder / "told").open("w") as told, subprocess.Popen(command, stdout=told) as process:
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(options.seconds)
            if process.poll() is None and (found := workers_of(driver)):
                rng.choice(found).kill()
                kills += 1
    took, end = time.monotonic() - began, last_line((folder / "told").read_text())
    if end["failed"]:  # two of its workers were killed
        run(command)
    _, _, in_peace = run(detect(folder, "peace", *_RAY, "--workers", str(options.workers)))
    is_same = documents(folder / "killed") == documents(folder / "peace")
    say(kills=kills, seconds=round(took, 1), seconds_in_peace=round(in_peace, 1), same_results=is_same, **end)
    return int(not is_same)


def kill_drivers(folder: Path, options: argparse.Namespace) -> int:
    """Kills the command at random moments, each in a new folder, and gives it again."""
    rng = random.Random(options.seed)
    make_clips(folder, options.clips, options.frames)
    _, _, in_peace = run(detect(folder, "peace", *_RAY, "--workers", str(options.workers)))
    wanted = documents(folder / "peace")
    wrong = 0
    for number in range(options.kills):
        command = detect(folder, f"killed-{number}", *_RAY, "--workers", str(options.workers))
        moment = rng.uniform(0, 1) * in_peace
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
        code, end, _ = run(command)
        out = folder / f"killed-{number}"
        left = [path.name for path in out.iterdir() if path.suffix != ".json" and path.name != "_manifest.ndjson"]
        is_right = code == 0 and documents(out) == wanted and not left
        wrong += not is_right
        say(kill=number, moment=round(moment, 2), kept=end["skipped"], code=code, left=left, same_results=is_right)
        shutil.rmtree(out)
    say(kills=options.kills, wrong=wrong)
    return int(wrong > 0)


def kill_node(folder: Path, options: argparse.Namespace) -> int:
    """Runs on a cluster of three machines and takes one away on the way."""
    from ray.cluster_utils import Cluster as Machines  # noqa: PLC0415

    make_clips(folder, options.clips, options.frames)
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [machines.add_node(num_cpus=1) for _ in range(2)]
        machines.wait_for_nodes()
        command = detect(folder, "o", *_RAY, "--address", machines.address, "--workers", "2")
        began = time.monotonic()
        with (folder / "told").open("w") as told, subprocess.Popen(command, stdout=told) as process:
            while len(list((folder / "o").glob("*.json"))) < options.clips // 4 and process.poll() is None:
                time.sleep(0.1)
            machines.remove_node(nodes[0], allow_graceful=False)
            machines.add_node(num_cpus=1)
        took, end = time.monotonic() - began, last_line((folder / "told").read_text())
    finally:
        machines.shutdown()
    run(detect(folder, "peace"))
    is_same = documents(folder / "o") == documents(folder / "peace")
    say(nodes=3, killed=1, seconds=round(took, 1), same_results=is_same, **end)
    return int(not is_same)


def throughput(folder: Path, options: argparse.Namespace) -> int:
    """Compares numbers of workers and processes, in alternation."""
    make_clips(folder, options.clips, options.frames)
    ways = [(*_RAY, "--workers", str(count)) for count in (1, 2, 4)] + [("--processes", str(n)) for n in (1, 2, 4)]
    for repeat in range(options.repeats):
        for way in ways:
            shutil.rmtree(folder / "o", ignore_errors=True)
            code, end, took = run(detect(folder, "o", *way))
            done = [path.stat().st_mtime for path in (folder / "o").glob("*.json")]
            frames = int(str(end["frames"]))
            steady = frames * (len(done) - 1) / len(done) / (max(done) - min(done))
            say(way=" ".join(way), repeat=repeat, code=code, seconds=round(took, 1), frames_per_second=round(steady, 1))
    return 0


def nothing(number: int) -> Do[int, None]:
    """A worker whose jobs are empty."""

    def do(job: int, advance: Advance) -> None:
        advance(1)

    return do


def overhead(folder: Path, options: argparse.Namespace) -> int:
    """Measures what the parts of sharing cost a source."""
    for name, engine in (
        ("ray", partial(spread_over, Cluster(workers=options.workers))),
        ("processes", partial(spread, processes=options.workers)),
    ):
        moments: list[float] = []

        def tell(event: Event[int, None], moments: list[float] = moments) -> None:
            if isinstance(event, Finished):
                moments.append(time.monotonic())

        hear(engine(range(2000), nothing), tell)
        each = (moments[-1] - moments[200]) / (len(moments) - 201)
        say(engine=name, workers=options.workers, milliseconds_a_source=round(1000 * each, 3))
    make_clips(folder, 1, options.frames)
    clip = folder / "clips" / "0000.mp4"
    run(detect(folder, "o"))
    for number in range(1, 2000):
        os.link(clip, folder / "clips" / f"{number:04d}.mp4")
    sources = list(expanded([str(folder / "clips")]))
    with open_manifest(folder) as manifest:
        costs: dict[str, Callable[[str], object]] = {
            "describe": describe_source,
            "see that it is done": lambda _: read_finished(folder / "o" / "0000.json"),
            "note it in the manifest": lambda source: manifest.add(source, "done", frames=9, results="0000.json"),
        }
        for name, call in costs.items():
            began = time.perf_counter()
            for source in sources:
                call(source)
            say(part=name, milliseconds_a_source=round(1000 * (time.perf_counter() - began) / len(sources), 4))
    waiting(1000)
    return 0


def waiting(count: int) -> None:
    """Measures what it costs the driver to look at the answers of so many workers, none of them there."""
    import ray  # noqa: PLC0415

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    never = ray.remote(lambda: time.sleep(1000))
    answers = [never.remote() for _ in range(count)]
    began = time.perf_counter()
    for _ in range(100):
        ray.wait(answers, num_returns=count, timeout=0)
    say(workers=count, milliseconds_a_look=round(10 * (time.perf_counter() - began), 3))
    ray.shutdown()


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tests = {
        "workers": kill_workers,
        "drivers": kill_drivers,
        "nodes": kill_node,
        "throughput": throughput,
        "overhead": overhead,
    }
    parser.add_argument("test", choices=tests)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--frames", type=int, default=8, help="of each clip")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="from one kill of a worker to the next")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flowdet-cluster-") as folder:
        return tests[options.test](Path(folder), options)


if __name__ == "__main__":
    sys.exit(main())
