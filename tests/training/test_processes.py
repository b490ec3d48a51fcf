import pytest
import torch
from torch import nn

from flowdet.errors import ConfigError
from flowdet.training.processes import Processes, join_processes


def test_alone_there_is_nobody_to_ask() -> None:
    with join_processes("cpu") as processes:
        assert processes == Processes()
        assert processes.is_first
        assert processes.mean([1.0, 2.0]) == [1.0, 2.0]
        assert processes.gather("a") == ["a"]
        assert processes.from_first(3) == 3
        processes.wait()
        module = nn.Linear(1, 1)
        assert processes.share(module) is module


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta:x"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used here"), join_processes(device):
        pass


def test_cuda_without_a_number_is_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    for name, wanted in (("cuda", "cuda:0"), ("cuda:1", "cuda:1")):
        with join_processes(name) as processes:
            assert processes.device == chosen[-1] == torch.device(wanted)
