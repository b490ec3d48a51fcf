"""Training batches clip by clip."""

from collections.abc import Iterator

from flowdet.training.clips import TrainingBatch
from flowdet.types import ClipBatch, NetworkInput

__all__ = ["clips_of"]


def clips_of(batch: TrainingBatch) -> Iterator[tuple[str, TrainingBatch]]:
    """Each clip's name, and the clip as a batch of its own."""

    def of_input(inputs: NetworkInput, place: int) -> NetworkInput:
        return NetworkInput(inputs.images[place : place + 1], inputs.geometries[place : place + 1])

    for place, (name, seed) in enumerate(zip(batch.names, batch.seeds, strict=True)):
        clips = ClipBatch(
            current=of_input(batch.clips.current, place),
            references=tuple(of_input(reference, place) for reference in batch.clips.references),
            targets=batch.clips.targets[place : place + 1],
            still=batch.clips.still[place : place + 1],
        )
        yield name, TrainingBatch(clips, (name,), (seed,))
