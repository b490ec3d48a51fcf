"""Read the checkpoints of OpenMMLab's libraries without executing anything that is in them."""

import os
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError

__all__ = ["OpenMMLabCheckpoint", "read_openmmlab"]

_ZIP_MAGIC = b"PK\x03\x04"
# What torch.save wrote first before 1.6, and published files still begin with.
_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# Neither objects nor structures: their arrays hold pointers.
_PLAIN_DTYPES = "?bhilqBHILQefdgFDGSU"
_FORBIDDEN = re.compile(r"(?:GLOBAL |`add_safe_globals`,? but got <class ')([\w.]+)")
# torch keeps one list of allowed globals for the whole process; without this, the first of two threads to finish would
# empty it under the other.
_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False, slots=True)
class OpenMMLabCheckpoint:
    """What a checkpoint of OpenMMLab holds, the optimizer's state left out.

    Attributes:
        state_dict: Every parameter and buffer by name, on the CPU; they may be views of the file on disk, so copy what
            shall outlive it.
        class_names: The classes it was trained for, in the order of their labels; None if the file does not say.
        meta: What else the training wrote down, such as its configuration; empty if there is nothing.
    """

    state_dict: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    meta: Mapping[str, object]


def read_openmmlab(path: str | os.PathLike[str]) -> OpenMMLabCheckpoint:
    """Read a `.pth` file of mmtracking, mmdetection or any other PyTorch training that saved a state dict.

    The file may hold tensors, plain Python values and numpy's numbers and arrays. A file that asks for anything else is
    refused before that is called.

    Args:
        path: The file; in today's zip form or the one from before PyTorch 1.6.

    Returns:
        Its content; the prefix `module.` of models saved from data-parallel training is removed.

    Raises:
        CheckpointError: The file is missing, empty, damaged or of another kind, or asks for what no weight file needs.
    """
    path = Path(path)
    content = _load(path, mapped=_is_mappable(path))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    state_dict = content.get("state_dict", content)
    meta = content.get("meta", {}) if "state_dict" in content else {}
    if not isinstance(meta, dict):
        raise CheckpointError(
            f"{path}: 'meta' is a dictionary in OpenMMLab's checkpoints, here a {type(meta).__name__}"
        )
    return OpenMMLabCheckpoint(_tensors(path, state_dict), _class_names(path, meta), meta)


def _is_mappable(path: Path) -> bool:
    """Tell by a file's beginning that it is a checkpoint, and whether it can be mapped into memory or must be read."""
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
    # Mapping takes the bytes as they are; torch stores them plain, other archivers may not.
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _load(path: Path, *, mapped: bool) -> object:
    try:
        with _LOCK, torch.serialization.safe_globals(_ALLOWED_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    # Here too, and the unpickler.
    except Exception as error:
        if forbidden := _FORBIDDEN.search(str(error)):
            raise CheckpointError(
                f"{path} asks for {forbidden[1]}, which no weight file needs; the file was not executed. "
                f"Take it from a source that you trust, or have it saved with nothing but its 'state_dict'"
            ) from None
        raise _damaged(path) from error


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} begins like a PyTorch checkpoint but is cut short or damaged; download or copy it again"
    )


def _allowed_globals() -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """List what numpy's numbers and arrays of plain types are pickled with, under the names of numpy 1 and 2."""
    functions = {"scalar": np.float64(), "_reconstruct": np.empty(0)}
    dtypes = [type(np.dtype(code)) for code in _PLAIN_DTYPES]
    # With names, so that leaving the context does not revoke what somebody else has allowed.
    return [
        (np.ndarray, "numpy.ndarray"),
        (np.dtype, "numpy.dtype"),
        *((dtype, f"numpy.dtypes.{dtype.__name__}") for dtype in dtypes),
        *(
            (cast(Callable[..., object], example.__reduce__()[0]), f"numpy.{core}.multiarray.{name}")
            for name, example in functions.items()
            for core in ("core", "_core")
        ),
        # Arrays without elements: empty bytes are pickled as a call of their type.
        (bytes, "builtins.bytes"),
    ]


_ALLOWED_GLOBALS = _allowed_globals()


def _tensors(path: Path, state_dict: object) -> dict[str, Tensor]:
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
    names = meta.get("CLASSES")
    if names is None:
        return None
    # Datasets of one class were written ("person").
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: 'CLASSES' in its 'meta' is not a list of names")
    return tuple(names)
