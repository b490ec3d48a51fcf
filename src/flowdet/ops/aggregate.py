"""Averaging of feature maps by the similarity of their embeddings."""

import torch
from torch import Tensor

__all__ = ["add_weighted", "aggregate", "cosine_similarity"]


_LEAST_LENGTH = 1e-12


def cosine_similarity(query: Tensor, keys: Tensor) -> Tensor:
    """Returns the cosine between the embedding of the current frame and those of n other maps, cell by cell.

    Args:
        query: [b, e, h, w] embedding of the current frame.
        keys: [b, n, e, h, w] embeddings of the maps to compare it with.

    Returns:
        [b, n, h, w] in [-1, 1]; 0 where an embedding is zero.
    """
    dot: Tensor = torch.linalg.vecdot(query[:, None], keys, dim=2)
    lengths: Tensor = query.norm(dim=1).unsqueeze(1) * keys.norm(dim=2)
    return dot / lengths.clamp(min=_LEAST_LENGTH)


def add_weighted(total: Tensor, maps: Tensor, weights: Tensor) -> None:
    """Adds n weighted maps to a total in place; the maps of a window need not all exist at once.

    Args:
        total: [b, c, h, w].
        maps: [b, n, c, h, w] features.
        weights: [b, n, h, w].
    """
    for each, weight in zip(maps.unbind(dim=1), weights.unbind(dim=1), strict=True):
        total.addcmul_(each, weight[:, None])


def aggregate(maps: Tensor, similarity: Tensor, multiplicity: Tensor) -> tuple[Tensor, Tensor]:
    """Averages maps with the softmax of their similarities (FGFA, section 3.2, equations 2 and 3).

    A map that fills several slots of the window comes once, with its number of slots as multiplicity.

    Args:
        maps: [b, n, c, h, w] features.
        similarity: [b, n, h, w].
        multiplicity: [n] float, how many slots of the window each map fills.

    Returns:
        The average [b, c, h, w] and the weights [b, n, h, w] that sum to one over n.
    """
    weights = torch.softmax(similarity + multiplicity.log()[:, None, None], dim=1)
    return torch.einsum("bnchw,bnhw->bchw", maps, weights), weights
