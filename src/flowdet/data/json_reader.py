"""Reading large JSON files piece by piece: one entry of a list at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

from flowdet.errors import DataError

__all__ = ["JsonReader"]

_FIRST_PIECE: Final = 1 << 16  # bytes
_LONGEST_VALUE: Final = 1 << 26  # characters
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_COMMA: Final = re.compile(r"[ \t\r\n]*,[ \t\r\n]*(?=[^ \t\r\n])")
_decode_one: Final = json.JSONDecoder().raw_decode


class JsonReader:
    """Reads JSON from a UTF-8 file, with or without byte order mark, in a `with` statement.

    Call `items`, `members` or `value` for what comes next, then `end`; or `lines` for all values. Memory is that of one
    entry.

    Args:
        path: The file.
        progress: Called with the number of bytes read so far.

    Raises:
        DataError: Here and in every method: the file cannot be read, or is not JSON as expected.
    """

    def __init__(self, path: Path, progress: Callable[[int], None] = lambda done: None) -> None:
        self._path = path
        self._progress = progress
        self._text, self._place = "", 0
        self._bytes_read = 0
        self._count, self._place_name = 0, "entries the list"
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def peek(self) -> str:
        """Returns the next character that is not white space, without reading it; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._place)
            self._place = match.end() if match else self._place
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read_on():
                return ""

    def value(self) -> Any:
        """Returns the next value."""
        self.peek()
        return self._value_here()

    def _value_here(self) -> Any:
        while True:
            try:
                value, end = _decode_one(self._text, self._place)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._read_on():
                    raise self.fault("is cut off or not JSON") from error
                continue
            # A number that ends with the text may go on in the file.
            if end < len(self._text) or not self._read_on():
                self._place = end
                return value

    def items(self) -> Iterator[Any]:
        """Yields the entries of the next value, which must be a list."""
        self._count = 0
        self._take("[")
        if self._taken("]"):
            return
        self.peek()
        while True:
            yield self._value_here()
            self._count += 1
            if comma := _COMMA.match(self._text, self._place):  # nearly always, and faster
                self._place = comma.end()
                continue
            if self._taken("]"):
                return
            self._take(",")
            self.peek()

    def members(self) -> Iterator[str]:
        """Yields the keys of the next value, which must be an object; read the value of each before the next key."""
        self._take("{")
        if self._taken("}"):
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise self.fault("is not JSON")
            self._take(":")
            self._count, self._place_name = 0, f"entries {key!r}"
            yield key
            if self._taken("}"):
                return
            self._take(",")

    def lines(self) -> Iterator[Any]:
        """Yields all values of the file, one after the other."""
        self._count, self._place_name = 0, "lines the file"
        while self.peek():
            yield self._value_here()
            self._count += 1

    def end(self) -> None:
        """Checks that nothing follows."""
        if self.peek():
            raise DataError(f"{self._path}: there is more after the end of the list: {self._near()}")

    def fault(self, what: str) -> DataError:
        """Returns an error that names the place in the file."""
        return DataError(f"{self._path}: after {self._count} {self._place_name} {what}: {self._near()}")

    def _take(self, char: str) -> None:
        if not self._taken(char):
            raise self.fault("is cut off or not JSON")

    def _taken(self, char: str) -> bool:
        """Reads the next character if it is this one."""
        is_next = self.peek() == char
        self._place += is_next
        return is_next

    def _near(self) -> str:
        return repr(self._text[self._place : self._place + 40])

    def _read_on(self) -> bool:
        """Appends a piece of the file to the text that is not used yet; returns False at the end of the file."""
        self._text, self._place = self._text[self._place :], 0
        if len(self._text) > _LONGEST_VALUE:
            raise self.fault(f"has an entry of more than {_LONGEST_VALUE} characters")
        # Pieces as long as the text, so that reading a long value again and again takes twice its time at most.
        try:
            piece = self._file.read(max(_FIRST_PIECE, len(self._text)))
            self._text += self._decode(piece, final=not piece)
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self._path} is not a text file in UTF-8: {error}") from error
        self._bytes_read += len(piece)
        self._progress(self._bytes_read)
        return bool(piece)
