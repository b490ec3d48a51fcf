import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowdet.errors import FlowdetError
from flowdet.training import records as module
from flowdet.training.processes import Processes
from flowdet.training.records import (
    TrainingLog,
    add_message,
    describe_environment,
    has_tensorboard,
    peak_memory,
    read_log,
    write_description,
)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_tensorboard", lambda: False)


def lines(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [{"step": 1, "loss": 0.5}, {"step": 1, "metrics": {"AP": None}}]
    with TrainingLog(tmp_path, 0) as log:
        for entry in entries:
            log.write(entry)
            log.sync()
        assert read_log(tmp_path) == entries


@pytest.mark.parametrize(
    "tail", ["", '{"step": 4, "lo', '{"step": 4}', "garbage\n", '{"step": 5}\n[1]\n', "{}\n", "\0\0\n"]
)
def test_a_log_is_cut_back_to_the_checkpoint(tmp_path: Path, tail: str) -> None:
    whole = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3))
    (tmp_path / "log.jsonl").write_text(whole + tail)
    with TrainingLog(tmp_path, 2) as log:
        log.write({"step": 3, "again": True})
    assert lines(tmp_path) == [1, 2, 3]
    assert read_log(tmp_path)[-1] == {"step": 3, "again": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl"]


def test_metrics_of_the_checkpoint_are_kept(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, 0) as log:
        log.write({"step": 2})
        log.write({"step": 2, "metrics": {"AP": 0.5}})
        log.write({"step": 4})
        assert not log.was_evaluated(2)
    with TrainingLog(tmp_path, 4) as log:
        assert log.was_evaluated(2)
        assert not log.was_evaluated(4)


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = r"cannot be written: No space left on device\. .* goes on from the last checkpoint"
    with TrainingLog(tmp_path, 0) as log:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(FlowdetError, match=rf"log\.jsonl {told}"):
            log.sync()
        log._file.close()
        monkeypatch.setattr(log, "_file", SimpleNamespace(write=full, close=full))
        with pytest.raises(FlowdetError, match=rf"log\.jsonl {told}"):
            log.write({"step": 1})
    (tmp_path / "messages.txt").mkdir()
    with pytest.raises(FlowdetError, match=r"messages\.txt cannot be written: Is a directory"):
        add_message(tmp_path, "hello")


def test_a_message_may_hold_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    add_message(tmp_path, "caf\udce9.png")
    assert (tmp_path / "messages.txt").read_text().endswith(" caf\\udce9.png\n")


def test_a_folder_without_a_log_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FlowdetError, match=r"is .* a training run"):
        read_log(tmp_path)


def test_tensorboard_gets_every_number_and_forgets_what_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(module, "has_tensorboard", has_tensorboard)
    for first, loss in ((0, 1.0), (2, 5.0)):
        time.sleep(
            1 - time.time() % 1
        )  # files of one second are read in the order of their numbers as text: 10 before 9
        with TrainingLog(tmp_path, first) as log:
            for step in range(first + 1, 5):
                log.write({"step": step, "loss": loss, "losses": {"rpn": 2.0}, "norm": None})
            log.write({"step": 4, "metrics": {"coco": {"AP": loss / 10, "AP50": None}}})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "losses/rpn", "metrics/coco/AP"}
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 1), (3, 5), (4, 5)]
    assert [event.value for event in events.Scalars("metrics/coco/AP")] == [0.5]


def test_tensorboard_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert not has_tensorboard()


def test_a_checkout_is_told_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package" / "training"
    folder.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(folder / "records.py"))

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
