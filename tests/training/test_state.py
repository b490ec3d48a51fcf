import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowdet.detectors.efficientnet_lite import EfficientNetLite0, EfficientNetLite0Config
from flowdet.detectors.resnet import ResNet, ResNetConfig
from flowdet.errors import CheckpointError, FlowdetError
from flowdet.training.state import TrainingState, begin, differences, restore, save, save_activation_memory
from tests.training.runs import PLAN, Line

IDENTITY = {"plan": {"batch": 8, "drops": (1, 2)}}


def state_after(steps: int) -> TrainingState:
    state = begin(Line(), PLAN, torch.device("cpu"))
    for step in range(steps):
        loss = state.model(torch.ones(2, 3) * (step + 1)).square().mean()
        loss.backward()
        state.update(0.1)
    return state


def assert_same(one: TrainingState, other: TrainingState) -> None:
    def flat(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [inner for key in value for inner in flat(value[key])]
        if isinstance(value, list):
            return [inner for entry in value for inner in flat(entry)]
        return [value]

    for mine, theirs in zip(flat(one.to_dict()), flat(other.to_dict()), strict=True):
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    before, after = state_after(3), state_after(0)
    save(before, 3, IDENTITY, tmp_path)
    assert restore(after, IDENTITY, tmp_path) == (3, [])
    assert_same(before, after)
    assert restore(after, json.loads(json.dumps(IDENTITY)), tmp_path) == (3, [])


def test_an_empty_folder_is_a_beginning(tmp_path: Path) -> None:
    assert restore(state_after(0), IDENTITY, tmp_path) == (0, [])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.find(state_after(2).model.state_dict()["body.head.weight"].numpy().tobytes())
    assert place > 0
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [_cut, _flip, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x")]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    save(state_after(1), 1, IDENTITY, tmp_path)
    save(state_after(2), 2, IDENTITY, tmp_path)
    damage(tmp_path / "checkpoint.pt")
    state = state_after(0)
    done, (problem,) = restore(state, IDENTITY, tmp_path)
    assert done == 1
    assert f"{tmp_path / 'checkpoint.pt'} is damaged" in problem
    assert_same(state, state_after(1))


def test_a_kill_between_the_two_renames_leaves_the_one_before(tmp_path: Path) -> None:
    save(state_after(1), 1, IDENTITY, tmp_path)
    os.replace(tmp_path / "checkpoint.pt", tmp_path / "checkpoint.previous.pt")
    (tmp_path / "checkpoint.pt.part").write_bytes(b"half")
    assert restore(state_after(0), IDENTITY, tmp_path) == (1, [])


def test_without_a_whole_checkpoint_nothing_is_overwritten(tmp_path: Path) -> None:
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / name).write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"damaged.*damaged.*No checkpoint is left"):
        restore(state_after(0), IDENTITY, tmp_path)


def test_a_checkpoint_is_replaced_only_by_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(state_after(1), 1, IDENTITY, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(_: object, file: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: No space.*kept"):
        save(state_after(2), 2, IDENTITY, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt"]


@pytest.mark.parametrize("part", ["model", "average", "optimizer"])
def test_what_is_not_a_finite_number_is_not_saved(tmp_path: Path, part: str) -> None:
    state = state_after(1)
    assert state.average
    tensors = {
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict()["state"][0],
    }
    next(tensor for tensor in tensors[part].values() if tensor.ndim > 0)[0] = float("inf")
    with pytest.raises(CheckpointError, match=rf"after step 1 {part}\..* is not a finite number any more"):
        save(state, 1, IDENTITY, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_runs_code_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"format": 1, "step": 1, "identity": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        restore(state_after(0), IDENTITY, tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save(state_after(1), 1, IDENTITY, tmp_path)
    other = begin(torch.nn.Linear(2, 2), replace(PLAN, ema=None), torch.device("cpu"))
    with pytest.raises(FlowdetError, match="is of another model"):
        restore(other, IDENTITY, tmp_path)


def test_differences_are_named_by_their_place() -> None:
    before = {"plan": {"rate": 1.0, "drops": [1]}, "data": ["a"], "old": 1}
    now = {"plan": {"rate": 2.0, "drops": (1,)}, "data": ["a"], "new": None}
    assert differences(before, now) == ["plan.rate was 1.0 and is 2.0", "old was 1 and is null"]


def test_many_differences_are_cut_short(tmp_path: Path) -> None:
    save(state_after(1), 1, {f"key{number}": 0 for number in range(10)}, tmp_path)
    with pytest.raises(FlowdetError, match=r"key7 was 0 and is 1; and 2 more"):
        restore(state_after(0), {f"key{number}": 1 for number in range(10)}, tmp_path)


def pass_through(backbone: nn.Module, images: Tensor) -> tuple[int, list[Tensor]]:
    """The bytes that are kept for the backward pass, and all gradients."""
    own = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        maps = backbone(images)
    total = sum(kept.values())
    torch.stack([features.square().mean() for features in maps]).sum().backward()
    return total, [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    "backbone",
    [ResNet(ResNetConfig(50)), EfficientNetLite0(EfficientNetLite0Config(frozen_stages=2))],
    ids=["resnet", "efficientnet"],
)
def test_less_is_kept_and_the_gradients_stay(backbone: nn.Module) -> None:
    backbone.train()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    keys = list(backbone.state_dict())
    plain, wanted = pass_through(backbone, images)
    backbone.zero_grad()
    save_activation_memory(nn.ModuleDict({"inner": backbone}))
    less, found = pass_through(backbone, images)
    assert less < 0.5 * plain
    assert len(found) == len(wanted)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert list(backbone.state_dict()) == keys


def test_a_model_without_a_backbone_stays_as_it_is() -> None:
    layer = nn.Linear(2, 2)
    save_activation_memory(layer)
    assert "forward" not in vars(layer)
