"""Temporal RoI Align (Gong et al., AAAI 2021): RoI features gather their like in other frames, before SELSA."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.detectors.base import RoIAttention
from flowdet.errors import ConfigError, check_positive
from flowdet.inputs import FEATURE_STRIDE
from flowdet.ops.devices import full_precision
from flowdet.ops.sampling import roi_taps
from flowdet.temporal.selsa import SELSAAttention, SELSAConfig
from flowdet.types import Maps

__all__ = ["TemporalRoIAlignConfig", "TemporalRoIAttention"]

_ROIS_AT_ONCE, _BINS_AT_ONCE = 16, 800  # of which products fit the caches
_SHORTEST = 1e-12


@dataclass(frozen=True)
class TemporalRoIAlignConfig(SELSAConfig):
    """SELSA, and how RoI features are gathered; the defaults are the published protocol.

    Attributes:
        similar: The number of cells of each reference that a bin of an RoI is compared with in the end.
        blocks: Temporal attention has weights of its own for each of these blocks of channels.
    """

    similar: int = 2
    blocks: int = 4

    keeps_maps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "similar", "blocks")

    @property
    def attention(self) -> Callable[[Sequence[int]], RoIAttention]:
        """Aggregation of RoI features before the RoI head, and SELSA's attention after each of its layers."""
        return lambda widths: TemporalRoIAttention(widths, self)


class TemporalRoIAttention(SELSAAttention):
    """Most similar RoIAlign and temporal attentional feature aggregation (sections 3.2 and 3.3), then SELSA.

    Args:
        widths: The number of channels of the map, and the widths of the RoI head's layers.
        config: The method's.
    """

    def __init__(self, widths: Sequence[int], config: TemporalRoIAlignConfig) -> None:
        super().__init__(widths[1:], config.heads)
        if widths[0] % config.blocks:
            raise ConfigError(f"{config.blocks} blocks do not divide the map's {widths[0]} channels")
        self.embedding = nn.Conv2d(widths[0], widths[0], 3, padding=1)
        self._config = config

    def pool(self, pooled: Tensor, rois: Sequence[Tensor], maps: Maps, support: Any) -> Tensor:
        """Returns RoI features averaged with their like in the references."""
        found = []
        for row, own in enumerate(pooled.split([len(of_image) for of_image in rois])):
            references = [each[row] for each in (*support.maps, *(maps if support.with_own else ()))]
            found.append(self._aligned(own, rois[row], maps[0][row], references) if references and len(own) else own)
        return torch.cat(found)

    def _aligned(self, own: Tensor, boxes: Tensor, current: Tensor, references: Sequence[Tensor]) -> Tensor:
        """Returns RoI features averaged with their like in the references.

        Args:
            own: [n, c, k, k] RoI features.
            boxes: [n, 4] xyxy px, network input, that they were pooled from.
            current: [c, h, w], the map that they were pooled from.
            references: [c, h, w] each.
        """
        side, cells = own.shape[2], _cells(current)
        bins = own.permute(0, 2, 3, 1).flatten(0, 2)
        taps, shares = roi_taps([boxes], current.shape[1:], side, FEATURE_STRIDE)
        shares = shares / _lengths(bins)
        gathered = []
        for reference in map(_cells, references):
            lengths = _lengths(reference)
            units = reference / lengths
            places, weights = self._most_similar(taps, shares, cells, units)
            gathered.append((places, weights * lengths[places, 0], units))
        averaged = []
        for number, some in enumerate(own.split(_ROIS_AT_ONCE)):
            part = slice(number * _ROIS_AT_ONCE * side**2, (number + 1) * _ROIS_AT_ONCE * side**2)
            slots = [bins[part], *(_summed(units, places[part], each[part]) for places, each, units in gathered)]
            averaged.append(self._average(some, torch.stack(slots, dim=1)))
        return torch.cat(averaged)

    def _most_similar(self, taps: Tensor, shares: Tensor, cells: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """The cells [p, similar] of a reference that are most like each of p bins, and their weights.

        A bin is a weighted sum of cells of its map, and so its cosine with a cell of the reference is one of products
        of cells. These are computed once for all bins.

        Args:
            taps: [p, t] the cells of the current map that make up each bin.
            shares: [p, t] of them, over the length of the bin.
            cells: [h w, c] all cells of the current map.
            units: [h w, c] cells of the reference, normalised.
        """
        products = full_precision(cells @ units.T)
        parts = zip(taps.split(_BINS_AT_ONCE), shares.split(_BINS_AT_ONCE), strict=True)
        best = [_best(_summed(products, *part), self._config.similar) for part in parts]
        cosines, places = (torch.cat(each) for each in zip(*best, strict=True))
        return places, cosines.softmax(dim=1)

    def _average(self, own: Tensor, slots: Tensor) -> Tensor:
        """RoI features [n, c, k, k], as the weighted mean of slots [n k k, s, c], their own first."""
        blocks, side = self._config.blocks, own.shape[2]
        weights = self._weights(own, slots)
        averaged: Tensor = (slots.unflatten(2, (blocks, -1)) * weights[..., None]).sum(dim=1)
        return averaged.view(-1, side, side, own.shape[1]).permute(0, 3, 1, 2).to(own.dtype)

    def _weights(self, own: Tensor, features: Tensor) -> Tensor:
        """The weight [n k k, s, blocks] of each of s slots, the RoI's own first, in each of its cells.

        The logit of a slot is the product of its embedding with that of the first. Since the embedding is linear, its
        weights are applied to the first one instead: one slot is embedded there and back, in place of all. Its bias
        adds the same to all slots.

        Args:
            own: [n, c, k, k] RoI features.
            features: [n k k, s, c] those of all slots.
        """
        (count, channels, side, _), blocks = own.shape, self._config.blocks
        wide = channels // blocks
        around = F.unfold(self.embedding(own), 3, padding=1).view(count, blocks, wide, 9, -1)
        kernels = self.embedding.weight.flip(2, 3).view(blocks, wide, channels, 9).permute(0, 3, 1, 2)
        back = around.permute(1, 3, 0, 4, 2).reshape(blocks * 9, -1, wide) @ kernels.reshape(-1, wide, channels)
        products = (features @ back.permute(1, 2, 0)).view(count, side * side, -1)
        logits = F.fold(products.transpose(1, 2), (side, side), 3, padding=1) / math.sqrt(wide)
        weights: Tensor = logits.view(count, -1, blocks, side * side).softmax(dim=1).permute(0, 3, 1, 2)
        return weights.flatten(0, 1)


def _cells(features: Tensor) -> Tensor:
    """A map [c, h, w] as its cells [h w, c]."""
    return full_precision(features).flatten(1).T.contiguous()


def _lengths(cells: Tensor) -> Tensor:
    """The lengths [n, 1] of cells [n, c]."""
    lengths: Tensor = torch.linalg.vector_norm(full_precision(cells), dim=1, keepdim=True)
    return lengths.clamp(min=_SHORTEST)


def _summed(rows: Tensor, places: Tensor, shares: Tensor) -> Tensor:
    """Weighted sums [n, d] of rows [m, d]: of those at places [n, k], with these shares."""
    return F.embedding_bag(places, rows, mode="sum", per_sample_weights=shares)


def _best(similarities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values of each row, and their places."""
    return similarities.topk(min(count, similarities.shape[1]), dim=1)
