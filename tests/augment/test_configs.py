"""Each view has a file in conf/aug of its name, which says the same as the class does."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from augment import View, build, view_names

FOLDER = Path(__file__).parents[2] / "conf" / "aug"


def test_every_view_has_a_config_and_every_config_a_view() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == view_names()


@pytest.mark.parametrize("name", view_names())
def test_the_config_makes_the_view_of_its_name_and_lists_every_argument(name: str) -> None:
    node = OmegaConf.load(FOLDER / f"{name}.yaml")
    view = instantiate(node, _convert_="all")
    assert isinstance(view, View) and view.name == name
    assert set(node) - {"_target_", "images"} == set(view.params())  # `images` is a parameter where it is not all


@pytest.mark.parametrize("name", [name for name in view_names() if name not in {"mixture", "several", "chain"}])
def test_the_config_has_the_arguments_of_the_papers(name: str) -> None:
    assert instantiate(OmegaConf.load(FOLDER / f"{name}.yaml"), _convert_="all") == build(name)
