from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from flowdet.class_names import COCO_CLASSES
from flowdet.detectors.yolox import YOLOX, YOLOX_SIZES, YOLOXConfig
from flowdet.errors import CheckpointError, ConfigError
from flowdet.systems.recipes import single_yolox
from flowdet.types import FrameFeatures, Geometry, Targets
from flowdet.weights.native import read_system, start_from
from flowdet.weights.yolox import yolox_to_native
from tests.golden.one_stage import NUMBERS, yolox_shapes
from tests.seeded_yolox import YOLOX_RUNS, YOLOXRun, official_weights


def seeded(run: YOLOXRun, **options: float) -> YOLOX:
    config = replace(YOLOX_SIZES[run.size], **options)  # type: ignore[arg-type]
    detector = config.build_one_stage(80).eval()
    detector.load_state_dict(yolox_to_native(official_weights(run, yolox_shapes()[run.size])))
    return detector


def recorded(run: YOLOXRun, name: str) -> Tensor:
    with np.load(NUMBERS) as numbers:
        return torch.from_numpy(numbers[f"{run.size}.{name}"])


def assert_near(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> None:
    """Relative to the largest value, or to each above 1."""
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * min(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("size", YOLOX_SIZES)
def test_official_names_and_shapes_are_ours(size: str) -> None:
    with torch.device("meta"):
        detector = YOLOX_SIZES[size].build(80)
    official = {name: torch.empty(shape, device="meta") for name, shape in yolox_shapes()[size].items()}
    native = yolox_to_native(official)
    assert len(native) == len(official)
    own = {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in native.items()} == own


@pytest.mark.parametrize("run", YOLOX_RUNS, ids=lambda run: run.size)
@torch.inference_mode()
def test_maps_boxes_and_scores_are_those_of_the_official_code(run: YOLOXRun) -> None:
    detector = seeded(run)
    maps = detector.extract(run.images())
    assert tuple(one.shape[1] for one in maps) == detector.channels
    for level, one in enumerate(maps):
        every = one.shape[1] // 16
        assert_near(one[:, ::every][:, :16][:, ::5, ::4, ::4], recorded(run, f"fpn{level}"))
    predictions, cells = detector.predict(maps)
    boxes, scores = detector.boxes(predictions, cells), detector.scores(predictions)
    wanted = recorded(run, "decoded")
    upper_left, lower_right = boxes[0, ::7][::6].split(2, dim=1)
    # Seeded weights amplify rounding: the record of nano is itself 9e-4 off from the official code in float64.
    tolerance = {"nano": 1e-3, "s": 1e-4}[run.size]
    boxes = torch.cat(((upper_left + lower_right) / 2, lower_right - upper_left), dim=1)
    assert_near(boxes, wanted[:, :4], tolerance)
    assert_near(scores[0, ::7][::6], wanted[:, 4:5] * wanted[:, 5:], tolerance)


@pytest.mark.parametrize("run", YOLOX_RUNS, ids=lambda run: run.size)
@torch.inference_mode()
def test_detections_are_those_of_the_official_code(run: YOLOXRun, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = seeded(run, max_detections=300)
    score = detector.scores

    def of_one_class_a_cell(predictions: Tensor) -> Tensor:
        scores = score(predictions)
        return scores * one_hot(scores.argmax(dim=-1), 80)

    monkeypatch.setattr(detector, "scores", of_one_class_a_cell)
    geometry = run.inputs().geometries[0]
    ((boxes, scores, labels),) = detector.detect(FrameFeatures(0, detector.extract(run.images()), (geometry,)))
    wanted = recorded(run, "detections")
    limit = torch.tensor([480.0, 270.0, 480.0, 270.0])
    assert_near(scores, wanted[:, 4] * wanted[:, 5], 1e-3)
    # Detections whose scores are nearly the same may change places.
    limited = torch.minimum(wanted[:, :4].clamp(min=0), limit)
    near = ((boxes[:, None] - limited).abs() < 0.02 + 1e-3 * limited).all(dim=2)
    found = near & (labels[:, None] == wanted[:, 6].long())
    assert found.any(dim=0).float().mean() > 0.99
    assert found.any(dim=1).float().mean() > 0.99


@pytest.mark.parametrize("run", YOLOX_RUNS, ids=lambda run: run.size)
def test_losses_and_gradients_are_those_of_the_official_code(run: YOLOXRun) -> None:
    detector = seeded(run, l1_loss=True)
    with torch.no_grad():
        maps = detector.extract(run.images())
    maps = tuple(one.requires_grad_() for one in maps)
    losses = detector.losses(FrameFeatures(0, maps, run.inputs().geometries), [Targets(*run.targets())], [])
    assert_near(
        torch.stack([losses[n] for n in ("boxes", "objectness", "classes", "boxes_l1")]), recorded(run, "losses")
    )
    sum(losses.values(), torch.zeros(())).backward()
    gradients = torch.stack([one.grad.norm() for one in maps if one.grad is not None])
    assert_near(gradients, recorded(run, "gradients"), 1e-3)


def trained_nano(file: Path) -> YOLOX:
    """YOLOX-nano with the weights of an ONNX file, whose convolutions have the order in which ours are called."""
    onnx = pytest.importorskip("onnx")
    detector = YOLOX_SIZES["nano"].build_one_stage(80).eval()
    called: list[nn.Module] = []
    for module in detector.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, _inputs, _output: called.append(module))
    with torch.inference_mode():
        detector.predict(detector.extract(torch.zeros(1, 3, 64, 64)))
    graph = onnx.load(file).graph
    values = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    given = [[values[name] for name in node.input[1:]] for node in graph.node if node.op_type == "Conv"]
    stem = "backbone.backbone.stem.conv.conv.weight"
    (given[0][0],) = yolox_to_native({stem: given[0][0]}).values()
    for module, (weight, bias) in zip(called, given, strict=True):
        module.load_state_dict({"weight": weight, "bias": bias}, strict=False)
        # Batch norm is folded into the file's convolutions: what is left of it adds the bias.
        for parts in (dict(parent.named_children()) for parent in detector.modules()):
            if parts.get("conv") is module and isinstance(norm := parts.get("norm"), nn.BatchNorm2d):
                variance = torch.full_like(bias, 1 - norm.eps)
                norm.load_state_dict({"bias": bias, "running_var": variance}, strict=False)
    return detector


@torch.inference_mode()
def test_trained_weights_see_in_real_frames_what_the_published_graph_sees(reference: Path) -> None:
    detector = trained_nano(reference / "yolox" / "yolox_nano.onnx")
    with np.load(reference / "yolox" / "yolox_nano_real.npz") as numbers:
        for frame in range(3):
            images = torch.from_numpy(numbers[f"{frame}.input"]).permute(2, 0, 1)[None].float()
            predictions, _ = detector.predict(detector.extract(images))
            found = torch.cat((predictions[0, ::5, :4], predictions[0, ::5, 4:].sigmoid()), dim=1)
            torch.testing.assert_close(found, torch.from_numpy(numbers[f"{frame}.raw"]), rtol=1e-4, atol=2e-4)


def tiny() -> YOLOX:
    torch.manual_seed(0)
    detector = YOLOXConfig(depth=0.33, width=0.125).build_one_stage(3)
    return detector.train()


def predicted(detector: YOLOX, images: Tensor) -> FrameFeatures:
    size = (images.shape[2], images.shape[3])
    return FrameFeatures(0, detector.extract(images), (Geometry(size, size, size),) * len(images))


def test_one_image_is_learnt() -> None:
    torch.manual_seed(0)
    detector = YOLOXConfig(depth=0.33, width=0.25).build_one_stage(3).train()
    images = 0.3 * torch.randn(1, 3, 64, 96)
    images[:, :, 8:56, 8:40] += 1
    images[:, 1:, 10:30, 50:90] -= 1
    targets = [Targets(torch.tensor([[8.0, 8.0, 40.0, 56.0], [50.0, 10.0, 90.0, 30.0]]), torch.tensor([2, 0]))]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    history = []
    for _ in range(41):
        losses = detector.losses(predicted(detector, images), targets, [])
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert all(history[-1][name] < 0.8 * first for name, first in history[0].items())
    assert sum(history[-1].values()) < 0.65 * sum(history[0].values())


def test_an_image_without_objects_only_lowers_the_objectness() -> None:
    detector = tiny()
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    losses = detector.losses(predicted(detector, torch.rand(2, 3, 64, 64) * 255), [nothing] * 2, [])
    assert losses["boxes"] == losses["classes"] == 0
    assert losses["objectness"] > 0
    sum(losses.values(), torch.zeros(())).backward()
    gradients = [parameter.grad for parameter in detector.parameters()]
    # Not even an image without objects leaves a parameter out, which data-parallel training would not survive.
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_an_images_losses_do_not_depend_on_its_neighbours() -> None:
    detector = tiny()
    images = torch.rand(2, 3, 64, 64) * 255
    targets = [
        Targets(torch.tensor([[4.0, 4.0, 40.0, 40.0]]), torch.tensor([1])),
        Targets(torch.tensor([[10.0, 8.0, 30.0, 60.0], [33.0, 20.0, 60.0, 44.0]]), torch.tensor([0, 2])),
    ]
    together = detector.losses(predicted(detector, images), targets, [])
    alone = [detector.losses(predicted(detector, images[n : n + 1]), targets[n : n + 1], []) for n in range(2)]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_batch_norm_keeps_its_statistics_in_training() -> None:
    detector = tiny()
    before = {name: tensor.clone() for name, tensor in detector.named_buffers()}
    detector.extract(torch.rand(2, 3, 64, 64) * 255)
    for name, tensor in detector.named_buffers():
        torch.testing.assert_close(tensor, before[name])


def test_official_files_are_read_and_nothing_in_them_is_executed(tmp_path: Path) -> None:
    run = YOLOX_RUNS[0]
    official = official_weights(run, yolox_shapes()["nano"])
    torch.save({"start_epoch": 300, "model": official, "optimizer": None}, tmp_path / "yolox_nano.pth")
    found = read_system(tmp_path / "yolox_nano.pth", single_yolox("nano"))
    assert found.config.class_names == COCO_CLASSES
    for name, tensor in yolox_to_native(official).items():
        assert torch.equal(found.detector.state_dict()[name], tensor)
    with pytest.raises(CheckpointError, match="does not hold the weights of single-yolox-tiny"):
        read_system(tmp_path / "yolox_nano.pth", single_yolox("tiny"))
    torch.save({"model": official, "exp": Path()}, tmp_path / "hostile.pth")
    with pytest.raises(CheckpointError, match="no weight file needs"):
        read_system(tmp_path / "hostile.pth", single_yolox("nano"))


def test_training_for_other_classes_takes_over_the_rows_of_those_that_coco_has(tmp_path: Path) -> None:
    official = official_weights(YOLOX_RUNS[0], yolox_shapes()["nano"])
    torch.save({"model": official}, tmp_path / "yolox_nano.pth")
    started = start_from(tmp_path / "yolox_nano.pth", single_yolox("nano").with_classes(("lynx", "dog")))
    assert started.shared_classes == ("dog",)
    assert started.new_classes == ("lynx",)
    weights = started.system.detector.state_dict()
    for level in range(3):
        own = weights[f"head.classes.{level}.weight"]
        assert len(own) == 2
        assert torch.equal(own[1], official[f"head.cls_preds.{level}.weight"][COCO_CLASSES.index("dog")])


@pytest.mark.parametrize("options", [{"width": 0.0}, {"depth": -1.0}, {"width": 1e9}, {"max_detections": 0}])
def test_impossible_configurations_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        YOLOXConfig(**options)  # type: ignore[arg-type]
