"""The runs of YOLOX that were recorded: weights that follow from their names, one synthetic picture, some objects."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.inputs import InputConfig, prepare
from flowdet.types import NetworkInput
from tests.seeded import seeded_tensor, synthetic_clip

__all__ = ["YOLOX_RUNS", "YOLOXRun", "official_weights"]


@dataclass(frozen=True)
class YOLOXRun:
    """One recorded run.

    Attributes:
        size: "nano" or "s".
        file: Its record in the full reference.
        gain: Factor of the weights of convolutions, but for the first one.
        padded: (height, width) px of the network input.
        seed: Of the synthetic picture of 270 x 480 px.
    """

    size: str
    file: str
    gain: float
    padded: tuple[int, int]
    seed: int

    def inputs(self) -> NetworkInput:
        """Returns the picture as the official code resizes and pads it, in RGB."""
        height, width = self.padded
        config = InputConfig(width, height, mean=(0.0,) * 3, std=(1.0,) * 3, multiple=32, padding=114.0)
        return prepare(list(synthetic_clip(1, (270, 480), self.seed)), config)

    def images(self) -> Tensor:
        """Returns the network input [1, 3, H, W], padded to the recorded size."""
        images = self.inputs().images
        height, width = self.padded
        padded = images.new_full((1, 3, height, width), 114.0)
        padded[..., : images.shape[2], : images.shape[3]] = images
        return padded

    def targets(self) -> tuple[Tensor, Tensor]:
        """Returns boxes [4, 4] xyxy px of the network input and labels [4] of invented objects; two of them overlap."""
        boxes = torch.tensor([[20, 30, 70, 60], [100, 80, 180, 200], [130, 100, 190, 215], [250, 150, 258, 160]])
        return boxes.float(), torch.tensor([16, 3, 47, 0])


YOLOX_RUNS = (
    YOLOXRun("nano", "yolox_nano_416.npz", 1.22, (416, 416), 3),
    YOLOXRun("s", "yolox_s_320x512.npz", 1.13, (320, 512), 4),
)


def official_weights(run: YOLOXRun, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Returns a seeded state dict under the official names."""
    weights = {}
    for name, shape in shapes.items():
        values = seeded_tensor(name, shape)
        if name.endswith("stem.conv.conv.weight"):
            values *= 0.02
        elif name.endswith("conv.weight") or ("_preds." in name and name.endswith("weight")):
            values *= run.gain
        if "cls_preds" in name or "obj_preds" in name:
            values = values * 1.5 if name.endswith("weight") else values - 2
        weights[name] = values
    return weights
