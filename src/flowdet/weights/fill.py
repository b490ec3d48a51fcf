"""Filling a module with weights, all of them or none; and the names that published files give them."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from flowdet.errors import CheckpointError

__all__ = ["fill", "published_to_native"]

_SHOWN_KEYS = 5

_ATTENTION = "detector.roi_head.attention."

_RENAMES = (
    (r"^detector\.neck\.convs\.0\.conv\.", "detector.neck.conv."),
    (r"^detector\.rpn_head\.rpn_conv\.", "detector.rpn.conv."),
    (r"^detector\.rpn_head\.rpn_cls\.", "detector.rpn.objectness."),
    (r"^detector\.rpn_head\.rpn_reg\.", "detector.rpn.deltas."),
    (r"^detector\.roi_head\.bbox_head\.shared_fcs\.0\.", "detector.roi_head.fc1."),
    (r"^detector\.roi_head\.bbox_head\.shared_fcs\.1\.", "detector.roi_head.fc2."),
    (r"^detector\.roi_head\.bbox_head\.shared_fcs\.2\.", "detector.roi_head.fc3."),
    (r"^detector\.roi_head\.bbox_head\.aggregator\.(\d)\.fc_embed\.", rf"{_ATTENTION}aggregators.\1.query."),
    (r"^detector\.roi_head\.bbox_head\.aggregator\.(\d)\.ref_fc_embed\.", rf"{_ATTENTION}aggregators.\1.key."),
    (r"^detector\.roi_head\.bbox_head\.aggregator\.(\d)\.ref_fc\.", rf"{_ATTENTION}aggregators.\1.value."),
    (r"^detector\.roi_head\.bbox_head\.aggregator\.(\d)\.fc\.", rf"{_ATTENTION}aggregators.\1.output."),
    (r"^detector\.roi_head\.bbox_roi_extractor\.embed_network\.conv\.", f"{_ATTENTION}embedding."),
    (r"^detector\.roi_head\.bbox_head\.fc_cls\.", "detector.roi_head.classes."),
    (r"^detector\.roi_head\.bbox_head\.fc_reg\.", "detector.roi_head.deltas."),
    (r"^motion\.conv(\d)\.(\d)\.conv\.", r"flow_net.conv\1.\2.0."),
    (r"^motion\.deconv(\d)\.conv\.", r"flow_net.deconvs.\1."),
    (r"^motion\.upsample_flow(\d)\.conv\.", r"flow_net.upsamplings.\1."),
    (r"^motion\.predict_flow(\d)\.conv\.", r"flow_net.predictions.\1."),
    (r"^motion\.predict_flow\.conv\.", "flow_net.predictions.2."),
    (r"^aggregator\.embed_convs\.0\.conv\.", "embedding."),
)


def published_to_native(key: str) -> str:
    """Returns the name that a parameter of a published mmtracking checkpoint has in flowdet."""
    for pattern, name in _RENAMES:
        key, count = re.subn(pattern, name, key)
        if count:
            break
    return key


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Copies weights into a module: exactly those that it has.

    Args:
        module: What to fill.
        weights: Its state dict.
        path: The file that they come from, for the message.
        name: What the module is called, for the message.

    Raises:
        CheckpointError: They do not fit; the message says all that is missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    reshaped = [
        f"{key} {list(weights[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    complaints = [
        f"{len(keys)} {fault} ({', '.join(keys[:_SHOWN_KEYS])}{', ...' if len(keys) > _SHOWN_KEYS else ''})"
        for fault, keys in (
            ("missing", sorted(set(expected) - set(weights))),
            ("unexpected", sorted(set(weights) - set(expected))),
            ("of another shape", reshaped),
        )
        if keys
    ]
    if complaints:
        raise CheckpointError(
            f"{path} does not hold the weights of {name}: of its {len(weights)} tensors for {len(expected)} expected, "
            f"{'; '.join(complaints)}. Is it of another one?"
        )
    module.load_state_dict(weights)
