"""Work on the actors of a local Ray; the machines of a real cluster are in scripts/cluster_test.py."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowdet.errors import ConfigError, FlowdetError
from flowdet.work.cluster import Cluster, spread_over
from flowdet.work.jobs import Advanced, Event, hear
from tests.command import exit_code
from tests.video.clips import make_clip, noise
from tests.work.toys import Heard, Job, Result, cannot_start, dies_at_start, make

ray = pytest.importorskip("ray")
TWO = Cluster(workers=2)


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise ConnectionError("could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", nowhere)  # "auto" would find any Ray on this machine
    with pytest.raises(ConfigError, match="no Ray cluster answers at auto: could not find any"):
        hear(spread_over(Cluster(address="auto"), [], make), Heard())


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray: pip install ray"):
        hear(spread_over(TWO, [], make), Heard())


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    """One Ray for the tests that ask for it; a call that finds none starts its own."""
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.usefixtures("local")
def test_every_job_is_done_and_every_frame_told(tmp_path: Path) -> None:
    heard = Heard()
    jobs = [(text, tmp_path / f"{number}.txt") for number, text in enumerate(("abc", "de", "", "f"))]
    hear(spread_over(TWO, iter(jobs), make), heard)
    assert heard.texts == ["", "abc", "de", "f"]
    assert heard.frames == 6
    assert {threads for _, threads, _ in heard.results} == {1}
    assert all(path.read_text() == "closed" for _, path in jobs)


@pytest.mark.usefixtures("local")
def test_the_death_of_a_worker_costs_nothing_but_its_job(tmp_path: Path) -> None:
    heard = Heard()
    texts = ("aok", "bo", "c", "d?", "e!", "f")
    hear(spread_over(TWO, [(text, tmp_path / f"{number}.txt") for number, text in enumerate(texts)], make), heard)
    assert heard.texts == ["bo", "c", "f"]
    assert heard.errors.keys() == {"aok", "d?", "e!"}
    assert "in each of 2 tries" in heard.errors["aok"]
    assert heard.errors["e!"] == "4.txt is wrong"
    assert heard.errors["d?"] == "flowdet failed: ZeroDivisionError: one by nothing"
    assert heard.frames == len("bo" + "c" + "d" + "e" + "f")


@pytest.mark.usefixtures("local")
def test_the_error_of_a_worker_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FlowdetError, match=r"worker 0 on .*: worker 0 has no weights"):
        hear(spread_over(Cluster(workers=1), [("a", tmp_path / "a")], cannot_start), Heard())
    with pytest.raises(FlowdetError, match=r"a worker died .* while it loaded"):
        hear(spread_over(Cluster(workers=1), [("a", tmp_path / "a")], dies_at_start), Heard())


@pytest.mark.usefixtures("local")
def test_a_worker_closes_its_files_when_the_caller_stops(tmp_path: Path) -> None:
    def stop(event: Event[Job, Result]) -> None:
        if event == Advanced(1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hear(spread_over(TWO, [("aw", tmp_path / "file")], make), stop)
    assert (tmp_path / "file").read_text() == "closed"


@pytest.mark.usefixtures("local")
def test_workers_that_never_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no worker with 1 CPUs and 0.5 GPUs fits"):
        hear(spread_over(Cluster(gpus_per_worker=0.5), [("a", Path())], make), Heard())


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Six clips in an empty folder, the second one long."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        make_clip(tmp_path / f"{number}.mp4", noise(300 if number == 1 else 4 + number))
    return [f"{number}.mp4" for number in range(6)]


def arguments(weights: Path, *, out: str) -> list[str]:
    return ["--weights", str(weights), "--score", "0", "--no-video", "--backend", "torch", "--out", out]


def documents(folder: str) -> dict[str, object]:
    found = {}
    for path in Path(folder).glob("*.json"):
        found[path.name] = content = json.loads(path.read_text())
        del content["info"]
    return found


@pytest.mark.usefixtures("local")
def test_detect_on_ray_finds_what_one_process_finds(
    weights: Path, clips: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    ended = []
    for name, options in (("one", []), ("ray", ["--engine", "ray", "--workers", "2"]), ("ray", ["--engine", "ray"])):
        capfd.readouterr()
        ended.append(exit_code("detect", *clips[2:], "missing.mp4", *arguments(weights, out=name), *options))
    assert ended == [1, 1, 1]
    printed = capfd.readouterr()
    assert printed.out.count("finished before, skipped") == 4
    assert "1 of 5 sources failed:" in printed.err
    assert "'missing.mp4' does not exist" in printed.err
    assert documents("one") == documents("ray")
    states = [json.loads(line) for line in Path("ray/_manifest.ndjson").read_text().splitlines()]
    assert sorted(state["state"] for state in states) == ["done"] * 4 + ["failed"] * 2
    assert states[-1]["state"] == "failed"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_driver_costs_what_was_under_way(weights: Path, clips: list[str]) -> None:
    call = [sys.executable, "-m", "flowdet", "detect", *clips, *arguments(weights, out="o")]
    command = [*call, "--engine", "ray", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        deadline = time.monotonic() + 60
        while not Path("o/5.json").exists():
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in Path("o").glob("*.json")}
    assert len(before) == 5
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("skipped") == 5
    assert all(path.stat().st_mtime_ns == made for path, made in before.items())
    assert exit_code("detect", *clips, *arguments(weights, out="peace")) == 0
    assert documents("o") == documents("peace")
    assert sorted(os.listdir("o")) == sorted([*os.listdir("peace"), "_manifest.ndjson"])
