"""XML of unknown origin: no document type, so no entity that could expand or fetch anything."""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from flowdet.errors import DataError

__all__ = ["read_xml"]


def read_xml(path: str | Path) -> Element:
    """The root element of an XML file.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It cannot be read, is not XML, or declares a document type; the message does not name the file.
    """
    try:
        with open(path, "rb") as file:
            return _parse(file.read())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    except (expat.ExpatError, ParseError, ValueError, LookupError) as error:
        raise DataError(f"is not XML: {error}") from error


def _parse(content: bytes) -> Element:
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
