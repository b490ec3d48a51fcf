"""The site is built without a warning, and every link on it leads somewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import flowdet
from tests.pages import ROOT

pytest.importorskip("mkdocs", reason="needs the extra docs")


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name == "id" and value:
                self.anchors.add(value)


def test_the_site(tmp_path: Path) -> None:
    """One test, for parallel tests would build it more than once."""
    site = _build(tmp_path)
    pages = {path: _Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    assert _broken(pages) == []
    for path in pages:  # nothing is fetched from elsewhere
        assert not re.search(r'<script src="http|<link [^>]*href="http|fonts.googleapis', path.read_text()), path
    python, commands = pages[site / "python.html"], pages[site / "commands.html"]
    assert {f"flowdet.{name}" for name in flowdet.__all__ if name != "__version__"} <= python.anchors
    for command in ("detect", "models-show", "data-import-cvat", "train", "evaluate", "benchmark", "serve", "view"):
        assert f"flowdet-{command}" in commands.anchors, command
    assert "Leave out detections below this score" in (site / "commands.html").read_text()


def _build(folder: Path) -> Path:
    (folder / "mkdocs.yml").write_text(f"INHERIT: {ROOT}/mkdocs.yml\ndocs_dir: pages\n")
    (folder / "src").symlink_to(ROOT / "src", target_is_directory=True)
    for arguments in ([str(ROOT / "scripts" / "site_pages.py"), "pages"], ["-m", "mkdocs", "build", "--strict"]):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "site"


def _broken(pages: dict[Path, _Page]) -> list[str]:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.name}: {link}")
    return broken
