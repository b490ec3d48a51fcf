"""Optical flow from coarse to fine: coarse cells are matched, and their features aligned at two finer strides."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.errors import ConfigError, check_positive
from flowdet.ops.devices import constant, full_precision
from flowdet.types import Geometry, NetworkInput

__all__ = ["CoarseToFineFlow", "CoarseToFineFlowConfig", "normalised"]

_SLOPE = 0.1
_LEAST_DEVIATION = 1e-3
_LEAST_SPREAD = 1e-2
_FIRST_SHARPNESS = 10.0
# Per squared cell: of two cells that look alike the nearer one is meant.
_FIRST_PULL = 0.02
_FIRST_DAMPING = 0.05
# In cells, at most, in one step.
_LONGEST_STEP = 2.0
# In coarse cells; keeps the inputs of the convolutions near 1.
_UNIT = 4.0


@dataclass(frozen=True)
class CoarseToFineFlowConfig:
    """How wide the parts of the flow net are, and how small the frames that it sees.

    Strides are given for the `reduction` of 2, in px of the network input; with 4 all are twice as large.

    Attributes:
        encoder: Channels of the encoder at strides 4, 8 and 16.
        compared: Channels that are compared at strides 4, 8 and 16.
        context: Channels that only the current frame has, and that the stages hand on.
        stage: Channels of the convolutions that turn matches and steps into flow.
        reduction: Pixels of the network input, in x and in y, whose mean is one pixel that the net sees.
    """

    encoder: tuple[int, int, int] = (16, 32, 32)
    compared: tuple[int, int, int] = (4, 8, 32)
    context: int = 16
    stage: int = 32
    reduction: int = 2

    def __post_init__(self) -> None:
        check_positive(self, "context", "stage")
        if self.reduction not in {2, 4}:
            raise ConfigError(f"a coarse-to-fine flow sees frames reduced 2 or 4 times, not {self.reduction} times")
        if min(*self.encoder, *self.compared) < 1 or self.compared[0] > self.encoder[0]:
            raise ConfigError(
                "a coarse-to-fine flow has 1 channel or more at each stride and compares at stride 4 no more than the "
                f"encoder has, not {self.compared} of {self.encoder}"
            )


class CoarseToFineFlow(nn.Module):
    """Flow from a current to a reference frame, in cells of 4 pixels of the reduced frames, in three stages.

    Strides are those of frames at half size. At stride 16 each cell is matched with all cells of the reference (as in
    GMFlow, CVPR 2022, section 3.1), and convolutions correct the expected places. At strides 8 and 4 the features of
    the reference are warped along the flow so far, and one step of Lucas and Kanade's method on them (IJCAI 1981; with
    the slopes of the current frame, as in Baker and Matthews, IJCV 2004, section 3.2) says where they fit better;
    convolutions at stride 16 take a share of that step and add to it.
    """

    def __init__(self, config: CoarseToFineFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = 4 * config.reduction
        (c4, c8, c16), (_, f8, f16) = config.encoder, config.compared
        context, width = config.context, config.stage
        self.stem = nn.Conv2d(3, c4, 5, 2, 2)
        self.down8 = _conv(c4, c8, 2)
        self.down16 = nn.Sequential(_conv(c8, c16, 2), _conv(c16, c16))
        self.to_features8 = nn.Conv2d(c8, f8, 1)
        self.to_features16 = nn.Conv2d(c16, f16 + context, 1)
        self.stage16 = _stage(context + 8, width, 3 + context)
        self.stage8 = _stage(2 * context + 26, width, 16 + context)
        self.stage4 = _stage(2 * context + 32, width, 16)
        self.sharpness = nn.Parameter(torch.tensor(_FIRST_SHARPNESS))
        self.pull = nn.Parameter(torch.tensor(_FIRST_PULL).log())
        self.damping = nn.Parameter(torch.full((2,), _FIRST_DAMPING).log())

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """Returns what is compared of a frame, at any brightness, and what is asked of it as the current one."""
        frames = zip(inputs.images, inputs.geometries, strict=True)
        return self.encode(torch.cat([_seen(*each, self.config.reduction) for each in frames]))

    def encode(self, images: Tensor) -> Tensor:
        """Returns prepared frames [b, c, h / 8, w / 8] from reduced frames [b, 3, h, w], see `normalised`.

        The maps at strides 4 and 8 lie in it cell by cell of stride 16, only in the order of their numbers.
        """
        at4 = self.stem(images)
        at8 = self.down8(F.leaky_relu(at4, _SLOPE))
        at16 = full_precision(self.to_features16(self.down16(at8)))
        features4 = full_precision(at4[:, : self.config.compared[0]])
        features8 = full_precision(self.to_features8(at8))
        look, context = at16.split((self.config.compared[2], self.config.context), dim=1)
        batch, _, height, width = at16.shape
        place = _centres(height, width, at16).expand(batch, -1, -1, -1)
        distance = place.square().sum(dim=1, keepdim=True)
        # Similarity and squared distance, but for a term that the softmax does not see, are one product of both.
        look, pull = F.normalize(look, dim=1), self.pull.exp()
        key = torch.cat((look, place, distance), dim=1)
        query = torch.cat((self.sharpness * look, 2 * pull * place, -pull.expand_as(distance)), dim=1)
        slopes4, slopes8 = _slopes(features4), _slopes(features8)
        steepness = F.avg_pool2d(torch.cat((F.avg_pool2d(_products(slopes4), 2), _products(slopes8)), dim=1), 3, 1, 1)
        edge = place / _size_of(place) - 0.5
        maps = (features4, features8, key, query, slopes4, slopes8, steepness, context, edge)
        return torch.cat([each.reshape(batch, -1, height, width) for each in maps], dim=1)

    @property
    def _sizes(self) -> tuple[list[int], list[int]]:
        """Numbers of each map of a prepared frame in a coarse cell: of those that are compared, and of the others."""
        f4, f8, f16 = self.config.compared
        return [16 * f4, 4 * f8, f16 + 3], [f16 + 3, 32 * f4, 8 * f8, 24, self.config.context, 2]

    def as_current(self, prepared: Tensor) -> Tensor:
        """Returns the same."""
        return prepared

    def as_reference(self, prepared: Tensor) -> Tensor:
        """Returns the part that is compared."""
        return prepared[:, : sum(self._sizes[0])]

    def forward(self, current: Tensor, reference: Tensor) -> Tensor:
        """Returns flow for warping features.

        Args:
            current: [b, c, h, w], from `as_current`.
            reference: [b, d, h, w], from `as_reference`.

        Returns:
            [b, 2, 2 h, 2 w] (dx, dy) from the current to the reference frame, in cells of `stride` px.
        """
        return self.predict(current, reference)[-1]

    def similarity(self, current: Tensor, reference: Tensor) -> Tensor:
        """Returns the similarity [b, h * w, h * w] of each coarse cell of the current and of the reference frame."""
        compared, others = self._sizes
        query, key = current.split(compared + others, dim=1)[3], reference.split(compared, dim=1)[2]
        similarity: Tensor = query[:, :-3].flatten(2).transpose(1, 2) @ key[:, :-3].flatten(2)
        return similarity

    def predict(self, current: Tensor, reference: Tensor) -> list[Tensor]:
        """Returns the expected match and the flow after each stage; `forward` returns the last one.

        The first two are [b, 2, h, w] in coarse cells, the others as `forward` returns them.
        """
        # Coordinates and the odds of a match need float32; the convolutions do not.
        autocasts = torch.is_autocast_enabled(current.device.type)
        with torch.autocast(current.device.type, enabled=False):
            return self._predict(current, reference, autocasts=autocasts)

    def _predict(self, current: Tensor, reference: Tensor, *, autocasts: bool) -> list[Tensor]:
        batch, _, height, width = current.shape
        compared, others = self._sizes
        features4, features8, own, query, slopes4, slopes8, steepness, context, edge = current.split(
            compared + others, dim=1
        )
        reference4, reference8, key = reference.split(compared, dim=1)
        steepness4, steepness8 = steepness.split(12, dim=1)

        def at(cells: int, x: Tensor) -> Tensor:
            return x.reshape(batch, -1, cells * height, cells * width)

        def converted(stage: nn.Module, *seen: Tensor) -> Tensor:
            with torch.autocast(current.device.type, enabled=autocasts):
                found: Tensor = stage(torch.cat(seen, dim=1))
            return full_precision(found)

        match, doubt = _match(query, key, own[:, -3:-1])
        outputs = converted(self.stage16, context, match / _UNIT, doubt, edge)
        shift, trust, hidden = outputs.split((2, 1, self.config.context), dim=1)
        flow16 = match * trust.sigmoid() + shift

        # Flow at stride 8, and how well it fits there.
        flow = _doubled(flow16)
        slopes, damping = steepness8, self.damping.exp()
        error = _warp(at(2, reference8), flow) - at(2, features8)
        fit = _fit(at(2, slopes8), error)
        step = _step(at(2, slopes), fit, damping[0])
        seen = F.pixel_unshuffle(torch.cat((step, fit[:, 2:]), dim=1), 2)
        steep = F.pixel_unshuffle(at(2, steepness8), 2)
        outputs = converted(self.stage8, context, hidden, seen, steep, flow16 / _UNIT)
        change, hidden = outputs.split((16, self.config.context), dim=1)
        flow8 = _changed(flow, step, change)

        error = _warp(at(4, reference4), _doubled(flow8)) - at(4, features4)
        fit = F.avg_pool2d(_fit(at(4, slopes4), error), 2)
        step = _step(at(2, steepness4), fit, damping[1]) / 2
        seen = F.pixel_unshuffle(torch.cat((step, fit[:, 2:], flow8 / (2 * _UNIT)), dim=1), 2)
        steep = F.pixel_unshuffle(at(2, steepness4), 2)
        change = converted(self.stage4, context, hidden, seen, steep)
        return [match, flow16, flow8, _changed(flow8, step, change)]


def normalised(images: Tensor) -> Tensor:
    """Returns images [b, c, h, w] each with mean 0 and standard deviation 1 in every channel."""
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    return centred / (centred.square().mean(dim=(2, 3), keepdim=True).sqrt() + _LEAST_DEVIATION)


def _seen(image: Tensor, geometry: Geometry, reduction: int) -> Tensor:
    """An image [3, H, W] reduced n times, normalised, its edges repeated into the padding, [1, 3, H / n, W / n]."""
    height, width = (max(side // reduction, 1) for side in geometry.valid)
    pixels = F.avg_pool2d(image[None, :, : reduction * height, : reduction * width], reduction)
    padding = (0, geometry.padded[1] // reduction - width, 0, geometry.padded[0] // reduction - height)
    return F.pad(normalised(pixels), padding, mode="replicate")


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
    nn.init.kaiming_normal_(conv.weight, a=_SLOPE)
    return nn.Sequential(conv, nn.LeakyReLU(_SLOPE, inplace=True))


def _stage(inputs: int, width: int, outputs: int) -> nn.Sequential:
    last = nn.Conv2d(width, outputs, 3, padding=1)
    nn.init.normal_(last.weight, std=1e-2)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(_conv(inputs, width), _conv(width, width), last)


def _centres(height: int, width: int, like: Tensor) -> Tensor:
    """Centres [2, height, width] (x, y) of cells."""
    x = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
    y = torch.arange(height, dtype=like.dtype, device=like.device) + 0.5
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)))


def _size_of(maps: Tensor) -> Tensor:
    """Width and height [2, 1, 1] of maps."""
    return constant((maps.shape[-1], maps.shape[-2]), maps.dtype, maps.device)[:, None, None]


def _slopes(features: Tensor) -> Tensor:
    """Differences a cell [b, 2 c, h, w] of features [b, c, h, w] in x, then in y."""
    wide = F.pad(features, (1, 1, 1, 1), mode="replicate")
    in_x, in_y = wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2], wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]
    return torch.cat((in_x, in_y), dim=1) / 2


def _products(slopes: Tensor) -> Tensor:
    """Mean products [b, 3, h, w] of slopes [b, 2 c, h, w]: xx, xy and yy."""
    x, y = slopes.chunk(2, dim=1)
    return torch.cat([(a * b).mean(dim=1, keepdim=True) for a, b in ((x, x), (x, y), (y, y))], dim=1)


def _match(query: Tensor, key: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the expected flow [b, 2, h, w] in cells, and [b, 4, h, w] on it.

    These are how likely the likeliest match is, how far others lie, and the mean flow of the frame by that odds.
    """
    height, width = query.shape[2:]
    keys = key.flatten(2)
    odds = (query.flatten(2).transpose(1, 2) @ keys).softmax(dim=2)
    expected = (keys[:, -3:] @ odds.transpose(1, 2)).unflatten(2, (height, width))
    where, distance = expected.split((2, 1), dim=1)
    spread = (distance - where.square().sum(dim=1, keepdim=True)).clamp(min=_LEAST_SPREAD**2).sqrt()
    certainty = odds.amax(dim=2).unflatten(1, (height, width))[:, None]
    match = where - place
    overall = (match * certainty).mean(dim=(2, 3), keepdim=True) / certainty.mean(dim=(2, 3), keepdim=True)
    return match, torch.cat((certainty, spread / _UNIT, (overall / _UNIT).expand_as(match)), dim=1)


def _doubled(flow: Tensor) -> Tensor:
    """The flow on cells of half the size, in these."""
    return F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False) * 2


def _warp(features: Tensor, flow: Tensor) -> Tensor:
    """Features [b, c, h, w] where a flow [b, 2, h, w] in cells finds them; borders are repeated."""
    height, width = flow.shape[2:]
    grid = (flow + _centres(height, width, flow)) * (2 / _size_of(flow)) - 1
    return F.grid_sample(
        features, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False
    )


def _fit(slopes: Tensor, error: Tensor) -> Tensor:
    """Mean products [b, 3, h, w] of the errors [b, c, h, w] with the slopes in x and in y, and with themselves."""
    x, y = slopes.chunk(2, dim=1)
    return torch.cat([(each * error).mean(dim=1, keepdim=True) for each in (x, y, error)], dim=1)


def _step(steepness: Tensor, fit: Tensor, damping: Tensor) -> Tensor:
    """Lucas and Kanade's step [b, 2, h, w] in cells of the features, from windows of 3x3 cells."""
    xx, xy, yy = steepness.chunk(3, dim=1)
    x, y = F.avg_pool2d(fit[:, :2], 3, 1, 1).chunk(2, dim=1)
    xx, yy = xx + damping, yy + damping
    step = torch.cat((xy * y - yy * x, xy * x - xx * y), dim=1) / (xx * yy - xy * xy)
    return step.clamp(-_LONGEST_STEP, _LONGEST_STEP)


def _changed(flow: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """The flow with what a stage adds and its share of the step, both from `change` [b, 16, h / 2, w / 2]."""
    shift, share = F.pixel_shuffle(change, 2).chunk(2, dim=1)
    return flow + shift + step * share.sigmoid()
