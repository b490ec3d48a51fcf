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
from flowdet.temporal.selsa import SELSAAttention, SELSAConfig
from flowdet.types import Maps

__all__ = ["TemporalRoIAlignConfig", "TemporalRoIAttention"]

_ROIS_AT_ONCE = 16
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
            if references and len(own):
                cells = [_Cells.of(each) for each in references]
                found += [self._aggregate(some, cells) for some in own.split(_ROIS_AT_ONCE)]
            else:
                found.append(own)
        return torch.cat(found)

    def _aggregate(self, own: Tensor, references: Sequence["_Cells"]) -> Tensor:
        """RoI features [n, c, k, k], averaged with those of maps."""
        cells = own.flatten(2).transpose(1, 2).flatten(0, 1)
        unit = F.normalize(cells, dim=1)
        slots = [cells]
        for reference in references:
            cosines = (unit @ reference.units.T).unflatten(1, reference.size)
            similarities, places = _best(cosines, self._config.similar)
            shares = similarities.softmax(dim=1) * reference.lengths[places]
            found = F.embedding_bag(places, reference.units, mode="sum", per_sample_weights=shares)
            slots.append(found.to(cells.dtype))
        features, blocks = torch.stack(slots, dim=1), self._config.blocks
        weights = self._weights(own, features)
        averaged = torch.einsum("nsbd,nsb->nbd", features.unflatten(2, (blocks, -1)), weights)
        return averaged.reshape(len(own), -1, own.shape[1]).transpose(1, 2).reshape(own.shape)

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


@dataclass(frozen=True, eq=False)
class _Cells:
    """A map [c, h, w] as its cells: [h w, c] normalised, their lengths [h w], and (h, w)."""

    units: Tensor
    lengths: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, reference: Tensor) -> "_Cells":
        """Returns the cells of a map."""
        cells = reference.float().flatten(1).T
        lengths = cells.norm(dim=1).clamp(min=_SHORTEST)
        return cls((cells / lengths[:, None]).contiguous(), lengths, (reference.shape[1], reference.shape[2]))


def _best(similarities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values [n, count] of maps [n, h, w], and their places in h * w; they lie in the best rows."""
    width = similarities.shape[2]
    rows = similarities.amax(dim=2)
    best = rows.topk(min(count, rows.shape[1]), dim=1).indices
    some = similarities.gather(1, best[..., None].expand(-1, -1, width)).flatten(1)
    values, places = some.topk(min(count, some.shape[1]), dim=1)
    return values, best.gather(1, places // width) * width + places % width
