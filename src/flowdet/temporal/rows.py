"""Some of the streams that run in lock step, taken out of what a method holds and gives for all of them."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from flowdet.types import Aggregation, FrameFeatures, Geometry, Propagation

__all__ = ["select_features", "select_state"]

State = TypeVar("State")


def select_state(state: State, rows: Sequence[int]) -> State:
    """The state of some streams, as if the others had never been there.

    What a state holds of b streams is a tensor with b rows or a tuple of b geometries or numbers; it may lie in
    dataclasses and tuples of such. All else is the same for all of them.

    Args:
        state: Of a temporal method, for b streams.
        rows: Which of the b to keep.
    """
    selected: State = _select(state, list(rows))
    return selected


def _select(value: Any, rows: list[int]) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, tuple):
        if value and isinstance(value[0], Geometry | int):
            return tuple(value[row] for row in rows)
        return tuple(_select(part, rows) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _select(getattr(value, part.name), rows) for part in fields(value)})
    return value


def select_features(features: FrameFeatures, row: int) -> FrameFeatures:
    """What a method has given for one of b streams, with b = 1."""
    only = slice(row, row + 1)
    match features.origin:
        case Aggregation() as origin:
            flows, weights = origin.flows[only], origin.weights[only]
            chosen: Aggregation | Propagation | None = Aggregation(
                origin.references, flows, weights, origin.fallbacks[only]
            )
        case Propagation(key_frames, flow):
            is_key = flow is None or key_frames[row] == features.index
            chosen = Propagation(key_frames[only], None if is_key or flow is None else flow[only])
        case None:
            chosen = None
    return replace(features, features=features.features[only], geometries=features.geometries[only], origin=chosen)
