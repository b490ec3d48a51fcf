import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cattrs
import pytest
import torch

from flowdet.errors import CheckpointError, ConfigError
from flowdet.systems.build import build
from flowdet.systems.recipes import RECIPES
from flowdet.weights.limits import check_size, strict_numbers
from tests.tiny import lite_config, lite_flow_config
from tests.training.runs import SYSTEMS


@dataclass(frozen=True)
class Numbers:
    count: int = 1
    rate: float = 0.5
    flag: bool = False
    most: int | None = None
    sizes: tuple[int, ...] = ()


def structured(text: str) -> Numbers:
    converter = cattrs.Converter(detailed_validation=False)
    strict_numbers(converter, 1000)
    return converter.structure(json.loads(text), Numbers)


def test_plausible_numbers_pass() -> None:
    numbers = Numbers(count=-1000, rate=1000.0, flag=True, most=3, sizes=(1, 2))
    assert structured(json.dumps(asdict(numbers))) == numbers
    assert structured('{"rate": 2}').rate == 2.0
    assert structured('{"most": null}').most is None


@pytest.mark.parametrize("name", ["count", "rate", "flag", "most", "sizes"])
@pytest.mark.parametrize("value", ['"3"', "1001", "-1e308", "1e999", "NaN", "[]", "1" + "0" * 400, '{"a": 1}'])
def test_what_is_no_plausible_number_is_refused(name: str, value: str) -> None:
    text = f'{{"sizes": [{value}]}}' if name == "sizes" else f'{{"{name}": {value}}}'
    with pytest.raises(ConfigError, match=r"is (no|neither)"):
        structured(text)


@pytest.mark.parametrize("text", ['{"count": 2.7}', '{"count": true}', '{"rate": true}', '{"flag": 1}'])
def test_no_type_is_taken_for_another(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is (no|neither)"):
        structured(text)


@pytest.mark.parametrize("name", RECIPES)
def test_a_system_is_as_large_as_its_weights(name: str) -> None:
    config = RECIPES[name]()
    with torch.device("meta"):
        weights = build(config).state_dict()
    check_size(lambda: build(config), weights, Path("a.safetensors"))


@pytest.mark.parametrize("channels", [10**5, 10**9, 10**30])
def test_a_configuration_of_gigabytes_is_refused_before_it_is_built(channels: int) -> None:
    flow_net: Any = replace(lite_flow_config(), encoder=(channels, 6, channels, 8, 8, 8))
    config = replace(SYSTEMS["tiny-dff"], flow_net=flow_net)
    with pytest.raises(CheckpointError, match="its configuration asks for"):
        check_size(lambda: build(config), build(lite_config()).state_dict(), Path("a.safetensors"))
