import re

import pytest

from flowdet.errors import counted
from tests.pages import ROOT


@pytest.mark.parametrize(("number", "words"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes")])
def test_a_number_has_its_noun(number: int, words: str) -> None:
    assert counted(number, "box", "boxes") == words
    assert counted(number, "frame") == f"{number} frame" + "s" * (number != 1)


def test_nobody_else_makes_plurals() -> None:
    others = re.compile(r"\w\(e?s\)|== 1 else \"\w+s\"|\"s\" if|\"s\" \*")
    found = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "src" / "flowdet").rglob("*.py")
        if path.name != "errors.py"
        for line in path.read_text().splitlines()
        if others.search(line)
    ]
    assert found == []
