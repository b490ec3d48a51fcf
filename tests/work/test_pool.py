import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from flowdet.errors import DataError, FlowdetError
from flowdet.work.jobs import Advanced, Event, hear, results
from flowdet.work.pool import device_of, spread
from tests.work.toys import Heard, Job, Result, cannot_start, dies_at_start, make


def jobs_of(folder: Path, *texts: str) -> list[Job]:
    return [(text, folder / f"{number}.txt") for number, text in enumerate(texts)]


def test_every_job_is_done_and_every_frame_told(tmp_path: Path) -> None:
    heard = Heard()
    jobs = jobs_of(tmp_path, "abc", "de", "", "f")
    hear(spread(iter(jobs), make, processes=2, threads=3), heard)
    assert heard.texts == ["", "abc", "de", "f"]
    assert heard.frames == 6
    assert {threads for _, threads, _ in heard.results} == {3}
    assert {number for number, _, _ in heard.results} <= {0, 1}
    assert all(path.read_text() == "closed" for _, path in jobs)


def test_no_jobs_start_no_process() -> None:
    hear(spread([], dies_at_start, processes=4), Heard())


def test_jobs_that_do_without_torch_do_not_wait_for_it(tmp_path: Path) -> None:
    """In a process that has not loaded it: what a worker needs of this file would load it, too."""
    (tmp_path / "worker.py").write_text(
        "import sys\n\n\ndef make(number):\n    return lambda name, advance: name in sys.modules\n"
    )
    (tmp_path / "lead.py").write_text(
        "if __name__ == '__main__':\n"
        "    from worker import make\n"
        "    from flowdet.work.jobs import results\n"
        "    from flowdet.work.pool import spread\n"
        "    for threads in (None, 1):\n"
        "        print(*results(spread(['torch'], make, processes=1, threads=threads)))\n"
    )
    done = subprocess.run([sys.executable, str(tmp_path / "lead.py")], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_job_is_taken_when_a_process_is_free(tmp_path: Path) -> None:
    taken: list[str] = []

    def jobs() -> Iterator[Job]:
        for text in ("a", "b", "c", "d"):
            taken.append(text)
            yield text, tmp_path / text

    ready = results(spread(jobs(), make, processes=1))
    assert next(ready)[2] == "a"
    assert taken == ["a"]
    assert [text for _, _, text in ready] == ["b", "c", "d"]


def test_the_error_of_a_job_is_its_own(tmp_path: Path) -> None:
    heard = Heard()
    hear(spread(jobs_of(tmp_path, "a!", "m", "b"), make, processes=1), heard)
    assert heard.texts == ["b"]
    assert heard.errors == {
        "a!": "0.txt is wrong",
        "m": "too little memory (Tried to allocate 2 GiB); take fewer processes, smaller inputs or a smaller system",
    }
    ready = results(spread(jobs_of(tmp_path, "a", "b!", "c"), make, processes=1))
    assert next(ready)[2] == "a"
    with pytest.raises(DataError, match=r"1.txt is wrong"):
        next(ready)
    assert not children()


def test_the_error_of_a_worker_is_raised() -> None:
    with pytest.raises(DataError, match="worker 0 has no weights"):
        hear(spread([("a", Path())], cannot_start, processes=1), Heard())


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_process_that_is_at_work_closes_its_files_when_the_caller_stops(tmp_path: Path) -> None:
    def stop(event: Event[Job, Result]) -> None:
        if event == Advanced(1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hear(spread(jobs_of(tmp_path, "aw"), make, processes=1), stop)
    assert (tmp_path / "0.txt").read_text() == "closed"
    assert not children()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_the_death_of_a_process_costs_nothing_but_its_job(tmp_path: Path) -> None:
    heard = Heard()
    hear(spread(jobs_of(tmp_path, "aok", "bo", "c", "d?", "e"), make, processes=2), heard)
    assert heard.texts == ["bo", "c", "e"]
    assert heard.errors.keys() == {"aok", "d?"}
    assert "ended with exit code -9" in heard.errors["aok"]
    assert "in each of 2 tries" in heard.errors["aok"]
    assert "ended with exit code 1" in heard.errors["d?"]
    assert heard.frames == len("bo" + "c" + "e")
    assert not children()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_processes_that_die_before_they_begin_are_not_started_for_ever(tmp_path: Path) -> None:
    with pytest.raises(FlowdetError, match=r"exit code -9.* while it loaded.*take fewer workers"):
        hear(spread(jobs_of(tmp_path, "a"), dies_at_start, processes=1), Heard())
    assert not children()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_killed_between_two_jobs_is_replaced(tmp_path: Path) -> None:
    ready = results(spread(jobs_of(tmp_path, "a", "b"), make, processes=1))
    assert next(ready)[2] == "a"
    (child,) = children()
    child.kill()
    deadline = time.monotonic() + 60
    while child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [text for _, _, text in ready] == ["b"]


def lead(folder: str) -> None:
    """Runs in a process of its own: spreads a job that waits, and says when it has begun."""
    hear(spread([("aw", Path(folder) / "file")], make, processes=1), lambda _: (Path(folder) / "begun").touch())


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
