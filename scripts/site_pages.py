"""Pages of the site that lie outside of docs/, for MkDocs: README.md is the first page, and linked code becomes pages.

Links are written as they work in the repository; here they follow the pages to their places on the site.
"""

import json
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parent.parent
_DOCS = "docs/"
_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r'(\]\(|src=")([^)#"\s:]+)(?=[)#"])')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages outside of docs/, and a page for each file of code that a page links to."""
    for path, address in _PAGES.items():
        files.append(File.generated(config, address, content=(_ROOT / path).read_text()))
    for path in sorted({target for page in files.documentation_pages() for target in _targets(page)}):
        if _address(path).startswith("source/") and (_ROOT / path).is_file():
            files.append(File.generated(config, _address(path), content="\n".join(_shown(_ROOT / path))))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page for its place on the site."""
    del config, files
    if page.file.src_uri.startswith("source/"):
        return markdown

    def moved(match: re.Match[str]) -> str:
        path = _target(_home(page.file), match[2])
        if not (_ROOT / path).exists():  # code that looks like a link, or a link that MkDocs will complain of
            return match[0]
        return match[1] + posixpath.relpath(_address(path), posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(moved, markdown)


def _home(file: File) -> str:
    """The path in the repository that a page was made of."""
    outside = {address: path for path, address in _PAGES.items()}
    return outside.get(file.src_uri, _DOCS + file.src_uri)


def _targets(file: File) -> Iterable[str]:
    """The paths in the repository that a page links to."""
    return (_target(_home(file), match[2]) for match in _LINK.finditer(file.content_string))


def _target(home: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), link))


def _address(path: str) -> str:
    """The place on the site of a path in the repository."""
    if path in _PAGES:
        return _PAGES[path]
    if path.startswith(_DOCS) and not path.endswith((".py", ".ipynb")):
        return path.removeprefix(_DOCS)
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def _shown(path: Path) -> Iterable[str]:
    """Yields the Markdown that shows a file: code as code, a notebook as its text, its code and its pictures."""
    if path.suffix == ".md":
        yield path.read_text()
        return
    if path.suffix != ".ipynb":
        yield f"# {path.name}\n\n```{path.suffix[1:].replace('py', 'python')}\n{path.read_text()}```"
        return
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        yield text + "\n" if cell["cell_type"] == "markdown" else f"```python\n{text}\n```\n"
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/jpeg" in data:
                yield f'<img alt="" src="data:image/jpeg;base64,{data["image/jpeg"].strip()}">\n'
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                yield f"```text\n{text.rstrip()}\n```\n"
