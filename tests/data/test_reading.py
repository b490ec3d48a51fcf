from pathlib import Path

import pytest

from flowdet.data.reading import is_pixels, is_whole, parse_pixels, read_json, read_text, read_xml
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


@pytest.mark.parametrize(
    "content",
    [b"a\n\xc3\xa9", b"a\r\n\xc3\xa9", b"a\r\xc3\xa9", b"\xef\xbb\xbfa\n\xc3\xa9", b"\xef\xbb\xbfa\r\n\xc3\xa9"],
)
def test_text_of_any_line_ends_with_or_without_a_byte_order_mark(content: bytes, tmp_path: Path) -> None:
    assert read_text(write(tmp_path / "a.txt", content)) == "a\n\u00e9"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("cat".encode("utf-16"), "is UTF-16 or no text; save it as UTF-8"),
        ("cat".encode("utf-16-le"), "is UTF-16 or no text; save it as UTF-8"),
        ("cat".encode("utf-16-be"), "is UTF-16 or no text; save it as UTF-8"),
        (b"cat\nd\xf6g", "is not UTF-8 (byte 0xf6 in line 2); save it as UTF-8"),
    ],
)
def test_text_in_another_encoding(content: bytes, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(DataError) as raised:
        read_text(path)
    assert str(raised.value) == f"{path} {reason}"
    with pytest.raises(DataError, match="No such file"):
        read_text(tmp_path / "none")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    assert read_json(write(tmp_path / "a.json", '{"a": "\u00e9"}'.encode(encoding))) == {"a": "\u00e9"}


def test_numbers_that_can_be_true() -> None:
    assert all(map(is_pixels, (0, -1, 1.5, 2**31 - 1, -(2.0**31) + 1)))
    for value in (2**31, 1e308, 10**400, float("nan"), float("inf"), -float("inf"), True, "1", None):
        assert not is_pixels(value)
    assert is_whole(2**63 - 1)
    for whole in (2**63, 1.0, True, "1", None):
        assert not is_whole(whole)
    assert parse_pixels(" 1e3 ") == 1000
    for text in ("1e308", "inf", "-inf", "nan", "", "x", "9" * 5000):
        with pytest.raises(DataError, match="is no"):
            parse_pixels(text)
