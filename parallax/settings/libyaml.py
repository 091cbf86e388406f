"""OmegaConf, and with it Hydra, reads YAML by libyaml where PyYAML was built with it: the same values, several times as fast."""

from __future__ import annotations

from functools import cache
from typing import Any

import omegaconf._utils as omegaconf_reads
import yaml

_plain = omegaconf_reads.get_yaml_loader


@cache
def _loader() -> Any:
    """OmegaConf's loader (its numbers, no timestamps, no key twice), the text taken apart in C."""

    from yaml._yaml import CParser

    class Loader(CParser, _plain()):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            CParser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


def read_by_libyaml() -> None:
    """From now on in this process. Without libyaml nothing changes."""
    if yaml.__with_libyaml__:
        omegaconf_reads.get_yaml_loader = _loader
