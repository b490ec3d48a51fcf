import torch

from flowdet.training.batches import clips_of
from tests.training.runs import TinyClips, losses_of_system, system_of


def test_the_losses_of_a_batch_are_the_means_over_its_clips() -> None:
    batch = TinyClips(references=2, clips_per_device=4).batch([1, 2, 3])
    parts = dict(clips_of(batch))
    assert list(parts) == ["clip 1", "clip 2", "clip 3"]
    assert [part.clips.still for part in parts.values()] == [(True,), (False,), (False,)]
    assert [part.seeds for part in parts.values()] == [(1,), (2,), (3,)]
    system = system_of("tiny-fgfa")
    with torch.no_grad():
        together = losses_of_system(system, batch)
        each = [losses_of_system(system, part) for part in parts.values()]
    for name, loss in together.items():
        torch.testing.assert_close(loss, torch.stack([losses[name] for losses in each]).mean())
