import torch

from flowdet.inputs import prepare
from tests.tiny import INPUTS, tiny_detector, video


@torch.inference_mode()
def test_a_batch_equals_one_by_one() -> None:
    detector = tiny_detector()
    images = video(3)
    batch = prepare(images, INPUTS)
    together = detector.detect(detector.extract(batch.images), batch.geometries)
    assert len(together) == 3
    for number, image in enumerate(images):
        single = prepare([image], INPUTS)
        (alone,) = detector.detect(detector.extract(single.images), single.geometries)
        assert len(alone[0]) > 10
        for one, other in zip(together[number], alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_boxes_stay_in_the_original_image() -> None:
    detector = tiny_detector()
    batch = prepare(video(1, size=(40, 88)), INPUTS)
    ((boxes, scores, labels),) = detector.detect(detector.extract(batch.images), batch.geometries)
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 88
    assert boxes[:, 3].max() <= 40
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert scores.max() <= 1
    assert set(labels.tolist()) <= {0, 1, 2}
