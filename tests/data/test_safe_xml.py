from pathlib import Path

import pytest

from flowdet.data.safe_xml import read_xml
from flowdet.errors import DataError

LAUGHS = '<!DOCTYPE lolz [<!ENTITY lol0 "lol">' + "".join(
    f'<!ENTITY lol{n} "{f"&lol{n - 1};" * 10}">' for n in range(1, 10)
)
DECLARING = {
    "billion laughs": LAUGHS + "]><a>&lol9;</a>",
    "a local file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    "a remote file": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>',
    "a parameter entity": '<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]><a/>',
    "a harmless one": '<?xml version="1.0"?><!DOCTYPE a><a/>',
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_elements_texts_and_attributes(tmp_path: Path) -> None:
    content = '<?xml version="1.0" encoding="latin-1"?><a x="1 &amp; 2">  <b>\xe9<!-- c --></b><b/>\n</a>'
    root = read_xml(write(tmp_path / "a.xml", content.encode("latin-1")))
    assert (root.tag, root.get("x")) == ("a", "1 & 2")
    assert [element.text for element in root.iterfind("b")] == ["é", None]


@pytest.mark.parametrize("content", DECLARING.values(), ids=DECLARING)
def test_a_document_type_is_refused_before_anything_expands(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"declares the document type .*; entities are refused, not expanded"):
        read_xml(write(tmp_path / "a.xml", content.encode()))


@pytest.mark.parametrize(
    "content", [b"", b"<a>", b"<a></b>", b"\x00\x01", b"<a>&x;</a>", b"<a/><b/>", b"<a \xff='1'/>"]
)
def test_what_is_no_xml(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not XML"):
        read_xml(write(tmp_path / "a.xml", content))


def test_an_unknown_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not XML"):
        read_xml(write(tmp_path / "a.xml", b'<?xml version="1.0" encoding="klingon"?><a/>'))


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_xml(tmp_path / "none.xml")
    with pytest.raises(DataError, match="cannot be read"):
        read_xml(tmp_path)
