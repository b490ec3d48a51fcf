"""The official checkpoints of YOLOX: how to tell them, and how they name their weights."""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor
from torch.nn import functional as F

__all__ = ["is_yolox", "yolox_to_native"]

_CLASSES = "head.cls_preds.0.bias"
_STEM = "body.stem.conv.weight"
_RENAMES = (
    (r"^backbone\.backbone\.stem\.conv\.", "body.stem."),
    (r"^backbone\.backbone\.dark2\.", "body.stages.0."),
    (r"^backbone\.backbone\.dark3\.", "body.stages.1."),
    (r"^backbone\.backbone\.dark4\.", "body.stages.2."),
    (r"^backbone\.backbone\.dark5\.", "body.stages.3."),
    (r"^backbone\.lateral_conv0\.", "body.laterals.0."),
    (r"^backbone\.reduce_conv1\.", "body.laterals.1."),
    (r"^backbone\.C3_p4\.", "body.top_down.0."),
    (r"^backbone\.C3_p3\.", "body.top_down.1."),
    (r"^backbone\.bu_conv2\.", "body.strided.0."),
    (r"^backbone\.bu_conv1\.", "body.strided.1."),
    (r"^backbone\.C3_n3\.", "body.bottom_up.0."),
    (r"^backbone\.C3_n4\.", "body.bottom_up.1."),
    (r"^head\.cls_convs\.", "head.class_convs."),
    (r"^head\.reg_convs\.", "head.box_convs."),
    (r"^head\.cls_preds\.", "head.classes."),
    (r"^head\.reg_preds\.", "head.boxes."),
    (r"^head\.obj_preds\.", "head.objectness."),
    (r"\.m\.", ".blocks."),
    (r"\.dconv\.", ".depthwise."),
    (r"\.pconv\.", ".pointwise."),
    (r"\.bn\.", ".norm."),
)


def is_yolox(content: object) -> TypeGuard[dict[str, Any]]:
    """Tells whether the content of a `.pth` file is that of an official checkpoint of YOLOX."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict) and _CLASSES in content["model"]


def yolox_to_native(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of `content["model"]` under the names of `YOLOX`; the first convolution takes RGB pixels.

    The official network has BGR images, of which it puts the pixels at even rows and columns, at odd rows, at odd
    columns, and at both, on top of each other before a convolution of 3 x 3. That is one of 6 x 6 with stride 2.
    """
    native = {_native_name(name): tensor for name, tensor in weights.items()}
    if _STEM in native:
        # [outputs, column, row, channel, 3, 3] to [outputs, channel, row, column, 3, 3].
        by_place = native[_STEM].unflatten(1, (2, 2, 3)).flip(3).permute(0, 3, 2, 1, 4, 5)
        native[_STEM] = F.pixel_shuffle(by_place.flatten(1, 3), 2)
    return native


def _native_name(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
