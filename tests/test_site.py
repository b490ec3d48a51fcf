"""The site is built without a warning, and every link on it leads somewhere."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import flowdet
from tests.pages import ROOT

pytest.importorskip("mkdocs", reason="needs the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    for arguments in (["scripts/site_pages.py", "build/pages"], build):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


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


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: _Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            exists = target in pages or target.is_file()
            if not exists or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors
            ):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for tag in ('<script src="http', '<link href="http', "fonts.googleapis"):
            assert tag not in path.read_text(), path


def test_the_references_are_whole(site: Path) -> None:
    python, commands = _Page(site / "python.html"), _Page(site / "commands.html")
    assert {f"flowdet.{name}" for name in flowdet.__all__ if name != "__version__"} <= python.anchors
    text = (site / "commands.html").read_text()
    for command in ("detect", "models-show", "data-import-cvat", "train", "evaluate", "benchmark", "serve", "view"):
        assert f"flowdet-{command}" in commands.anchors, command
    assert "--key-frame-interval" in text
    assert "Leave out detections below this score" in text
