import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from flowdet.systems.build import build
from flowdet.systems.recipes import single_lite
from flowdet.weights.native import save_native

settings.register_profile("flowdet", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("flowdet")
# The tensors of tests are small: more threads wait for each other longer than they compute.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def torch_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is PyTorch, as if OpenVINO were not there: compiling takes seconds, which few tests are about."""
    monkeypatch.setattr("flowdet.backends.choice.find_spec", lambda name: None)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an untrained single-lite, which finds something everywhere."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_native(build(single_lite()), path)
    return path


@pytest.fixture(scope="session")
def reference() -> Path:
    """The full record of mmtracking's tensors, which is too large for the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("FLOWDET_REFERENCE", beside))
    if not (folder / "goldens").is_dir():
        pytest.skip(f"the full reference is not here: {folder} (set FLOWDET_REFERENCE to its folder)")
    return folder
