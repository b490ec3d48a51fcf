"""The code blocks of the pages.

A block that can run is run by `test_docs_blocks.py`. One that cannot has a comment right above it that says why:
`<!-- not run: needs a camera -->`.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Block", "blocks_of", "commands_of"]

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("demo/*.md")])
_BLOCK = re.compile(
    r"^(?: *<!-- not run: (?P<reason>.+) -->\n)?(?P<indent> *)```(?P<language>.*)\n(?P<text>(?:.*\n)*?)(?P=indent)```$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes:
        page: The file that it stands in.
        line: The number of its first line of code.
        language: The word after the fence.
        text: Its code, without indentation of the block as a whole.
        reason: Why it cannot run; None if it can.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    """Yields the blocks of a page, in order."""
    content = page.read_text()
    for match in _BLOCK.finditer(content):
        indent, text = match["indent"], match["text"]
        line = content.count("\n", 0, match.start("text")) + 1
        yield Block(page, line, match["language"], re.sub(f"^{indent}", "", text, flags=re.MULTILINE), match["reason"])


def commands_of(block: Block) -> Iterator[list[str]]:
    """Yields the words of each command of a console block, without its comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words
