import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowdet.systems.recipes import RECIPES

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(autouse=True)
def example_recipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples can be imported as a reader would; their recipes go again."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = dict(RECIPES)
    yield
    RECIPES.clear()
    RECIPES.update(before)
    for name in ("fading_memory", "torchvision_fcos"):
        sys.modules.pop(name, None)
