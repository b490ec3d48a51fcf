"""Class names as they stand beside labels: in a YOLO data.yaml, or one a line in a text file."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from flowdet.errors import DataError

__all__ = ["checked_names", "find_class_names", "names_of_lines", "names_of_yaml"]

_YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_TEXT_FILES = ("classes.txt", "obj.names")
_HINT = "name the classes with --names"


def find_class_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """The class names of the first file in these folders that gives them.

    Raises:
        DataError: There is no such file, or it cannot be understood.
    """
    for folder in folders:
        for name in (*_YAML_FILES, *_TEXT_FILES):
            path = folder / name
            if path.is_file():
                text = _text(path)
                return names_of_yaml(text, path) if name in _YAML_FILES else names_of_lines(text, path)
    where = " or ".join(str(folder) for folder in folders)
    raise DataError(f"there is no {', '.join((*_YAML_FILES, *_TEXT_FILES))} in {where}; {_HINT}")


def names_of_lines(text: str, path: Path) -> tuple[str, ...]:
    """Class names given one a line.

    Args:
        text: What the file holds.
        path: How messages call it.

    Raises:
        DataError: There is none, or one comes twice.
    """
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return checked_names([line.strip() for line in lines], str(path))


def names_of_yaml(text: str, path: Path) -> tuple[str, ...]:
    """The class names under `names` in a YOLO data.yaml: a list, or numbers from 0 with names, in any YAML style.

    Only this entry is read, and only plain or quoted names are.

    Args:
        text: What the file holds.
        path: How messages call it.

    Raises:
        DataError: There is no such entry, or it is something else.
    """
    lines = [re.sub(r"(^|\s)#[^'\"]*$", "", line).rstrip() for line in text.splitlines()]
    start = next((number for number, line in enumerate(lines) if re.match(r"names\s*:", line)), None)
    if start is None:
        raise DataError(f"{path} has no entry 'names'; {_HINT}")
    block = [lines[start].partition(":")[2].strip()]
    for line in lines[start + 1 :]:
        if line and not line.startswith((" ", "\t", "-", "]", "}")):
            break
        block.append(line.strip())
    entries = _entries("\n".join(block).strip())
    if entries is None or any(name is None for _, name in entries):
        raise DataError(f"the names of {path} are neither a list nor numbers with names; {_HINT}")
    if [number for number, _ in entries] not in ([None] * len(entries), [str(i) for i in range(len(entries))]):
        raise DataError(f"the names of {path} are not numbered 0, 1, 2 and so on; {_HINT}")
    return checked_names([name for _, name in entries if name is not None], str(path))


def checked_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names, if they can be class names.

    Raises:
        DataError: There is none, one is empty, or one comes twice.
    """
    if not names or not all(names):
        raise DataError(f"{where}: expected class names, came {'an empty one' if names else 'none'}; {_HINT}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: the class {twice!r} is there more than once; {_HINT}")
    return tuple(names)


def _entries(block: str) -> list[tuple[str | None, str | None]] | None:
    """(number, name) of each entry, the number None in lists; None if it is no list or mapping at all."""
    pairs = {"[": "]", "{": "}"}
    if block[:1] in pairs:
        if not block.endswith(pairs[block[0]]):
            return None
        parts = re.findall(r"""(?:"(?:\\.|[^"\\])*"|'(?:''|[^'])*'|[^,"'])+""", block[1:-1])
        parts = [part.strip() for part in parts if part.strip()]
        return [_numbered(part) if block[0] == "{" else (None, _scalar(part)) for part in parts]
    parts = [line for line in block.splitlines() if line]
    if all(part.startswith("- ") for part in parts):
        return [(None, _scalar(part[2:].strip())) for part in parts]
    return [_numbered(part) for part in parts]


def _numbered(part: str) -> tuple[str | None, str | None]:
    number, colon, name = part.partition(":")
    return number.strip().strip("'\""), _scalar(name.strip()) if colon else None


def _scalar(text: str) -> str | None:
    """A plain or quoted scalar; None if it is something else."""
    if re.fullmatch(r"'(?:''|[^'])*'", text):
        return text[1:-1].replace("''", "'")
    if text.startswith('"'):
        try:
            value = json.loads(text)
        except ValueError:
            return None
        return value if isinstance(value, str) else None
    return text if text and not re.match(r"[\[\]{}&*!|>%@`'\"]", text) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
