"""Parts for tests: what a test does not say is as conf/ says it, so that no test repeats its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from parallax.settings.build import _built as built
from parallax.settings.command_line import compose_checked
from parallax.settings.comments import CONF
from parallax.settings.targets import signature

T = TypeVar("T")


def part(kind: Callable[..., T], *given: Any, **named: Any) -> T:
    """`kind` with these arguments; others that it cannot do without are those of the first file of conf/ that names it."""
    arguments = signature(f"{kind.__module__}.{kind.__qualname__}").arguments
    lacking = [name for name in list(arguments)[len(given) :] if arguments[name].required and name not in named]
    return kind(*given, **{name: built(said(kind, name)) for name in lacking}, **named)


@cache
def said(kind: Callable[..., Any], name: str) -> Any:
    """What conf/ says an argument is, references to other keys resolved as in `python run.py`."""
    for node in _nodes_of(kind):
        if name in node:
            value = OmegaConf.create({"value": node._get_node(name)}, parent=node)
            return OmegaConf.to_container(value, resolve=True)["value"]  # type: ignore[index, call-overload]
    raise TypeError(f"{kind.__name__}: no file of conf/ says what {name} is; give it")


@cache
def _nodes_of(kind: Callable[..., Any]) -> list[DictConfig]:
    """The nodes of conf/ that name `kind`, each in the configuration of a run."""
    found = []
    for file in sorted(CONF.rglob("*.yaml")):
        if f".{kind.__name__}\n" in (text := file.read_text("utf-8")):
            content = OmegaConf.create(text)
            whole = content if "@package _global_" in text else OmegaConf.create({file.parent.name: content})
            found += _named(OmegaConf.merge(_base(), whole), kind.__name__)
    return found


@cache
def _base() -> DictConfig:
    config = compose_checked([], CONF)
    OmegaConf.set_struct(config, False)
    config.prompts = OmegaConf.merge(*map(OmegaConf.load, sorted((CONF / "prompts").glob("*.yaml"))), config.prompts)
    return config


def _named(node: Any, name: str) -> Iterator[DictConfig]:
    if isinstance(node, DictConfig) and str(node._get_node("_target_")).endswith(f".{name}"):
        yield node
    inner = node.keys() if isinstance(node, DictConfig) else range(len(node)) if OmegaConf.is_list(node) else ()
    for key in inner:
        yield from _named(node._get_node(key), name)
