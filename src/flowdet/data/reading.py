"""Files of unknown origin: their text, JSON and XML, and which of their numbers can be true."""

import codecs
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from flowdet.errors import DataError

__all__ = [
    "LARGEST_FRAME",
    "LARGEST_ID",
    "LARGEST_PIXELS",
    "check_class_list",
    "class_names_of_lines",
    "is_pixels",
    "is_printable",
    "is_whole",
    "parse_pixels",
    "read_json",
    "read_text",
    "read_xml",
]

LARGEST_ID = 2**63 - 1
"""Ids and track numbers become 64-bit integers."""

LARGEST_FRAME = 2**53
"""The distance between two frame numbers stays exact."""

LARGEST_PIXELS = 2**31 - 1
"""No coordinate or side of a picture is larger; areas and sums of them stay finite and exact."""

_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, halves of surrogate pairs
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, without byte order mark, its lines ending with a line feed.

    Raises:
        DataError: The file cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if content.startswith(_UTF_16) or b"\0" in content[:64]:
        raise DataError(f"{path} is UTF-16 or no text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8 (byte {content[error.start]:#x} in line {line}); save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds; with or without byte order mark, UTF-16 too.

    Raises:
        DataError: The file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def read_xml(path: str | Path) -> Element:
    """Returns the root element of an XML file without document type, so without entities to expand or fetch.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It cannot be read, is not XML, or declares a document type; the message does not name the file.
    """
    try:
        with open(path, "rb") as file:
            return _parse_xml(file.read())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    except (expat.ExpatError, ParseError, ValueError, LookupError) as error:
        raise DataError(f"is not XML: {error}") from error


def _parse_xml(content: bytes) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    # Entities can only be declared within a document type: this comes before the first of them.
    parser.StartDoctypeDeclHandler = _refuse
    parser.Parse(content, True)
    return builder.close()


def _refuse(*declaration: Any) -> None:
    raise DataError(f"declares the document type {str(declaration[0])[:40]!r}; entities are refused, not expanded")


def is_printable(text: str) -> bool:
    """Returns whether a text can go to a terminal: no control characters, nothing that is not Unicode."""
    return not _NOT_PRINTABLE.search(text)


def is_whole(value: object, smallest: int = -LARGEST_ID, largest: int = LARGEST_ID) -> bool:
    """Returns whether a value is a whole number in this range; true and false are none."""
    return type(value) is int and smallest <= value <= largest


def is_pixels(value: object, smallest: float = -LARGEST_PIXELS) -> bool:
    """Returns whether a value is a plausible coordinate or length in pixels, whole or not."""
    return type(value) in (int, float) and smallest <= value <= LARGEST_PIXELS  # type: ignore[operator]


def parse_pixels(text: str) -> float:
    """Returns the coordinate or length in pixels that a text states.

    Raises:
        DataError: It is no number, or none that a picture can have.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise DataError(f"{text.strip()[:20]!r} is no number")
    if not is_pixels(value):
        raise DataError(f"{text.strip()[:20]!r} is no plausible number of pixels")
    return value


def class_names_of_lines(path: Path, option: str) -> tuple[str, ...]:
    """Returns the class names of a text file with one a line.

    Args:
        path: The file.
        option: The option that names the classes instead, for messages.

    Raises:
        DataError: The file cannot be read, names no class, or names one twice.
    """
    return check_class_list([line.strip() for line in read_text(path).rstrip().split("\n")], str(path), option)


def check_class_list(names: list[str], where: str, option: str) -> tuple[str, ...]:
    """Returns the names if they can name classes.

    Args:
        names: The names, in the order of the labels.
        where: The file or option that they come from, for messages.
        option: The option that names classes, for messages.

    Raises:
        DataError: There is none, one is empty or no text that can be printed, or one comes twice.
    """
    hint = f"name the classes with {option}"
    if not any(names):
        raise DataError(f"{where}: expected class names, came none; {hint}")
    for name in names:
        if not name:
            raise DataError(f"{where}: expected class names, came an empty one; {hint}")
        if not is_printable(name):
            raise DataError(f"{where}: the class {name!r} holds a character that cannot be printed; {hint}")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{where}: the class {twice!r} is there more than once; {hint}")
    return tuple(names)
