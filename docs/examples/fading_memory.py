"""A temporal method in one file: the maps of past frames fade, without flow."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Never

from flowdet.cli import main
from flowdet.errors import ConfigError
from flowdet.systems.config import SystemConfig
from flowdet.systems.recipes import RECIPES, fgfa_lite
from flowdet.temporal.base import MapSource, MethodConfig, MethodParts
from flowdet.types import ClipBatch, FrameFeatures, Maps, NetworkInput


@dataclass(frozen=True)
class FadingMemoryConfig(MethodConfig):
    """How fast the past fades: memory = keep * memory + (1 - keep) * maps of the frame."""

    keep: float = 0.5

    uses_flow = False
    references = None
    kinds = ("frame",)
    overlays = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.keep < 1:
            raise ConfigError(f"keep is from 0 to below 1, not {self.keep}")

    def build(self, parts: MethodParts) -> "FadingMemory":
        """Returns the method over these parts."""
        return FadingMemory(parts.detector, self.keep)

    def causal(self) -> Never:
        """It never looks ahead."""
        raise self._already_causal("a fading memory")


@dataclass(frozen=True, eq=False)
class MemoryState:
    """The number of frames so far, and the memory; empty before the first frame."""

    received: int
    memory: Maps


@dataclass(frozen=True)
class FadingMemory:
    """Every frame is answered at once."""

    detector: MapSource
    keep: float
    lookahead: int = 0

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> MemoryState:
        """Nothing is remembered."""
        del preview
        return MemoryState(0, ())

    def step(self, inputs: NetworkInput, state: MemoryState) -> tuple[list[FrameFeatures], MemoryState]:
        """Returns the memory with this frame in it."""
        maps = self.detector.extract(inputs.images)
        if state.memory:
            pairs = zip(state.memory, maps, strict=True)
            maps = tuple(self.keep * old + (1 - self.keep) * new for old, new in pairs)
        output = FrameFeatures(state.received, maps, inputs.geometries)
        return [output], MemoryState(state.received + 1, maps)

    def flush(self, state: MemoryState) -> list[FrameFeatures]:
        """Nothing is held back."""
        del state
        return []

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        """Training sees single frames."""
        return FrameFeatures(0, self.detector.extract(clips.current.images), clips.current.geometries)


def fading_lite() -> SystemConfig:
    """A recipe: the detector of fgfa-lite, whose weights fit."""
    return replace(fgfa_lite(), name="fading-lite", method=FadingMemoryConfig(), flow_net=None)


RECIPES["fading-lite"] = fading_lite

if __name__ == "__main__":
    main()  # python fading_memory.py detect clip.mp4 --system fading-lite --weights fgfa-lite
