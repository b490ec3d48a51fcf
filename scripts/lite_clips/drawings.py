"""Training clips drawn in memory, with flow, from the same scenes as the benchmark's training split."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from flowdet.data.synthetic.assets import Picture, load_assets
from flowdet.data.synthetic.clip import SyntheticClip
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.data.synthetic.scene import draw_scene
from flowdet.errors import ConfigError
from flowdet.types import Targets

from .clip import FlowClip
from .restyle import RestyleConfig, restyled

__all__ = ["SyntheticClips"]


class SyntheticClips:
    """Draws random clips of the training split's drawings and photographs; no two are the same.

    Args:
        class_names: Names of the classes, in the order of the labels.
        config: Parameters; by default those of the benchmark.
        reach: Largest distance of a reference from the current frame, in frames.
        restyle: How drawings change their style; None leaves them as they are.
        more: More drawings by class name, each as likely as one of the package.

    Raises:
        ConfigError: A class has no drawing, or the reach is below 1.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        config: SyntheticConfig | None = None,
        reach: int = 9,
        restyle: RestyleConfig | None = None,
        more: Mapping[str, Sequence[Picture]] | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.config = config or SyntheticConfig()
        self.reach = reach
        self.restyle = restyle
        assets = load_assets("train")
        drawings = dict(assets.drawings)
        for name, pictures in (more or {}).items():
            drawings[name] = (*drawings.get(name, ()), *pictures)
        self._assets = replace(assets, drawings=drawings)
        missing = [name for name in self.class_names if name not in self._assets.drawings]
        if missing or not self.class_names:
            raise ConfigError(f"there is no drawing of {', '.join(missing) or 'no class at all'}")
        if reach < 1:
            raise ConfigError(f"the reach of a synthetic clip is 1 frame or more, not {reach}")

    def draw(self, rng: np.random.Generator, references: int) -> FlowClip:
        """Returns a random clip with this number of reference frames, compressed as the benchmark's frames are."""
        return self.draw_with_visibility(rng, references)[0]

    def draw_with_visibility(self, rng: np.random.Generator, references: int) -> tuple[FlowClip, torch.Tensor]:
        """Returns a clip as `draw`, and a mask [r, h, w] of the pixels that each reference shows too."""
        scene = draw_scene(
            rng,
            self._assets,
            first=self.class_names[rng.integers(len(self.class_names))],
            class_names=self.class_names,
            length=2 * self.reach + 1,
            config=self.config,
            **({"restyle": partial(restyled, config=self.restyle)} if self.restyle else {}),
        )
        clip = SyntheticClip(scene, self.config, (int(rng.integers(2**62)),))
        now = self.reach
        others = [now + step for step in range(-self.reach, self.reach + 1) if step]
        times = rng.choice(others, references).tolist()
        current = clip.frame(now)
        images = [_through_jpeg(clip, image) for image in (current.image, *(clip.frame(t).image for t in times))]
        flows = [clip.flow(now, time) for time in times]
        empty = torch.zeros((0, 2, *self.config.size))
        still = FlowClip(
            frames=torch.from_numpy(np.stack(images)),
            flows=torch.stack([flow.flow for flow in flows]) if flows else empty,
            targets=Targets(
                torch.tensor([each.box for each in current.objects], dtype=torch.float32).reshape(-1, 4),
                torch.tensor([self.class_names.index(each.class_name) for each in current.objects], dtype=torch.int64),
            ),
        )
        return still, torch.stack([flow.visible for flow in flows]) if flows else empty[:, 0].bool()


def _through_jpeg(clip: SyntheticClip, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(clip.jpeg(image))) as compressed:
        return np.array(compressed)
