"""Reads the checkpoints of OpenMMLab's libraries without executing anything that is in them."""

import os
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowdet.errors import CheckpointError

__all__ = ["OpenMMLabCheckpoint", "openmmlab_checkpoint", "read_openmmlab", "read_pickled", "tensors_by_name"]

_ZIP_MAGIC = b"PK\x03\x04"
# What torch.save wrote first before 1.6, and published files still begin with.
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# Neither objects nor structures: their arrays hold pointers.
_PLAIN_DTYPE = re.compile(r"[biufcSU]\d+")
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
# Trained weights compress by a few per cent, numbers that are all alike a thousandfold.
_MOST_INFLATED, _ALWAYS_INFLATED = 10, 64 << 20
# torch keeps one list of allowed globals for the whole process; without this, the first of two threads to finish would
# empty it under the other.
_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False, slots=True)
class OpenMMLabCheckpoint:
    """The content of a checkpoint of OpenMMLab, without optimizer and history.

    Attributes:
        state_dict: Every parameter and buffer by name, on the CPU; they may be views of the file on disk, so copy what
            must outlive it.
        class_names: The classes in the order of their labels; None if the file does not name them.
        meta: What else the training recorded, such as its configuration; may be empty.
    """

    state_dict: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    meta: Mapping[str, object]


def read_openmmlab(path: str | os.PathLike[str]) -> OpenMMLabCheckpoint:
    """Reads a `.pth` file of mmtracking, mmdetection or any other PyTorch training that saved a state dict.

    The file may hold tensors, plain Python values, numpy's numbers and arrays, and the histories of a training that
    mmengine keeps, which are dropped. A file that asks for anything else is refused before that is called.

    Args:
        path: The file, in the zip format or in the one before PyTorch 1.6.

    Returns:
        The content; the prefix `module.` of data-parallel training is removed from the names.

    Raises:
        CheckpointError: The file is missing, empty, damaged or of another kind, or asks for what no weight file needs.
    """
    path = Path(path)
    return openmmlab_checkpoint(path, read_pickled(path))


def openmmlab_checkpoint(path: Path, content: object) -> OpenMMLabCheckpoint:
    """As `read_openmmlab`, of what `read_pickled` returned for the path."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    state_dict = content.get("state_dict", content)
    meta = content.get("meta", {}) if "state_dict" in content else {}
    if not isinstance(meta, dict):
        raise CheckpointError(
            f"{path}: 'meta' is a dictionary in OpenMMLab's checkpoints, here a {type(meta).__name__}"
        )
    return OpenMMLabCheckpoint(tensors_by_name(path, state_dict), _class_names(path, meta), meta)


def _is_mappable(path: Path) -> bool:
    """Checks by its first bytes that a file is a checkpoint; returns whether it can be mapped into memory."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the .pth file in it")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    if head[8:9] == b"{":
        raise CheckpointError(f"{path} is a safetensors file, not a .pth checkpoint of OpenMMLab")
    if not head.startswith((_ZIP_MAGIC, _LEGACY_MAGIC)):
        raise CheckpointError(f"{path} is not a PyTorch checkpoint: it does not begin like one")
    return head.startswith(_ZIP_MAGIC) and _is_mappable_archive(path)


def _is_mappable_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    # Damaged bytes make the reader of archives fail in more ways than it says.
    except Exception as error:
        raise _damaged(path) from error
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "data.pkl" not in names or "constants.pkl" in names:
        raise CheckpointError(f"{path} is an archive, but of a TorchScript program or something else, not of weights")
    inflated, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if inflated > _MOST_INFLATED * packed + _ALWAYS_INFLATED:
        raise CheckpointError(
            f"{path} holds {packed} bytes that would unpack to {inflated}, as no weights do; it was not unpacked. Take "
            "it from a source that you trust, or have it saved by torch.save, which does not compress"
        )
    # Mapping takes the bytes as they are; torch does not compress them, other archivers may.
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def read_pickled(path: Path) -> object:
    """Returns what `torch.save` wrote: tensors, plain Python values, numpy's numbers and arrays; executes nothing.

    Raises:
        CheckpointError: The file is missing, empty, damaged or of another kind, or asks for what no weight file needs.
    """
    mapped = _is_mappable(path)
    try:
        with _LOCK, _nothing_else_allowed():
            content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return _without_stand_ins(content, {})
    except _ForbiddenError as error:
        raise _hostile(path, str(error)) from None
    # Here too, and the unpickler.
    except Exception as error:
        if forbidden := _FORBIDDEN.search(str(error)):
            raise _hostile(path, forbidden[1]) from None
        raise _damaged(path) from error


def _hostile(path: Path, forbidden: str) -> CheckpointError:
    return CheckpointError(
        f"{path} asks for {forbidden}, which no weight file needs; the file was not executed. "
        f"Take it from a source that you trust, or have it saved with nothing but its 'state_dict'"
    )


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} begins like a PyTorch checkpoint but is cut short or damaged; download or copy it again"
    )


class _ForbiddenError(Exception):
    """The name of what a file asked for and does not get."""


class _Dtype:
    """Stands in for `numpy.dtype` while a file is read; called with anything, and checked when it is used."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: object, *_flags: object) -> None:
        self.code = code
        self.byte_order: Any = "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise _ForbiddenError("numpy.dtype with fields")
        self.byte_order = state[1]

    def numpy(self) -> np.dtype[Any]:
        if not isinstance(self.code, str):
            raise _ForbiddenError(f"numpy.dtype of a {type(self.code).__name__}")
        if not _PLAIN_DTYPE.fullmatch(self.code):
            raise _ForbiddenError(f"numpy.dtype({self.code[:40]!r})")
        return np.dtype(self.code).newbyteorder(self.byte_order)


class _Array:
    """Stands in for `numpy.ndarray` while a file is read; never called with arguments, filled by its state alone."""

    __slots__ = ("values",)

    values: NDArray[Any]

    def __new__(cls, *arguments: object) -> Self:
        if arguments:
            raise _ForbiddenError("numpy.ndarray with arguments")
        return super().__new__(cls)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _values(dtype, data, shape, "F" if is_fortran else "C")

    def numpy(self) -> NDArray[Any]:
        return self.values


def _reconstruct(_kind: object, _shape: object, _code: object) -> _Array:
    return _Array()


def _scalar(dtype: object, data: object) -> object:
    return _values(dtype, data, (), "C")[()]


def _values(dtype: object, data: object, shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """Copies bytes into an array, if their number is exactly the array's."""
    if not isinstance(dtype, _Dtype):
        raise _ForbiddenError(f"a numpy array of {type(dtype).__name__}")
    plain = dtype.numpy()
    if not isinstance(data, bytes):
        raise _ForbiddenError(f"a numpy array in a {type(data).__name__}")
    array: NDArray[Any] = np.ndarray(shape, plain, data, order=order)
    # Texts of length 0 have no bytes, whatever their number.
    if array.nbytes != len(data) or array.size > max(1, len(data)):
        raise ValueError(f"{len(data)} bytes for an array of shape {array.shape}")
    return array.copy("K")


def _empty_bytes(*arguments: object) -> bytes:
    """Stands in for `bytes`: empty bytes are pickled as a call of it; called with a number it would allocate."""
    if arguments:
        raise _ForbiddenError("builtins.bytes with arguments")
    return b""


class _History:
    """Stands in for mmengine's `HistoryBuffer`, the values of a loss over a training; its content is dropped."""

    __slots__ = ()

    def __new__(cls, *arguments: object) -> Self:
        if arguments:
            raise _ForbiddenError("mmengine.logging.history_buffer.HistoryBuffer with arguments")
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _history_method(owner: object, name: object) -> None:
    """Stands in for `getattr`: a history is pickled with a reference to each of its methods, such as `mean`."""
    if owner is not _History or not isinstance(name, str):
        raise _ForbiddenError("builtins.getattr")


# What numpy's numbers and arrays of plain types are pickled with, under the names of numpy 1 and 2, and histories.
_ALLOWED_GLOBALS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (_Array, "numpy.ndarray"),
    (_Dtype, "numpy.dtype"),
    (_empty_bytes, "builtins.bytes"),
    (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_history_method, "builtins.getattr"),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


@contextmanager
def _nothing_else_allowed() -> Iterator[None]:
    """Sets aside what the process has allowed: of two globals with one name, torch would take either."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(_ALLOWED_GLOBALS):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


def _without_stand_ins(value: object, seen: dict[int, object]) -> object:
    """Puts numpy's arrays where their stand-ins are, and None for histories; containers may hold themselves."""
    if isinstance(value, _Array | _Dtype):
        return value.numpy()
    if isinstance(value, _History):
        return None
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        seen[id(value)] = value
        for key, item in value.items():
            value[key] = _without_stand_ins(item, seen)
    elif isinstance(value, list):
        seen[id(value)] = value
        value[:] = [_without_stand_ins(item, seen) for item in value]
    elif type(value) is tuple:
        seen[id(value)] = tuple(_without_stand_ins(item, seen) for item in value)
    return seen.get(id(value), value)


def tensors_by_name(path: Path, state_dict: object) -> dict[str, Tensor]:
    """Returns a state dict without the prefix `module.` of data-parallel training.

    Raises:
        CheckpointError: It is none; the message names the file.
    """
    if not isinstance(state_dict, dict) or not state_dict:
        raise CheckpointError(f"{path} holds no weights: its 'state_dict' is not a dictionary with tensors")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds no state dict: {name!r} is of type {type(value).__name__}, not a tensor"
            )
    prefix = "module." if all(name.startswith("module.") for name in state_dict) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}


def _class_names(path: Path, meta: Mapping[str, object]) -> tuple[str, ...] | None:
    described = meta.get("dataset_meta")  # of mmtracking 1.x and mmdetection 3.x
    named = described if isinstance(described, dict) else meta
    names = named.get("classes", named.get("CLASSES"))
    if names is None:
        return None
    # Datasets of one class were written ("person").
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: the classes in its 'meta' are not a list of names")
    return tuple(names)
