"""Gathers the pages of the site in one folder: those of docs/, README.md as the first page, and the code they link to.

Links are written as they work in the repository; in the copies they follow the pages to their places on the site.
"""

import json
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from flowdet.cli import app

ROOT = Path(__file__).parent.parent
FIRST = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r'(\]\(|src=")([^)#"\s:]+)(?=[)#"])')
COMMANDS = "<!-- the commands -->"


def main(out: Path) -> None:
    """Writes the folder anew."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT / "docs", out)
    waiting = {**FIRST, **{f"docs/{page.name}": page.name for page in (ROOT / "docs").glob("*.md")}}
    for path, address in waiting.items():
        (out / address).write_text(_moved((ROOT / path).read_text(), path, address, out))
    page = out / "commands.md"
    page.write_text(page.read_text().replace(COMMANDS, _commands()))


def _moved(text: str, path: str, address: str, out: Path) -> str:
    """The text of a page with its links as they are on the site; code that it links to becomes a page."""

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))
        if not (ROOT / target).exists():  # code that looks like a link, or a link that the site's builder complains of
            return match[0]
        place = _address(target)
        if place.startswith("source/"):
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            (out / place).write_text("\n".join(_shown(ROOT / target)))
        return match[1] + posixpath.relpath(place, posixpath.dirname(address) or ".")

    return LINK.sub(moved, text)


def _address(path: str) -> str:
    """The place on the site of a path in the repository."""
    if path in FIRST:
        return FIRST[path]
    if path.startswith("docs/") and not path.endswith((".py", ".ipynb")):
        return path.removeprefix("docs/")
    return f"source/{Path(path).stem}.md"


def _shown(path: Path) -> Iterator[str]:
    """Yields the Markdown that shows a file: code as code, a notebook as its text, its code and its outputs."""
    if path.suffix == ".md":
        yield path.read_text()
    elif path.suffix == ".ipynb":
        for cell in json.loads(path.read_text())["cells"]:
            text = "".join(cell["source"])
            yield text + "\n" if cell["cell_type"] == "markdown" else f"```python\n{text}\n```\n"
            yield from map(_output, cell.get("outputs", ()))
    else:
        yield f"# {path.name}\n\n```python\n{path.read_text()}```"


def _output(output: dict) -> str:
    data = output.get("data", {})
    if "image/jpeg" in data:
        return f'<img alt="The output of this cell" src="data:image/jpeg;base64,{data["image/jpeg"].strip()}">\n'
    return f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```\n"


def _commands() -> str:
    """The reference of the command line: the help of every command."""
    text = app.generate_docs("markdown", heading_level=3, max_heading_level=3, flatten_commands=True)
    return text[text.index("**Commands**:") :].removeprefix("**Commands**:")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
