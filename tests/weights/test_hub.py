"""Weights on the Hugging Face Hub, which is a server of this test."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import flowdet
from flowdet.errors import CheckpointError, ConfigError, DownloadError
from flowdet.systems.build import build
from flowdet.systems.config import config_to_json
from flowdet.training.card import model_card
from flowdet.weights import hub
from flowdet.weights.native import save_native
from tests.command import exit_code
from tests.tiny import lite_config
from tests.weights.hub_server import COMMIT, HubServer

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")

# What the package itself does.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

ADDRESS = "hf://someone/cats-and-dogs"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub without repositories, which the package takes for the real one."""
    from huggingface_hub import constants

    with HubServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        # Large files go the way of Git LFS, for the other one needs a server of its own protocol.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_native(build(lite_config()), path)
    return path


def test_what_is_pushed_is_loaded(server: HubServer, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("models", "push", str(weights), ADDRESS, "--license", "apache-2.0") == 0
    assert f"/someone/cats-and-dogs/commit/{COMMIT}" in capsys.readouterr().out
    files = server.repositories["someone/cats-and-dogs"].files
    assert files["model.safetensors"] == weights.read_bytes()
    assert files["README.md"].decode() == model_card(weights, ADDRESS, "apache-2.0")
    expected = flowdet.load(weights=weights)
    for address in (ADDRESS, f"{ADDRESS}@{COMMIT}"):
        system = flowdet.load(address)
        assert system.config == expected.config
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in system.state_dict().items())
    # No file of the repository but the weights was asked for.
    asked = {line.split("/")[-1] for line in server.requests if re.match("(GET|HEAD) /(api/models/)?someone", line)}
    assert asked == {"model.safetensors"}


def test_a_private_repository_is_made_private(server: HubServer, weights: Path) -> None:
    hub.push(weights, ADDRESS, "# card", private=True)
    assert server.repositories["someone/cats-and-dogs"].private


def test_the_environment_names_the_server(server: HubServer, weights: Path, tmp_path: Path) -> None:
    hub.push(weights, ADDRESS, "# card")
    environment = {**os.environ, "HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "flowdet", "models", "download", ADDRESS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    path = Path(done.stdout.split(": ")[-1].replace("\n", ""))
    assert path.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("hf://someone/other", "there is no such repository, or `hf auth login`"),
        (f"{ADDRESS}@v2", "there is no such revision"),
        ("hf://someone/empty", r"it has no model\.safetensors"),
        ("hf://someone/gated", "its owner has to let you in"),
        ("hf://some--one/..", "this can be no name of a repository"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence(address: str, reason: str, server: HubServer, weights: Path) -> None:
    hub.push(weights, ADDRESS, "# card")
    hub.push(weights, "hf://someone/gated", "# card", private=True)
    hub.push(weights, "hf://someone/empty", "# card")
    del server.repositories["someone/empty"].files["model.safetensors"]
    with pytest.raises(DownloadError, match=f"^{address}: {reason}"):
        flowdet.load(address)


def test_without_a_network_it_says_so(server: HubServer, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push(weights, ADDRESS, "# card")
    path = hub.hub_file(ADDRESS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.hub_file(ADDRESS) == path
    with pytest.raises(DownloadError, match="the Hub cannot be reached, and the file was not downloaded before"):
        flowdet.load("hf://someone/other")


def test_a_push_that_is_refused_is_a_sentence(server: HubServer, weights: Path) -> None:
    with pytest.raises(DownloadError, match=r"the Hub refuses \(.*403"):
        hub.push(weights, "hf://forbidden/x", "# card")


def test_a_file_that_flowdet_did_not_write_is_not_used(server: HubServer, weights: Path) -> None:
    hub.push(weights, ADDRESS, "# card")
    server.repositories["someone/cats-and-dogs"].files["model.safetensors"] = b"cos\nsystem\n(S'true'\ntR."
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        flowdet.load(ADDRESS)


@pytest.mark.parametrize("address", ["hf://someone", "hf://a/b/c", "hf://a/b@", "hf://a b/c"])
def test_addresses_are_checked(address: str) -> None:
    with pytest.raises(ConfigError, match="is hf://owner/name or hf://owner/name@revision"):
        flowdet.load(address)


def test_contradictions_are_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match="names the weights, too"):
        flowdet.load(ADDRESS, weights=weights)
    with pytest.raises(ConfigError, match="names a revision"):
        hub.push(weights, f"{ADDRESS}@main", "# card")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="run `pip install huggingface_hub`"):
        flowdet.load(ADDRESS)


def head_of(card: str) -> dict[str, object]:
    head: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return head


def test_a_card_states_nothing_that_is_not_recorded(weights: Path) -> None:
    card = model_card(weights, ADDRESS)
    assert head_of(card) == {
        "library_name": "flowdet",
        "pipeline_tag": "object-detection",
        "tags": ["video", "video-object-detection", "singleframe", "fasterrcnn"],
    }
    assert "| licence | not stated |" in card
    assert "cat, dog, fox" in card
    assert "no metrics are recorded" in card
    assert head_of(model_card(weights, ADDRESS, "mit"))["license"] == "mit"


def run_folder(folder: Path, weights: Path, **changes: object) -> Path:
    """The folder of a training run with this weight file."""
    (folder / "weights.safetensors").write_bytes(weights.read_bytes())
    config = {
        "system": json.loads(config_to_json(lite_config())),
        "start_sha256": {"weights": "aa11"},
        "data_sha256": ["bb22"],
        "plan": {"epochs": 3, "batch": 8, "learning_rate": 3e-4},
        "options": {"data": [{"annotations": "/secret/cats.json"}], "validation": {"annotations": "/secret/val.json"}},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    metrics = [{"step": n, "epoch": n, "metrics": {"coco": {"AP50": n / 10, "AP": None}}} for n in (1, 2)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [{"step": 1, "loss": 1}, *metrics]))
    return folder / "weights.safetensors"


def test_a_card_tells_of_the_training_run(weights: Path, tmp_path: Path) -> None:
    final = run_folder(tmp_path, weights)
    card = model_card(final, ADDRESS)
    for line in (
        "| data 1 | cats.json, SHA-256 bb22 |",
        "| starts from (weights) | SHA-256 aa11 |",
        "| epochs | 3 |",
        "On val.json, after epoch 2",
        "| AP50 (coco) | 20.0 % |",
        "| AP (coco) | - |",
    ):
        assert line in card
    assert "secret" not in card
    early = final.rename(tmp_path / "epoch_01.safetensors")
    assert "| AP50 (coco) | 10.0 % |" in model_card(early, ADDRESS)
    other = early.rename(tmp_path / "other.safetensors")
    assert "does not say what it was trained on" in model_card(other, ADDRESS)


def test_a_card_does_not_take_another_run_for_its_own(weights: Path, tmp_path: Path) -> None:
    other = json.loads(config_to_json(replace(lite_config(), name="other")))
    assert "does not say what it was trained on" in model_card(run_folder(tmp_path, weights, system=other), ADDRESS)
