"""The order of the rooms, read from the imports."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import flowdet

ROOT = Path(flowdet.__file__).parent

# What each room may import beside itself: rooms, or single modules of rooms. That modules never import each other in a
# circle is another test.
_BASE = {"errors", "class_names", "types", "files"}
_PURE = _BASE | {"ops"}
_NETWORKS = _PURE | {"inputs"}
_SYSTEMS = _NETWORKS | {"video", "data", "flow", "detectors", "temporal", "systems", "weights", "backends"}
MAY_IMPORT = {
    "errors": set(),
    "class_names": {"errors"},
    "types": {"errors", "class_names"},
    "files": {"errors"},
    "ops": _BASE,
    "inputs": _PURE,
    "video": _PURE,
    "data": _PURE | {"inputs", "video", "work.jobs", "work.pool"},
    "flow": _NETWORKS,
    "detectors": _NETWORKS,
    "temporal": _NETWORKS | {"flow.base", "detectors.base", "data.sampling"},
    "metrics": _NETWORKS | {"data"},
    "tracking": _PURE | {"data", "metrics"},
    "systems": _SYSTEMS,
    "weights": _SYSTEMS,
    "backends": _SYSTEMS,
    "work": _SYSTEMS | {"tracking"},
    "evaluation": _SYSTEMS | {"metrics", "tracking", "work"},
    "training": _SYSTEMS | {"metrics", "evaluation"},
    "benchmark": _SYSTEMS | {"training", "work.jobs", "work.pool"},
    "viewer": _SYSTEMS | {"metrics", "evaluation", "work"},
    "flowdet": _SYSTEMS | {"tracking"},
    "cli": _SYSTEMS | {"flowdet", "metrics", "tracking", "work", "evaluation", "training", "benchmark", "viewer"},
    "__main__": {"cli"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
EVERY_MODULE = pytest.mark.parametrize("module", MODULES)
# All but packages without code of their own, and the one that runs when it is imported.
RUN_ON_IMPORT = "flowdet.__main__"
MODULES_WITH_NAMES = [name for name, path in MODULES.items() if "__all__" in path.read_text() and name != RUN_ON_IMPORT]


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def imports_of(module: str) -> set[str]:
    """The modules of flowdet that this one imports, inside functions too; not those that only a type checker sees."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found |= {inner if (inner := f"{source}.{alias.name}") in MODULES else source for alias in node.names}
    return {name for name in found if name == "flowdet" or name.startswith("flowdet.")}


@cache
def graph() -> dict[str, set[str]]:
    return {module: imports_of(module) for module in MODULES}


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in MODULES} == set(MAY_IMPORT)


@EVERY_MODULE
def test_imports_point_upwards_only(module: str) -> None:
    room = room_of(module)
    allowed = MAY_IMPORT[room] | {room}
    others = {other for other in graph()[module] if other.removeprefix("flowdet.") not in allowed}
    assert {other for other in others if room_of(other) not in allowed} == set()


def test_the_imports_are_seen() -> None:
    assert graph()["flowdet.temporal.dff"] >= {"flowdet.errors", "flowdet.temporal.base", "flowdet.types"}
    assert "flowdet.systems.stream" in graph()["flowdet.systems.detector"]
    assert "flowdet.errors" in graph()["flowdet.weights.openmmlab"]
    assert graph()["flowdet.types"] == {"flowdet.class_names"}
    assert graph()["flowdet.errors"] == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    order = list(TopologicalSorter(graph()).static_order())
    assert set(order) >= set(MODULES)


def test_every_module_with_code_says_what_is_public() -> None:
    silent = set(MODULES) - set(MODULES_WITH_NAMES) - {RUN_ON_IMPORT}
    assert [name for name in silent if len(ast.parse(MODULES[name].read_text()).body) > 1] == []


@pytest.mark.parametrize("module", MODULES_WITH_NAMES)
def test_what_is_public_is_said(module: str) -> None:
    body = ast.parse(MODULES[module].read_text()).body
    imported = import_module(module)
    listed = imported.__all__
    assert len(set(listed)) == len(listed)
    assert [name for name in listed if not hasattr(imported, name)] == []
    # A decorated function is a command, which the command line reaches by its decorator.
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef) and not node.decorator_list}
    classes = {node.name for node in body if isinstance(node, ast.ClassDef)}
    assert {name for name in functions | classes if not name.startswith("_")} <= set(listed)


def test_the_public_names_of_flowdet() -> None:
    assert flowdet.__all__ == [
        "CheckpointError",
        "ConfigError",
        "DataError",
        "Detections",
        "DownloadError",
        "FlowdetError",
        "Frame",
        "TrackerConfig",
        "Video",
        "VideoDetector",
        "VideoError",
        "VideoWriter",
        "__version__",
        "draw_detections",
        "load",
        "open_video",
        "read_ahead",
        "save_native",
        "track",
        "weights_of",
    ]


def test_every_error_is_one_a_user_can_catch_at_once() -> None:
    errors = [getattr(flowdet, name) for name in flowdet.__all__ if name.endswith("Error")]
    assert len(errors) == 6
    assert all(issubclass(error, flowdet.FlowdetError) for error in errors)
