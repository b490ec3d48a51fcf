"""What the pages point to is there, and their commands are right."""

import re
import tomllib
from pathlib import Path

import pytest

from flowdet.cli import app
from tests.pages import PAGES, ROOT, Block, blocks_of, commands_of

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [(block, words) for block in BLOCKS if block.language == "console" for words in commands_of(block)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"\]\(([^)#\s]+)|src=\"([^\"]+)\"", text)
    for target in (first or second for first, second in targets):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_there_are_pages() -> None:
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "reference.md", "lite.md"} <= {p.name for p in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    text = page.read_text()
    blocks = list(blocks_of(page))
    assert {block.language for block in blocks} <= {"console", "python", "json", "text", "bibtex"}
    assert len(re.findall(r"^ *(```|~~~)", text, re.MULTILINE)) == 2 * len(blocks), "a fence is open"
    assert len(re.findall(r"^ *<!-- not run:", text, re.MULTILINE)) == sum(
        block.reason is not None for block in blocks
    ), "a mark has no block"
    outside = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)
    code = re.search(r"^ {4,}(flowdet|pip|python|make|import|from) .*", outside, re.MULTILINE)
    assert not code, "code without a fence is not tested"


@pytest.mark.parametrize(
    ("block", "words"), COMMANDS, ids=[f"{block.page.stem}:{words[0]}" for block, words in COMMANDS]
)
def test_commands_are_right(block: Block, words: list[str]) -> None:
    """Also those that cannot be run: options, extras, files and targets exist."""
    program, *arguments = words
    match Path(program).name:
        case "flowdet":
            app.parse_args(arguments, print_error=False, exit_on_error=False)
        case "torchrun":
            app.parse_args(arguments[arguments.index("flowdet") + 1 :], print_error=False, exit_on_error=False)
        case "python":
            assert (ROOT / arguments[0]).is_file()
        case "pip" | "pipx" | "uvx":
            extras = {extra for word in arguments for extra in re.findall(r"\[(\w+)\]", word)}
            assert extras <= set(PROJECT["optional-dependencies"])
            assert "flowdet" not in arguments or program == "uvx", "it is not on PyPI"
        case "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case "hf":
            assert PROJECT["optional-dependencies"]["hub"]
        case "docker":
            assert (ROOT / "Dockerfile").is_file()
        case "pre-commit":
            assert any(need.startswith("pre-commit") for need in PROJECT["optional-dependencies"]["dev"])
        case _:
            pytest.fail(f"{block.page.name}:{block.line}: what is {program}?")


def test_the_page_lists_every_extra() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "start.md").read_text(), re.MULTILINE))
    assert listed | {"dev", "docs", "test"} == set(PROJECT["optional-dependencies"])


def test_the_container_is_built_with_the_commands_of_the_page() -> None:
    steps = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    index = next(line.partition("=")[2] for line in steps if line.startswith("ARG TORCH_INDEX="))
    runs = [
        line.removeprefix("RUN ").replace("$TORCH_INDEX", index).split() for line in steps if line.startswith("RUN ")
    ]
    page = [words for block, words in COMMANDS if block.page.name == "start.md"]
    start = page.index(runs[0])
    assert page[start : start + len(runs)] == runs
    (python,) = re.findall(r"^FROM python:3\.(\d+)", "\n".join(steps), re.MULTILINE)
    assert int(python) >= int(PROJECT["requires-python"].removeprefix(">=3."))
    copied = {word for line in steps if line.startswith("COPY ") for word in line.split()[1:-1]}
    needed = {PROJECT["readme"], "pyproject.toml", *(path.split("/")[0] for path in PROJECT["license-files"])}
    assert copied == needed
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert admitted == needed
