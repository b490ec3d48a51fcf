import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from flowdet.errors import DataError, FlowdetError
from flowdet.work.pool import device_of, spread

Job = tuple[str, Path]


def make(number: int) -> Callable[[Job], Iterator[tuple[int, int, str]]]:
    """A worker whose jobs yield its number, its threads and their text, letter by letter."""

    def do(job: Job) -> Iterator[tuple[int, int, str]]:
        text, path = job
        if text == "fails":
            raise DataError("this job fails")
        if text == "is large":
            raise torch.OutOfMemoryError("Tried to allocate 2 GiB")
        with path.open("w") as file:
            try:
                for letter in text:
                    if letter == "w":
                        time.sleep(60)
                    yield number, torch.get_num_threads(), letter
            finally:
                file.write("closed")

    return do


def cannot_start(number: int) -> Callable[[Job], Iterator[int]]:
    raise DataError(f"worker {number} has no weights")


def test_results_come_one_by_one_from_every_process(tmp_path: Path) -> None:
    jobs = [(text, tmp_path / f"file {text}") for text in ("abc", "de", "", "f")]
    results = list(spread(jobs, make, 2, threads=3))
    assert sorted(letter for _, _, letter in results) == list("abcdef")
    assert [letter for _, _, letter in results if letter in "abc"] == list("abc")
    assert {threads for _, threads, _ in results} == {3}
    assert {number for number, _, _ in results} <= {0, 1}
    assert all(path.read_text() == "closed" for _, path in jobs)


def test_no_jobs_start_no_process() -> None:
    assert list(spread([], make, 4)) == []


def test_jobs_that_do_without_torch_do_not_wait_for_it(tmp_path: Path) -> None:
    """In a process that has not loaded it: what a worker needs of this file would load it, too."""
    (tmp_path / "worker.py").write_text(
        "import sys\n\n\ndef make(number):\n    return lambda name: [name in sys.modules]\n"
    )
    (tmp_path / "lead.py").write_text(
        "if __name__ == '__main__':\n"
        "    from worker import make\n"
        "    from flowdet.work.pool import spread\n"
        "    print(*spread(['torch'], make, 1, threads=None), *spread(['torch'], make, 1, threads=1))\n"
    )
    done = subprocess.run([sys.executable, str(tmp_path / "lead.py")], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_job_is_taken_when_a_process_is_free(tmp_path: Path) -> None:
    taken: list[str] = []

    def jobs() -> Iterator[Job]:
        for text in ("a", "b", "c", "d"):
            taken.append(text)
            yield text, tmp_path / text

    results = spread(jobs(), make, 1)
    assert next(results)[2] == "a"
    assert taken == ["a"]
    assert [letter for _, _, letter in results] == ["b", "c", "d"]


def test_the_error_of_a_job_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this job fails"):
        list(spread([("fails", tmp_path / "x")], make, 2))
    with pytest.raises(FlowdetError, match=r"too little memory \(Tried to .*\); take fewer processes"):
        list(spread([("is large", tmp_path / "x")], make, 1))
    with pytest.raises(DataError, match="worker 0 has no weights"):
        list(spread([("a", tmp_path / "x")], cannot_start, 1))


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_process_that_is_at_work_closes_its_files_when_the_caller_stops(tmp_path: Path) -> None:
    results = spread([("aw", tmp_path / "file")], make, 1)
    assert next(results)[2] == "a"
    results.close()
    assert (tmp_path / "file").read_text() == "closed"
    assert not children()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_is_told_and_ends_the_others(tmp_path: Path) -> None:
    results = spread([("aw", tmp_path / "one"), ("bw", tmp_path / "two")], make, 2)
    assert {next(results)[2], next(results)[2]} == {"a", "b"}
    children()[0].kill()
    with pytest.raises(FlowdetError, match=r"ended with exit code -9 .* run it again with fewer processes"):
        next(results)
    assert not children()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_killed_between_two_jobs_is_told(tmp_path: Path) -> None:
    results = spread([("a", tmp_path / "one"), ("b", tmp_path / "two")], make, 1)
    assert next(results)[2] == "a"
    deadline = time.monotonic() + 60
    while (tmp_path / "one").read_text() != "closed":  # soon it waits for the next job
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    (child,) = children()
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with pytest.raises(FlowdetError, match="a worker process ended with exit code -9"):
        next(results)


def lead(folder: str) -> None:
    """Runs in a process of its own: spreads a job that waits, and says when it has begun."""
    for _ in spread([("aw", Path(folder) / "file")], make, 1):
        (Path(folder) / "begun").touch()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    paths = f"sys.path.insert(0, {os.getcwd()!r})"
    call = f"import sys; {paths}; from tests.work.test_pool import lead; lead({str(tmp_path)!r})"
    (tmp_path / "lead.py").write_text(f"if __name__ == '__main__':\n    {call}\n")
    parent = psutil.Popen([sys.executable, str(tmp_path / "lead.py")])
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = parent.children()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert gone
    assert not alive
    assert (tmp_path / "file").read_text() == "closed"


def test_processes_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    devices = [device_of("cuda", number) for number in range(3)]
    assert [str(device) for device in devices] == ["cuda:0", "cuda:1", "cuda:0"]
    assert chosen == devices
    assert device_of("cuda:1", 0) == torch.device("cuda:1")
    assert device_of("cpu", 1) == torch.device("cpu")
