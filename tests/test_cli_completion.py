import shutil
import subprocess
from pathlib import Path

import pytest

from tests.command import exit_code


def test_completion_is_installed_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert exit_code("--install-completion", "--shell", "bash") == 0
    (script,) = tmp_path.glob(".local/share/bash-completion/completions/flowdet")
    assert "detect" in script.read_text()
    if bash := shutil.which("bash"):
        asked = "COMP_WORDS=(flowdet da) COMP_CWORD=1; _flowdet; echo ${COMPREPLY[@]}"
        done = subprocess.run([bash, "-c", f"source {script}; {asked}"], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["data"]
