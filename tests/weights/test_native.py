import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import flowdet
from flowdet.class_names import VID_CLASSES
from flowdet.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig, RoIHead
from flowdet.detectors.necks import ConvNeckConfig
from flowdet.errors import CheckpointError
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig, config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import weights_of
from flowdet.systems.recipes import RECIPES, dff_lite, fgfa_lite, single_lite
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.selsa import SELSAConfig
from flowdet.weights.fill import published_to_native
from flowdet.weights.native import StartedSystem, read_native, read_system, save_native, start_from
from tests.golden import state_dict_shapes
from tests.tiny import lite_config, lite_detector_config, lite_flow_config


def detector_config(channels: int = 8) -> FasterRCNNConfig:
    """A narrow detector whose neck has the names of the published ones."""
    return replace(lite_detector_config(), neck=ConvNeckConfig(channels))


def roi_head(system: VideoDetector) -> RoIHead:
    assert isinstance(system.detector, FasterRCNN)
    assert isinstance(system.detector.roi_head, RoIHead)
    return system.detector.roi_head


def fgfa_config() -> SystemConfig:
    """A small FGFA whose parts but for the backbone have the names of the published ones."""
    return replace(
        lite_config(),
        name="tiny-fgfa",
        detector=detector_config(),
        method=FGFAConfig(2, 2, embedding_channels=8),
        flow_net=lite_flow_config(),
    )


def random_system(config: SystemConfig, seed: int = 0) -> VideoDetector:
    system = build(config)
    generator = torch.Generator().manual_seed(seed)
    for tensor in system.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return system


def assert_same(found: VideoDetector, wanted: VideoDetector) -> None:
    own, other = found.state_dict(), wanted.state_dict()
    assert list(own) == list(other)
    for name, tensor in own.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("name", state_dict_shapes())
def test_every_tensor_of_a_published_checkpoint_has_its_place(name: str) -> None:
    with torch.device("meta"):
        system = build(RECIPES[name]())
    own = {key: tuple(tensor.shape) for key, tensor in system.state_dict().items()}
    published = state_dict_shapes()[name]
    renamed = {published_to_native(key): shape for key, shape in published.items()}
    assert len(renamed) == len(published)
    assert renamed == own


def test_a_native_file_gives_the_system_back_to_the_bit(tmp_path: Path) -> None:
    system = random_system(fgfa_config())
    save_native(system, tmp_path / "tiny.safetensors")
    found = read_system(tmp_path / "tiny.safetensors")
    assert found.config == system.config
    assert not found.training
    assert_same(found, system)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_half_precision_halves_the_file_and_comes_back_as_float32(tmp_path: Path) -> None:
    system = random_system(fgfa_config())
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_native(system, whole)
    save_native(system, half, torch.float16)
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    found = read_system(half)
    for tensor in system.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    assert_same(found, system)


def test_weights_in_another_memory_layout(tmp_path: Path) -> None:
    system = random_system(fgfa_config()).to(memory_format=torch.channels_last)
    save_native(system, tmp_path / "tiny.safetensors")
    assert_same(read_system(tmp_path / "tiny.safetensors"), system)


def test_a_native_file_knows_its_classes_whatever_the_recipe_says(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_native(random_system(fgfa_config().with_classes(("ant", "bee"))), path)
    assert read_system(path, fgfa_config()).config.class_names == ("ant", "bee")


def test_a_system_by_name_is_built_as_its_recipe_says_and_a_file_alone_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    own = replace(fgfa_lite(), method=FGFAConfig(1, 0, sharpness=2.0, embedding_channels=64))
    own = replace(own, name="mine", inputs=replace(own.inputs, short_side=192)).with_classes(("ant", "bee"))
    save_native(build(own), path)
    assert flowdet.load("fgfa-lite", weights=path).config == fgfa_lite().with_classes(("ant", "bee"))
    assert flowdet.load("dff-lite", weights=path).config == dff_lite().with_classes(("ant", "bee"))
    assert flowdet.load(weights=path).config == own


# As version 0.1 wrote it into the shipped weights.
_INPUTS_0_1 = (
    '{"long_side": 512, "short_side": 320, "mean": [127.0, 127.0, 127.0], "std": [128.0, 128.0, 128.0], '
    '"multiple": 32, "enlarge": false}'
)
_DETECTOR_0_1 = (
    '"backbone": {"frozen_stages": 1, "kind": "EfficientNetLite0Config"}, '
    '"neck": {"channels": 128, "kind": "MergeNeckConfig"}, '
    '"heads": {"rpn": {"channels": 128, "scales": [1.0, 2.0, 4.0, 8.0, 16.0], "ratios": [0.5, 1.0, 2.0], '
    '"pre_nms_top_n": 500, "post_nms_top_n": 64, "training_post_nms_top_n": 300, "nms_iou": 0.7, "sampled": 256}, '
    '"roi_head": {"bins": 5, "hidden": 256, "class_specific_boxes": false, "score_threshold": 0.001, "nms_iou": 0.5, '
    '"max_detections": 100, "sampled": 64}}'
)
_FGFA_0_1 = (
    '"method": {"past": 5, "future": 5, "stride": 1, "warp": "identity", "sharpness": 4.0, "embedding_channels": 64, '
    '"references_at_once": 5, "kind": "FGFAConfig"}, '
    '"flow_net": {"encoder": [24, 48, 64], "refinement": 64, "rounds": 2, "shrink": 2, "kind": "MatchingFlowConfig"}'
)
_DFF_0_1 = (
    '"method": {"key_frame_interval": 10, "warp": "identity", "kind": "DFFConfig"}, '
    '"flow_net": {"encoder": [24, 48, 64], "refinement": 64, "rounds": 2, "shrink": 2, "kind": "MatchingFlowConfig"}'
)
_SINGLE_0_1 = '"method": {"kind": "SingleFrameConfig"}, "flow_net": null'


@pytest.mark.parametrize(
    ("method", "config"), [(_FGFA_0_1, fgfa_lite()), (_DFF_0_1, dff_lite()), (_SINGLE_0_1, single_lite())]
)
def test_files_of_version_0_1_are_read(tmp_path: Path, method: str, config: SystemConfig) -> None:
    path = tmp_path / "old.safetensors"
    start = f'{{"name": "{config.name}", "class_names": {json.dumps(VID_CLASSES)}, "inputs": {_INPUTS_0_1}'
    system = random_system(config)
    save_file(system.state_dict(), path, metadata={"flowdet.config": f"{start}, {_DETECTOR_0_1}, {method}}}"})
    found = read_system(path)
    assert found.config == config
    assert_same(found, system)


def test_a_single_frame_system_takes_the_weights_of_fgfa(tmp_path: Path) -> None:
    fgfa = random_system(fgfa_config())
    save_native(fgfa, tmp_path / "fgfa.safetensors")
    single = single_config()
    found = read_system(tmp_path / "fgfa.safetensors", single)
    assert found.config == single
    assert {"detector." + name for name in fgfa.detector.state_dict()} == set(found.state_dict())
    for name, tensor in fgfa.detector.state_dict().items():
        assert torch.equal(found.detector.state_dict()[name], tensor)


def test_fgfa_does_not_take_the_weights_of_a_single_frame_system_or_of_dff(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for other in (lite_config(), replace(fgfa_config(), method=DFFConfig())):
        save_native(random_system(replace(other, name="other", detector=detector_config())), path)
        with pytest.raises(CheckpointError, match=r"missing \(embedding.bias, embedding.weight"):
            read_system(path, fgfa_config())


def save_tensors(weights: dict[str, Tensor], path: Path, config: SystemConfig | None = None) -> None:
    save_file(weights, path, metadata={"flowdet.config": config_to_json(config or fgfa_config())})


def test_one_message_names_all_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    weights = random_system(fgfa_config()).state_dict()
    del weights["embedding.bias"]
    weights["detector.mask_head.weight"] = torch.zeros(1)
    weights["detector.neck.conv.bias"] = torch.zeros(9)
    count = len(weights)
    save_tensors(weights, path)
    with pytest.raises(CheckpointError) as caught:
        read_system(path)
    message = str(caught.value)
    assert f"{path} does not hold the weights of tiny-fgfa" in message
    assert f"of its {count} tensors for {count} expected" in message
    assert "1 missing (embedding.bias)" in message
    assert "1 unexpected (detector.mask_head.weight)" in message
    assert "1 of another shape (detector.neck.conv.bias [9] instead of [8])" in message


def test_a_long_list_of_faults_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_tensors({f"layer{number}": torch.zeros(1) for number in range(8)}, path)
    with pytest.raises(CheckpointError, match=r"8 unexpected \(layer0, layer1, layer2, layer3, layer4, \.\.\.\)"):
        read_system(path)
    with pytest.raises(CheckpointError, match=r"8 unexpected \(layer0, layer1, layer2, layer3, layer4, \.\.\.\)"):
        start_from(path, fgfa_config())


def native(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_native(build(lite_config()), path)
    return path


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.5, 0.999])
def test_a_file_cut_short(tmp_path: Path, share: float) -> None:
    path = native(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_native(path)


def test_a_file_with_a_damaged_header(tmp_path: Path) -> None:
    path = native(tmp_path)
    content = bytearray(path.read_bytes())
    content[20:40] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_native(path)


def test_a_file_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match="not written by flowdet"):
            read_native(path)


@pytest.mark.parametrize("part", [("detector", "backbone"), ("detector",), ("method",)])
def test_a_file_with_a_configuration_of_the_future(tmp_path: Path, part: tuple[str, ...]) -> None:
    path = tmp_path / "later.safetensors"
    document = json.loads(config_to_json(lite_config()))
    inner = document
    for key in part:
        inner = inner[key]
    inner["kind"] = "TinyViTConfig"
    save_file({"weight": torch.zeros(3)}, path, metadata={"flowdet.config": json.dumps(document)})
    with pytest.raises(CheckpointError, match=r"TinyViTConfig.*may be of a later flowdet"):
        read_native(path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("none.safetensors", "folder.safetensors"):
        with pytest.raises(CheckpointError, match=f"no weight file .*{name}"):
            read_system(tmp_path / name)


def test_writing_that_fails_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = native(tmp_path)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"tiny.safetensors cannot be written: No space left"):
        save_native(random_system(lite_config()), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_values_too_large_for_the_type_are_not_written(tmp_path: Path) -> None:
    system = random_system(lite_config())
    system.state_dict()["detector.neck.smooth.bias"][3] = 1e5
    with pytest.raises(CheckpointError, match=r"detector.neck.smooth.bias has values .* in torch.float16"):
        save_native(system, tmp_path / "half.safetensors", torch.float16)
    assert list(tmp_path.iterdir()) == []
    save_native(system, tmp_path / "whole.safetensors")


def test_writing_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.*cannot be written"):
        save_native(build(lite_config()), tmp_path / "nowhere" / "tiny.safetensors")


def published(system: VideoDetector) -> dict[str, Tensor]:
    """The system's weights under the names of mmtracking."""
    names = {published_to_native(name): name for name in state_dict_shapes()["fgfa-r50"]}
    return {names.get(name, name): tensor for name, tensor in system.state_dict().items()}


def test_a_published_checkpoint_brings_its_class_names(tmp_path: Path) -> None:
    system = random_system(fgfa_config().with_classes(("ant", "bee", "cow", "doe")))
    weights = published(system)
    assert "motion.predict_flow.conv.weight" in weights
    torch.save({"state_dict": weights, "meta": {"CLASSES": ["ant", "bee", "cow", "doe"]}}, tmp_path / "epoch_7.pth")
    found = read_system(tmp_path / "epoch_7.pth", fgfa_config())
    assert found.config == system.config
    assert_same(found, system)


def test_a_published_checkpoint_without_class_names_has_those_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    torch.save(published(random_system(fgfa_config())), path)
    assert read_system(path, fgfa_config()).config == fgfa_config()
    with pytest.raises(CheckpointError, match=r"detector.roi_head.classes.weight \[4, 16\] instead of \[3, 16\]"):
        read_system(path, fgfa_config().with_classes(("ant", "bee")))


def test_a_published_checkpoint_in_half_precision(tmp_path: Path) -> None:
    system = random_system(fgfa_config())
    for tensor in system.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    halves = {key: t.half() if t.is_floating_point() else t for key, t in published(system).items()}
    torch.save({"state_dict": halves}, tmp_path / "half.pth")
    assert_same(read_system(tmp_path / "half.pth", fgfa_config()), system)


def test_a_published_checkpoint_of_another_system(tmp_path: Path) -> None:
    fgfa, dff = fgfa_config(), replace(fgfa_config(), name="tiny-dff", method=DFFConfig())
    torch.save(published(random_system(dff)), tmp_path / "dff.pth")
    with pytest.raises(CheckpointError, match=r"2 missing \(embedding.bias, embedding.weight\)"):
        read_system(tmp_path / "dff.pth", fgfa)


@pytest.mark.parametrize("kind", ["native", "published"])
def test_dff_takes_the_weights_of_fgfa(kind: str, tmp_path: Path) -> None:
    fgfa, dff = fgfa_config(), replace(fgfa_config(), name="tiny-dff", method=DFFConfig())
    system, path = random_system(fgfa), tmp_path / ("fgfa.safetensors" if kind == "native" else "fgfa.pth")
    if kind == "native":
        save_native(system, path)
    else:
        torch.save(published(system), path)
    found = read_system(path, dff)
    assert found.config == dff
    wanted = {key: tensor for key, tensor in system.state_dict().items() if not key.startswith("embedding.")}
    assert list(found.state_dict()) == list(wanted)
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in found.state_dict().items())


def test_dis_takes_the_place_of_a_flow_net_in_a_file(tmp_path: Path) -> None:
    save_native(random_system(fgfa_config()), tmp_path / "fgfa.safetensors")
    found = read_system(tmp_path / "fgfa.safetensors", replace(fgfa_config(), name="own", flow_net=DISFlowConfig()))
    assert isinstance(found.flow_net, DISFlow)
    assert "embedding" in found.method_modules


def test_a_published_checkpoint_needs_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "epoch_7.pth").touch()
    with pytest.raises(CheckpointError, match='name one, "fgfa-r50"'):
        read_system(tmp_path / "epoch_7.pth")


def test_the_file_holds_only_tensors_and_a_configuration(tmp_path: Path) -> None:
    system = build(single_lite())
    save_native(system, tmp_path / "lite.safetensors")
    assert set(load_file(tmp_path / "lite.safetensors")) == set(system.state_dict())
    config, _ = read_native(tmp_path / "lite.safetensors")
    assert config == single_lite()


def start(tmp_path: Path, known: SystemConfig, wanted: SystemConfig) -> tuple[VideoDetector, StartedSystem]:
    """A trained system, and a new one that starts from its file."""
    trained = random_system(known)
    save_native(trained, tmp_path / "trained.safetensors")
    return trained, start_from(tmp_path / "trained.safetensors", wanted)


def assert_same_but(found: VideoDetector, wanted: VideoDetector, *exceptions: str) -> None:
    own, other = found.state_dict(), wanted.state_dict()
    kept = [key for key in own if not key.startswith(exceptions)]
    assert kept
    for key in kept:
        assert torch.equal(own[key], other[key]), key


LAST_LAYERS = ("detector.roi_head.classes.", "detector.roi_head.deltas.")


def test_the_same_classes_start_from_everything(tmp_path: Path) -> None:
    trained, begun = start(tmp_path, fgfa_config(), fgfa_config())
    assert_same(begun.system, trained)
    assert (begun.shared_classes, begun.new_classes, begun.dropped_classes) == (fgfa_config().class_names, (), ())
    assert (begun.fresh, begun.unused) == ((), ())
    assert begun.taken == len(trained.state_dict())


def test_other_classes_take_over_the_rows_of_those_that_are_known(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trained, begun = start(tmp_path, fgfa_config(), fgfa_config().with_classes(("owl", "fox", "cat", "ant")))
    assert begun.system.config.class_names == ("owl", "fox", "cat", "ant")
    assert (begun.shared_classes, begun.new_classes, begun.dropped_classes) == (
        ("fox", "cat"),
        ("owl", "ant"),
        ("dog",),
    )
    assert_same_but(begun.system, trained, *LAST_LAYERS)
    old, new = roi_head(trained), roi_head(begun.system)
    # The old classes are cat, dog, fox, background.
    for mine, theirs in ((1, 2), (2, 0), (4, 3)):
        assert torch.equal(new.classes.weight[mine], old.classes.weight[theirs])
        assert new.classes.bias[mine] == old.classes.bias[theirs]
    for mine, theirs in ((1, 2), (2, 0)):
        rows, others = slice(4 * mine, 4 * mine + 4), slice(4 * theirs, 4 * theirs + 4)
        assert torch.equal(new.deltas.weight[rows], old.deltas.weight[others])
        assert torch.equal(new.deltas.bias[rows], old.deltas.bias[others])
    for fresh in (0, 3):
        assert 0 < new.classes.weight[fresh].abs().max() < 0.1
        assert new.classes.bias[fresh] == 0
        assert 0 < new.deltas.weight[4 * fresh : 4 * fresh + 4].abs().max() < 0.01
    assert begun.taken == len(trained.state_dict())


def test_no_known_class_leaves_the_background(tmp_path: Path) -> None:
    trained, begun = start(tmp_path, fgfa_config(), fgfa_config().with_classes(("owl",)))
    assert (begun.shared_classes, begun.new_classes) == ((), ("owl",))
    old, new = roi_head(trained), roi_head(begun.system)
    assert torch.equal(new.classes.weight[1], old.classes.weight[3])
    assert new.deltas.weight.abs().max() < 0.01


def test_boxes_without_classes_are_taken_whole(tmp_path: Path) -> None:
    config = fgfa_config()
    shared = replace(detector_config().roi_head, class_specific_boxes=False)
    config = replace(config, detector=replace(detector_config(), roi_head=shared))
    trained, begun = start(tmp_path, config, config.with_classes(("owl", "cat", "ant", "bee", "cow")))
    assert_same_but(begun.system, trained, "detector.roi_head.classes.")
    alone, begun = start(tmp_path, config.with_classes(("cat",)), config.with_classes(("owl",)))
    assert_same_but(begun.system, alone, "detector.roi_head.classes.")
    with pytest.raises(CheckpointError, match=r"detector.roi_head.deltas.weight \[4, 16\] instead of \[12, 16\]"):
        start(tmp_path, config, fgfa_config())


def single_config() -> SystemConfig:
    return replace(lite_config(), detector=detector_config())


def test_fgfa_starts_from_single_frames_with_a_fresh_flow_net_and_embedding(tmp_path: Path) -> None:
    trained, begun = start(tmp_path, single_config(), fgfa_config().with_classes(("dog", "owl")))
    assert begun.fresh == ("flow_net", "embedding")
    assert begun.unused == ()
    assert begun.taken == len(trained.state_dict())
    assert_same_but(begun.system, trained, "flow_net.", "embedding.", *LAST_LAYERS)


def test_fgfa_starts_from_dff_with_a_fresh_embedding(tmp_path: Path) -> None:
    trained, begun = start(tmp_path, replace(fgfa_config(), method=DFFConfig()), fgfa_config())
    assert (begun.fresh, begun.unused) == (("embedding",), ())
    assert_same_but(begun.system, trained, "embedding.")


def test_selsa_starts_from_fgfa_with_a_fresh_attention(tmp_path: Path) -> None:
    attention = "detector.roi_head.attention"
    selsa = replace(single_config(), method=SELSAConfig(heads=4))
    trained, begun = start(tmp_path, fgfa_config(), selsa)
    assert (begun.fresh, begun.unused) == ((attention,), ("embedding", "flow_net"))
    assert_same_but(begun.system, trained, f"{attention}.")
    _, begun = start(tmp_path, selsa, fgfa_config())
    assert (begun.fresh, begun.unused) == (("flow_net", "embedding"), (attention,))


def test_a_head_with_attention_does_not_detect_without_it(tmp_path: Path) -> None:
    save_native(build(replace(single_config(), method=SELSAConfig(heads=4))), tmp_path / "selsa.safetensors")
    with pytest.raises(CheckpointError, match=r"16 unexpected .*roi_head.attention"):
        read_system(tmp_path / "selsa.safetensors", single_config())


def test_what_the_new_method_has_no_use_for_is_told(tmp_path: Path) -> None:
    trained, begun = start(tmp_path, fgfa_config(), single_config())
    assert (begun.fresh, begun.unused) == ((), ("embedding", "flow_net"))
    assert begun.taken == len(begun.system.state_dict()) < len(trained.state_dict())
    _, begun = start(tmp_path, fgfa_config(), replace(fgfa_config(), method=DFFConfig()))
    assert begun.unused == ("embedding",)


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not hold the weights of tiny-fgfa: .* of another shape .*neck"):
        start(tmp_path, fgfa_config(), replace(fgfa_config(), detector=detector_config(16)))
    wide = replace(detector_config(), roi_head=replace(detector_config().roi_head, hidden=32))
    with pytest.raises(CheckpointError, match=r"of another shape .*classes.weight \[4, 16\] instead of \[4, 32\]"):
        start(tmp_path, fgfa_config(), replace(fgfa_config(), detector=wide))
    narrow = replace(fgfa_config(), method=FGFAConfig(2, 2, embedding_channels=4))
    with pytest.raises(CheckpointError, match=r"embedding.weight \[8, 8, 3, 3\] instead of \[4, 8, 3, 3\]"):
        start(tmp_path, fgfa_config(), narrow)


def test_a_part_of_a_flow_net_is_no_flow_net(tmp_path: Path) -> None:
    weights = random_system(fgfa_config()).state_dict()
    del weights["flow_net.conv1.0.0.weight"]
    save_tensors(weights, tmp_path / "torn.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(flow_net.conv1.0.0.weight\)"):
        start_from(tmp_path / "torn.safetensors", fgfa_config())


def test_a_published_checkpoint_is_a_start_too(tmp_path: Path) -> None:
    path = tmp_path / "epoch_7.pth"
    trained = random_system(fgfa_config())
    torch.save({"state_dict": published(trained), "meta": {"CLASSES": fgfa_config().class_names}}, path)
    begun = start_from(path, fgfa_config().with_classes(("owl", "fox")))
    assert begun.shared_classes == ("fox",)
    assert torch.equal(roi_head(begun.system).classes.weight[1], roi_head(trained).classes.weight[2])
    torch.save({"state_dict": published(trained), "meta": {"CLASSES": ("cat", "fox")}}, path)
    with pytest.raises(CheckpointError, match="names 2 classes, but its classifier has 4 outputs"):
        start_from(path, fgfa_config())


def test_a_checkpoint_that_names_no_classes_is_of_imagenet_vid_if_it_has_as_many(tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    trained = random_system(fgfa_config().with_classes(VID_CLASSES))
    torch.save(published(trained), path)
    begun = start_from(path, fgfa_config().with_classes(("owl", "zebra")))
    assert begun.shared_classes == ("zebra",)
    assert torch.equal(roi_head(begun.system).classes.weight[1], roi_head(trained).classes.weight[29])
    torch.save(published(random_system(fgfa_config())), path)
    begun = start_from(path, fgfa_config())
    assert (begun.shared_classes, begun.new_classes) == ((), fgfa_config().class_names)


def test_the_shipped_weights_are_a_start_for_other_classes() -> None:
    begun = start_from(weights_of("fgfa-lite"), fgfa_lite().with_classes(("car", "tram")))
    assert (begun.shared_classes, begun.new_classes) == (("car",), ("tram",))
    assert begun.fresh == ()
