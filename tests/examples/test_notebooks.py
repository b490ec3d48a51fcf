"""The notebooks run from top to bottom, and their stored outputs are what comes out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pages import ROOT

pytest.importorskip("nbclient", reason="needs the extra test")
pytest.importorskip("ipykernel", reason="needs the extra test")

# Usage: notebook, its folder, where the notebook with its outputs goes.
RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[3])
"""
NOTEBOOKS = sorted((ROOT / "docs" / "examples").glob("*.ipynb"))


def _kinds(notebook: dict[str, Any]) -> list[list[str]]:
    """What kinds of output each cell has."""
    return [
        sorted({kind for output in cell.get("outputs", ()) for kind in output.get("data", {output["output_type"]: ""})})
        for cell in notebook["cells"]
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    assert path.stat().st_size < 300_000
    stored = json.loads(path.read_text())
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    counts = [cell["execution_count"] for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "stored outputs are of one run from top to bottom"
    out = tmp_path / path.name
    command = [sys.executable, "-c", RUN, str(path), str(path.parent), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert _kinds(json.loads(out.read_text())) == _kinds(stored)


def test_there_is_one() -> None:
    assert NOTEBOOKS
