from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.systems.build import build
from flowdet.systems.recipes import fgfa_lite
from scripts.lite_clips.drawings import SyntheticClips

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def train_lite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return import_module("train_lite")


DETECTION = ["roi_boxes", "roi_classes", "rpn_boxes", "rpn_objectness"]
FLOW = ["flow-1", "flow-2", "flow-3", "flow0", "match"]


@pytest.mark.parametrize(("name", "losses"), [("detection_losses", DETECTION), ("joint_losses", [*FLOW, *DETECTION])])
def test_a_step_trains_every_part(name: str, losses: list[str], train_lite: ModuleType) -> None:
    torch.manual_seed(0)
    system = build(fgfa_lite()).train()
    clips = SyntheticClips(VID_CLASSES, SyntheticConfig(size=(96, 160), degraded=0.01))
    found = getattr(train_lite, name)(system, [clips.draw(np.random.default_rng(4), 2)])
    assert sorted(found) == losses
    assert all(torch.isfinite(loss) for loss in found.values())
    sum(found.values()).backward()
    trained = {key.split(".")[0] for key, weight in system.named_parameters() if weight.grad is not None}
    assert trained == {"detector", "flow_net", "embedding"}
