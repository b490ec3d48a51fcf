"""Optical flow for small systems: each frame is encoded once, and cells of two frames are matched by similarity."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.errors import ConfigError, check_positive
from flowdet.inputs import FEATURE_STRIDE
from flowdet.ops.devices import full_precision
from flowdet.types import NetworkInput

__all__ = ["MatchingFlow", "MatchingFlowConfig"]

_FIRST_SHARPNESS = 20.0
# Per squared cell: the first match may lie anywhere, later ones near the flow found before.
_FIRST_PULLS = (0.05, 0.2, 0.5)
_LEAST_DEVIATION = 1e-3
# In cells; keeps the inputs of the convolutions near 1.
_UNIT = 4.0


@dataclass(frozen=True)
class MatchingFlowConfig:
    """How wide the encoder and the refinement are, and how often a pair of frames is matched.

    Attributes:
        encoder: Channels at stride 2, 4 and 8 of the encoder's input; the last are compared.
        refinement: Channels of the convolutions that turn matches into flow.
        rounds: 1 to 3.
        shrink: Network-input pixels on a side of one pixel that the encoder sees. With 2 a frame has a quarter of the
            places, as many as it has feature cells, so that everything costs less and small motion is found less well.
    """

    encoder: tuple[int, int, int] = (24, 48, 64)
    refinement: int = 64
    rounds: int = 3
    shrink: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        check_positive(self, "refinement", "rounds")
        if min(self.encoder) < 1 or self.rounds > len(_FIRST_PULLS):
            raise ConfigError(
                f"a matching flow has 1 channel or more at each stride and {len(_FIRST_PULLS)} rounds at most, "
                f"not {self.encoder} and {self.rounds}"
            )
        if self.shrink not in {1, 2}:
            raise ConfigError(f"a matching flow shrinks frames by 1 or 2, not by {self.shrink}")


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation)
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    return nn.Sequential(conv, nn.LeakyReLU(0.1, inplace=True))


class MatchingFlow(nn.Module):
    """Flow from the current to a reference frame, by matching every cell with all places of the reference.

    Each cell of the current frame is compared with the whole reference frame; its expected place is the softmax of the
    similarities (as in GMFlow, CVPR 2022, section 3.1). Convolutions say how far to trust that and correct it, and
    the next round looks for the match near the flow of the one before; the first begins with no motion.
    """

    stride = FEATURE_STRIDE

    def __init__(self, config: MatchingFlowConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3 = config.encoder
        self.encoder = nn.Sequential(
            _conv(3, c1, 5, 2),
            _conv(c1, c2, 3, 2),
            _conv(c2, c3, 3, 2),
            _conv(c3, c3, 3),
            nn.Conv2d(c3, c3, 3, padding=1),
        )
        width = config.refinement
        self.refinements = nn.ModuleList(
            nn.Sequential(
                _conv(c3 + 5, width, 3),
                _conv(width, width, 3, dilation=2),
                _conv(width, width, 3, dilation=4),
                _conv(width, width, 3),
                nn.Conv2d(width, 3, 3, padding=1),
            )
            for _ in range(config.rounds)
        )
        for refinement in self.refinements:
            last = list(refinement.children())[-1]
            assert isinstance(last, nn.Conv2d)
            nn.init.normal_(last.weight, std=1e-2)
        self.sharpness = nn.Parameter(torch.tensor(_FIRST_SHARPNESS))
        self.pulls = nn.Parameter(torch.tensor(_FIRST_PULLS[: config.rounds]).log())

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """Returns what is compared of a frame, [b, c, H / 8, W / 8] or, shrunk, half of that, at any brightness."""
        images = F.avg_pool2d(inputs.images, self.config.shrink)
        mean, deviation = images.mean(dim=(2, 3), keepdim=True), images.std(dim=(2, 3), keepdim=True)
        encoded: Tensor = self.encoder((images - mean) / (deviation + _LEAST_DEVIATION))
        return encoded

    @property
    def places_a_side(self) -> int:
        """How many places of the reference frame lie along one side of a feature cell."""
        return 2 // self.config.shrink

    def as_current(self, prepared: Tensor) -> Tensor:
        """Returns the same: a frame is compared as it is."""
        return prepared

    def as_reference(self, prepared: Tensor) -> Tensor:
        """Returns the same: a frame is compared as it is."""
        return prepared

    def similarity(self, current: Tensor, reference: Tensor) -> Tensor:
        """Returns the similarity [b, h * w, k] of each cell of the current frame and k places of the reference."""
        with torch.autocast(current.device.type, enabled=False):
            cells = F.normalize(F.avg_pool2d(full_precision(current), self.places_a_side), dim=1).flatten(2)
            return self.sharpness * (cells.transpose(1, 2) @ F.normalize(full_precision(reference), dim=1).flatten(2))

    def predict(self, current: Tensor, reference: Tensor) -> list[Tensor]:
        """Returns the flow after each match and after each refinement; `forward` returns the last one."""
        # Coordinates and the odds of a match need float32; the convolutions do not.
        autocasts = torch.is_autocast_enabled(current.device.type)
        with torch.autocast(current.device.type, enabled=False):
            return self._predict(full_precision(current), full_precision(reference), autocasts=autocasts)

    def _predict(self, current: Tensor, reference: Tensor, *, autocasts: bool) -> list[Tensor]:
        finer = self.places_a_side
        cells = F.avg_pool2d(current, finer)
        batch, channels, height, width = cells.shape
        look = F.normalize(cells, dim=1)
        queries = self.sharpness * look.flatten(2).transpose(1, 2)
        here, places = _centres(height, width, cells, 1.0), _centres(finer * height, finer * width, cells, 1 / finer)
        # The similarity and the squared distance to each place, but for a term that the softmax does not see, are one
        # product of these with the queries and where they are expected.
        where = torch.cat((places, places.square().sum(dim=1, keepdim=True)), dim=1).T.expand(batch, -1, -1)
        keys = torch.cat((F.normalize(reference, dim=1).flatten(2), where), dim=1)
        flow, found = cells.new_zeros(batch, 2, height, width), []
        for pull, refinement in zip(self.pulls.exp(), self.refinements, strict=True):
            expected = here + flow.flatten(2).transpose(1, 2)
            drawn = torch.cat((2 * pull * expected, -pull.expand(*expected.shape[:2], 1)), dim=2)
            odds = (torch.cat((queries, drawn), dim=2) @ keys).softmax(dim=2)
            match = (odds @ places - here).transpose(1, 2).unflatten(2, (height, width))
            certainty = odds.amax(dim=2).unflatten(1, (height, width))[:, None]
            seen = torch.cat((look * channels**0.5, match / _UNIT, (match - flow) / _UNIT, certainty), dim=1)
            with torch.autocast(current.device.type, enabled=autocasts):
                refined: Tensor = refinement(seen)
            trust, correction = full_precision(refined).split((1, 2), dim=1)
            flow = torch.lerp(flow, match, trust.sigmoid()) + correction
            found += [match, flow]
        return found

    def forward(self, current: Tensor, reference: Tensor) -> Tensor:
        """Returns flow for warping features.

        Args:
            current: [b, c, H / 8, W / 8] or half of that, prepared.
            reference: The same of the reference frame.

        Returns:
            [b, 2, H / 16, W / 16] (dx, dy) from the current to the reference frame, in feature cells of 16 px.
        """
        return self.predict(current, reference)[-1]


def _centres(height: int, width: int, like: Tensor, spacing: float) -> Tensor:
    """Centres [height * width, 2] (x, y) of cells at this spacing, row by row."""
    y = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) * spacing
    x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) * spacing
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
