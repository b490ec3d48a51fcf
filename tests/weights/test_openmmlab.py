import io
import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from flowdet.errors import CheckpointError
from flowdet.weights.openmmlab import read_openmmlab

CLASSES = ("airplane", "antelope", "bear")
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "detector.backbone.conv1.weight": torch.randn(4, 3, 7, 7, generator=generator),
        "detector.backbone.bn1.num_batches_tracked": torch.tensor(3),
        "motion.half": torch.randn(5, generator=generator).half(),
    }


def save(content: object, path: Path, *, zipped: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@FORMATS
def test_a_training_checkpoint(tmp_path: Path, zipped: bool) -> None:
    meta = {
        "env_info": "sys.platform: linux",
        "config": "model = dict(type='FGFA')\n",
        "time": "Mon Dec 28 02:26:57 2020",
        "epoch": 7,
        "iter": 100_000,
        "CLASSES": CLASSES,
        "hook_msgs": {"best_score": 0.7, "best_ckpt": None},
    }
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    content = {"meta": meta, "state_dict": OrderedDict(weights()), "optimizer": optimizer}
    checkpoint = read_openmmlab(save(content, tmp_path / "epoch_7.pth", zipped=zipped))
    assert_same(checkpoint.state_dict, weights())
    assert checkpoint.class_names == CLASSES
    assert checkpoint.meta == meta


@FORMATS
def test_a_bare_state_dict(tmp_path: Path, zipped: bool) -> None:
    checkpoint = read_openmmlab(str(save(weights(), tmp_path / "bare.pth", zipped=zipped)))
    assert_same(checkpoint.state_dict, weights())
    assert checkpoint.class_names is None
    assert checkpoint.meta == {}


def test_a_models_own_state_dict(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    path = save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "model.pth", zipped=False)
    model.load_state_dict(read_openmmlab(path).state_dict)


def test_the_prefix_of_data_parallel_training_is_removed(tmp_path: Path) -> None:
    prefixed = {f"module.{name}": tensor for name, tensor in weights().items()}
    assert_same(read_openmmlab(save(prefixed, tmp_path / "ddp.pth", zipped=True)).state_dict, weights())


def test_a_part_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    mixed = {"module.weight": torch.ones(1), "weight": torch.zeros(1)}
    assert_same(read_openmmlab(save(mixed, tmp_path / "mixed.pth", zipped=True)).state_dict, mixed)


@pytest.mark.parametrize(
    ("written", "expected"), [(list(CLASSES), CLASSES), ("person", ("person",)), (None, None), ((), ())]
)
def test_class_names(tmp_path: Path, written: object, expected: tuple[str, ...] | None) -> None:
    path = save({"state_dict": weights(), "meta": {"CLASSES": written}}, tmp_path / "named.pth", zipped=True)
    assert read_openmmlab(path).class_names == expected


NUMPY_META = {
    "score": np.float64(0.747),
    "single": np.float32(1.5),
    "count": np.int64(7),
    "flag": np.bool_(True),
    "complex": np.complex64(1 + 2j),
    "name": np.str_("bbox"),
    "nameless": np.str_(""),
    "swapped": np.array([1], dtype=">i4")[0],
    "point": np.array(0.5),
    "none": np.zeros((0, 4)),
    "palette": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "little": np.arange(3, dtype="<i4"),
    "names": np.array(["a", "bb"]),
}


@FORMATS
def test_numpy_values(tmp_path: Path, zipped: bool) -> None:
    path = save({"state_dict": weights(), "meta": NUMPY_META}, tmp_path / "numpy.pth", zipped=zipped)
    np.testing.assert_equal(dict(read_openmmlab(path).meta), NUMPY_META)


@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_numpy_values_of_numpy_1_and_2(tmp_path: Path, core: bytes) -> None:
    path = save({"state_dict": weights(), "meta": NUMPY_META}, tmp_path / "numpy.pth", zipped=False)
    content = path.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core.")
    path.write_bytes(content.replace(b"cnumpy.core.", b"cnumpy." + core + b"."))
    assert b"cnumpy." + core + b".multiarray\nscalar" in path.read_bytes()
    np.testing.assert_equal(dict(read_openmmlab(path).meta), NUMPY_META)


def test_weights_saved_from_a_gpu_come_to_the_cpu(tmp_path: Path) -> None:
    path = save(weights(), tmp_path / "gpu.pth", zipped=False)
    content = path.read_bytes()
    assert content.count(b"X\x03\x00\x00\x00cpu") == 1
    path.write_bytes(content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert_same(read_openmmlab(path).state_dict, weights())


def test_an_archive_that_was_packed_again(tmp_path: Path) -> None:
    path = save(weights(), tmp_path / "plain.pth", zipped=True)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert_same(read_openmmlab(packed).state_dict, weights())


def test_many_at_once_and_no_trace_left(tmp_path: Path) -> None:
    path = save({"state_dict": weights(), "meta": NUMPY_META}, tmp_path / "numpy.pth", zipped=False)
    with torch.serialization.safe_globals([np.ndarray]):
        before = set(torch.serialization.get_safe_globals())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read_openmmlab, [path] * 40))
        assert set(torch.serialization.get_safe_globals()) == before


def test_arrays_in_containers_that_hold_one_another(tmp_path: Path) -> None:
    shared: object = (np.arange(2), "text")
    for _ in range(100):
        shared = (shared, shared)
    ring: list[object] = [OrderedDict(array=np.arange(3)), shared, np.dtype(">f4")]
    ring.append(ring)
    path = save({"state_dict": weights(), "meta": {"ring": ring}}, tmp_path / "ring.pth", zipped=True)
    found: Any = read_openmmlab(path).meta["ring"]
    assert found[3] is found
    assert found[2] == ring[2]
    np.testing.assert_array_equal(found[0]["array"], np.arange(3))
    pair = found[1]
    for _ in range(100):
        assert pair[0] is pair[1]
        pair = pair[0]
    np.testing.assert_array_equal(pair[0], np.arange(2))


class HistoryBuffer:
    """Pickles as mmengine's class of this name: with its arrays, and with references to its methods."""

    def __init__(self) -> None:
        self.values = np.arange(3.0)

    def mean(self) -> float:
        return float(self.values.mean())

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"statistics_methods": {"mean": HistoryBuffer.mean}}


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `HistoryBuffer` stand in the module of mmengine while it is pickled."""
    name = "mmengine.logging.history_buffer"
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setattr(sys.modules[name], "HistoryBuffer", HistoryBuffer, raising=False)
    for function in (HistoryBuffer, HistoryBuffer.mean):
        monkeypatch.setattr(function, "__module__", name)


@FORMATS
@pytest.mark.usefixtures("mmengine")
def test_a_checkpoint_of_mmtracking_1_with_the_history_of_its_training(tmp_path: Path, zipped: bool) -> None:
    hub = {"log_scalars": OrderedDict({"train/loss": HistoryBuffer()}), "runtime_info": {"epoch": 7}}
    meta = {"dataset_meta": {"classes": CLASSES, "palette": [(0, 0, 0)]}, "history": [HistoryBuffer()]}
    path = save({"state_dict": weights(), "meta": meta, "message_hub": hub}, tmp_path / "epoch_7.pth", zipped=zipped)
    assert b"__builtin__\ngetattr" in path.read_bytes()
    checkpoint = read_openmmlab(path)
    assert_same(checkpoint.state_dict, weights())
    assert checkpoint.class_names == CLASSES
    assert checkpoint.meta["history"] == [None]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Call(getattr, date, "today"), r"datetime\.date"),
        (lambda: Call(getattr, "text", "format"), r"builtins\.getattr"),
        (lambda: Call(getattr, HistoryBuffer, b"mean"), r"builtins\.getattr"),
        (lambda: Call(HistoryBuffer, 2**37), "HistoryBuffer with arguments"),
    ],
)
@pytest.mark.usefixtures("mmengine")
def test_no_other_attribute_and_no_call_of_a_history_is_allowed(
    tmp_path: Path, call: Callable[[], object], name: str
) -> None:
    path = save({"state_dict": weights(), "meta": {"value": call()}}, tmp_path / "forged.pth", zipped=True)
    with pytest.raises(CheckpointError, match=rf"asks for [\w.]*({name}).* not executed"):
        read_openmmlab(path)


def test_an_archive_that_would_unpack_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    path = save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "plain.pth", zipped=True)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            content = bytes(100 << 20) if name.endswith("data/0") else plain.read(name)
            bomb.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"bomb\.pth holds \d+ bytes that would unpack to 10\d+, .* not unpacked"):
        read_openmmlab(tmp_path / "bomb.pth")


class Call:
    """Pickles as the call of a function, and what is done to the outcome."""

    def __init__(self, function: Callable[..., Any], *args: object, state: object = None) -> None:
        self.call = (function, args, state)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...], object]:
        return self.call


@FORMATS
@pytest.mark.parametrize("place", ["meta", "state_dict", "optimizer"])
@pytest.mark.parametrize(
    ("function", "name"), [(os.mkdir, r"\w+\.mkdir"), (eval, "eval"), (pickle.loads, r"_?pickle\.loads")]
)
def test_a_malicious_file_is_named_and_not_executed(
    tmp_path: Path, zipped: bool, place: str, function: Callable[..., Any], name: str
) -> None:
    marker = tmp_path / "executed"
    argument: object = {
        os.mkdir: str(marker),
        eval: f"__import__('os').mkdir({str(marker)!r})",
        pickle.loads: pickle.dumps(Call(os.mkdir, str(marker))),
    }[function]
    content = {"state_dict": weights(), "meta": {}, "optimizer": {}, place: {"value": Call(function, argument)}}
    path = save(content, tmp_path / "evil.pth", zipped=zipped)
    with pytest.raises(CheckpointError, match=rf"asks for (builtins\.)?{name}, .* not executed"):
        read_openmmlab(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_malicious_plain_pickle_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "executed")), protocol=2))
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        read_openmmlab(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (date(2020, 12, 28), "datetime.date"),
        (Path("config.py"), "pathlib"),
        (np.array([{}], dtype=object), r"numpy\.dtype\('O8'\)"),
        (np.zeros(2, dtype=[("x", "f4")]), r"numpy\.dtype with fields"),
    ],
)
def test_python_objects_are_refused_by_name(tmp_path: Path, value: object, name: str) -> None:
    path = save({"state_dict": weights(), "meta": {"value": value}}, tmp_path / "objects.pth", zipped=True)
    with pytest.raises(CheckpointError, match=rf"asks for [\w.]*{name}"):
        read_openmmlab(path)


SCALAR: Any = np.float64().__reduce__()[0]
RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
OBJECT = np.dtype("O")
ADDRESS = b"A" * 8


def forged_array(shape: object, dtype: object, data: object) -> Call:
    return Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, data))


HOSTILE = pytest.mark.parametrize(
    ("value", "name"),
    [
        (Call(np.ndarray, (1,), OBJECT, ADDRESS), "numpy.ndarray with arguments"),
        (Call(np.ndarray, Call(np.ndarray, (1,), OBJECT, ADDRESS)), "numpy.ndarray with arguments"),
        (Call(np.ndarray, (2**37,)), "numpy.ndarray with arguments"),
        (Call(bytes, 2**37), "builtins.bytes with arguments"),
        (Call(SCALAR, OBJECT, ADDRESS), "numpy.dtype('O8')"),
        (Call(SCALAR, np.dtype("f8"), None), "a numpy array in a NoneType"),
        (forged_array((1,), OBJECT, ADDRESS), "numpy.dtype('O8')"),
        (forged_array((1,), Call(np.dtype, "f4,O"), ADDRESS), "numpy.dtype('f4,O')"),
        (forged_array((1,), Call(np.dtype, [("x", "O")]), ADDRESS), "numpy.dtype of a list"),
        (forged_array((1,), "O", ADDRESS), "a numpy array of str"),
        (forged_array((2**37,), np.dtype("f8"), None), "a numpy array in a NoneType"),
        (OBJECT, "numpy.dtype('O8')"),
    ],
)


@FORMATS
@HOSTILE
def test_forged_arrays_are_refused_by_name(tmp_path: Path, zipped: bool, value: object, name: str) -> None:
    path = save({"state_dict": weights(), "meta": {"value": value}}, tmp_path / "forged.pth", zipped=zipped)
    with pytest.raises(CheckpointError, match=f"asks for {re.escape(name)}, .* not executed"):
        read_openmmlab(path)


@HOSTILE
def test_what_the_process_has_allowed_opens_no_door(tmp_path: Path, value: object, name: str) -> None:
    path = save({"state_dict": weights(), "meta": {"value": value}}, tmp_path / "forged.pth", zipped=True)
    allowed: list[Any] = [np.ndarray, np.dtype, type(OBJECT), SCALAR, RECONSTRUCT, bytes]
    with torch.serialization.safe_globals(allowed):
        with pytest.raises(CheckpointError, match=f"asks for {re.escape(name)}"):
            read_openmmlab(path)
        assert set(torch.serialization.get_safe_globals()) >= set(allowed)


@pytest.mark.parametrize(
    "value",
    [
        forged_array((2**37,), np.dtype("f8"), ADDRESS),
        forged_array((2**70,), np.dtype("f8"), ADDRESS),
        forged_array((1,), np.dtype("f4"), ADDRESS),
        forged_array((2**40,), Call(np.dtype, "U0"), b""),
        forged_array((1,), Call(np.dtype, "U1" + "0" * 30), ADDRESS),
        Call(RECONSTRUCT, np.ndarray, (0,), b"b"),
    ],
)
def test_arrays_that_are_not_what_they_say(tmp_path: Path, value: object) -> None:
    path = save({"state_dict": weights(), "meta": {"value": value}}, tmp_path / "forged.pth", zipped=True)
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        read_openmmlab(path)


@FORMATS
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_file_cut_short(tmp_path: Path, zipped: bool, share: float) -> None:
    path = save({"state_dict": weights(), "meta": NUMPY_META}, tmp_path / "cut.pth", zipped=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        read_openmmlab(path)


def test_a_torchscript_archive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")
    path = tmp_path / "net.pt"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_openmmlab(path)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "native.safetensors")
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html><html></html>")
    (tmp_path / "short.pth").write_bytes(b"\x80\x02")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name, message in {
        "native.safetensors": "is a safetensors file",
        "page.pth": "not a PyTorch checkpoint",
        "short.pth": "not a PyTorch checkpoint",
        "empty.pth": "is empty",
        "missing.pth": "there is no file",
        ".": "is a folder",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_openmmlab(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        ({}, "holds no weights"),
        ({"state_dict": {}}, "holds no weights"),
        ({"state_dict": torch.ones(1)}, "holds no weights"),
        ({"epoch": 7, "model": weights()}, "'epoch' is of type int"),
        ({"state_dict": {0: torch.ones(1)}}, "holds no state dict"),
        ({"state_dict": weights(), "meta": "text"}, "'meta' is a dictionary"),
        ({"state_dict": weights(), "meta": {"CLASSES": 30}}, "not a list of names"),
        ({"state_dict": weights(), "meta": {"CLASSES": [1, 2]}}, "not a list of names"),
    ],
)
def test_checkpoints_of_another_make(tmp_path: Path, content: object, message: str) -> None:
    path = save(content, tmp_path / "other.pth", zipped=True)
    with pytest.raises(CheckpointError, match=message):
        read_openmmlab(path)
