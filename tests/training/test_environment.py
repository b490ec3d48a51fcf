import json
import subprocess
from pathlib import Path

import pytest
import torch

from flowdet.training import environment
from flowdet.training.environment import describe_environment, peak_memory, write_description
from flowdet.training.processes import Processes


def test_a_checkout_is_told_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package" / "training"
    folder.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(folder / "environment.py"))

    def git(*arguments: str) -> str:
        own = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip()

    def told() -> tuple[object, object]:
        found = describe_environment(Processes())
        return found["commit"], found["changed"]

    (tmp_path / "package" / "__init__.py").write_text("")
    assert told() == (None, None)
    git("init", "-q")
    assert told() == (None, None)
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "-qm", "first")
    assert told() == (None, None), "a package that lies in a checkout of something else"
    git("add", ".")
    git("commit", "-qm", "second")
    assert told() == (git("rev-parse", "HEAD"), False)
    (tmp_path / "package" / "__init__.py").write_text("changed")
    assert told() == (git("rev-parse", "HEAD"), True)


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert describe_environment(Processes())["commit"] is None


def test_every_start_of_a_run_is_kept(tmp_path: Path) -> None:
    for number in range(2):
        write_description(tmp_path, {"number": number}, {"start": number})
    assert json.loads((tmp_path / "config.json").read_text()) == {"number": 1}
    assert json.loads((tmp_path / "environment.json").read_text()) == [{"start": 0}, {"start": 1}]
    (tmp_path / "environment.json").write_text("[{")
    write_description(tmp_path, {}, {"start": 2})
    assert json.loads((tmp_path / "environment.json").read_text()) == [{"start": 2}]


def test_the_peak_of_the_memory_is_in_bytes() -> None:
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(2**26)
    after = peak_memory(torch.device("cpu"))
    assert before is not None
    assert after is not None
    assert after >= block.nbytes
    assert before < 2**40
