from pathlib import Path

import pytest

from flowdet.cli.synthesize import synthesize
from flowdet.data.synthetic import benchmark
from flowdet.errors import ConfigError


def test_the_command_writes_a_split_and_says_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "FRAMES", {"train": 3, "val": 3})
    synthesize(tmp_path, split="val", clips=1, processes=1)
    assert len(list((tmp_path / "val").rglob("*.jpg"))) == 3
    assert not (tmp_path / "train").exists()
    said = capsys.readouterr().out
    assert str(tmp_path / "annotations/synthetic_val.json") in said
    assert f"lie below {tmp_path}" in said
    synthesize(tmp_path, clips=1, processes=1)
    assert {path.name for path in (tmp_path / "annotations").iterdir()} == {
        "synthetic_train.json",
        "synthetic_val.json",
    }


def test_numbers_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="processes is 1 or more, not 0"):
        synthesize(tmp_path, processes=0)
    with pytest.raises(ConfigError, match="clips is 1 or more, not 0"):
        synthesize(tmp_path, clips=0)
    assert list(tmp_path.iterdir()) == []
