"""Flows put together from shorter ones."""

import torch
from torch import Tensor

from flowdet.ops.sampling import warp

__all__ = ["follow", "hop"]


def hop(flow: Tensor, back: Tensor) -> Tensor:
    """Returns a short flow, and how far the flow in the other direction is from undoing it.

    Args:
        flow: [b, 2, h, w] (dx, dy) from frame s to its neighbour, in its cells.
        back: [b, 2, h, w] from the neighbour to s.

    Returns:
        [b, 3, h, w]: the flow, and the length of the way there and back, in its cells; 0 where the two agree.
    """
    there_and_back = flow + warp(back, flow, "identity")
    return torch.cat((flow, there_and_back.norm(dim=1, keepdim=True)), dim=1)


def follow(path: Tensor, following: Tensor) -> Tensor:
    """Returns a path that is one hop longer: flow(t, r) = flow(t, s) + flow(s, r) where flow(t, s) leads to.

    Args:
        path: [b, 3, h, w] flow from frame t to s and the disagreement of its hops, in its cells.
        following: [b, 3, h, w] the hop from s to r.

    Returns:
        [b, 3, h, w] flow from t to r, and the disagreements added up along the way.
    """
    return path + warp(following, path[:, :2], "identity")
