"""Parallax: vision-language models that align themselves with preference pairs they make on their own.

from parallax import compose, run
results = run(["method=seva", "aug.noise_steps=500"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallax.tasks.program import Results, compose, run

__version__ = "0.1.0"
__all__ = ["Results", "__version__", "compose", "run"]


def __getattr__(name: str) -> Any:
    """`run`, `compose` and `Results`, imported when asked for: importing one package of ours imports no other."""
    if name in ("Results", "compose", "run"):
        from parallax.tasks import program

        return getattr(program, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
