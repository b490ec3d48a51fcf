"""The wheel and the sdist hold what they should, and the wheel works without the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import flowdet
from tests.pages import ROOT
from tests.video.clips import make_clip, quadrants

pytest.importorskip("hatchling", reason="needs the extra test")


def _build(folder: Path, out: Path, *targets: str) -> list[Path]:
    options = [word for target in targets for word in ("--target", target)]
    command = [sys.executable, "-m", "hatchling", "build", *options, "--directory", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return sorted(out.iterdir())


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of this checkout."""
    wheel, sdist = _build(ROOT, tmp_path_factory.mktemp("dist"), "wheel", "sdist")
    return wheel, sdist


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_no_more(packages: tuple[Path, Path]) -> None:
    wheel, _ = packages
    assert wheel.stat().st_size < 40e6
    names = _contents(wheel).keys()
    source = {f"flowdet/{path.relative_to(ROOT / 'src/flowdet').as_posix()}" for path in _files(ROOT / "src/flowdet")}
    assert {name for name in names if not name.startswith("flowdet-")} == source
    shipped = {f"flowdet/weights/{name}.safetensors" for name in ("flow", "lite", "nanodet-g")}
    assert {*shipped, "flowdet/py.typed"} <= source
    licences = {name.partition("/licenses/")[2] for name in names if "/licenses/" in name}
    pack, weights = "src/flowdet/data/synthetic/pack/LICENCES.md", "src/flowdet/weights/LICENCES.md"
    assert licences == {"LICENSE", "NOTICE", pack, weights}
    (metadata,) = (text for name, text in _contents(wheel).items() if name.endswith("/METADATA"))
    assert message_from_string(metadata.decode())["Version"] == flowdet.__version__


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_the_sdist_builds_the_same_wheel(packages: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = packages
    assert sdist.stat().st_size < 40e6
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    tops = {path.name for path in folder.iterdir()}
    wanted = {"src", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert tops == wanted
    (again,) = _build(folder, tmp_path / "dist", "wheel")
    assert _contents(again) == _contents(wheel)


def test_the_wheel_works_where_nothing_else_of_the_project_is(packages: tuple[Path, Path], tmp_path: Path) -> None:
    installed, workplace = tmp_path / "installed", tmp_path / "workplace"
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(packages[0])], check=True)
    workplace.mkdir()
    make_clip(workplace / "clip.mp4", [quadrants()] * 3)
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=workplace,
            env=environment,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    script = installed / "bin" / "flowdet"
    assert run(sys.executable, str(script), "--version").strip() == flowdet.__version__
    assert str(installed) in run(sys.executable, "-c", "import flowdet; print(flowdet.__file__)")
    said = run(sys.executable, str(script), "detect", "clip.mp4", "--backend", "torch")
    assert "in 3 frames" in said
    assert {path.name for path in (workplace / "detections").iterdir()} == {"clip.mp4", "clip.json"}
