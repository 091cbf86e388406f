"""The program in a clone: `python run.py method=seva aug.noise_steps=500`. Once installed, it is the command `parallax`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - who starts this with an older one is told so
    sys.exit(
        "Python 3.11 or newer is needed, and this is "
        + sys.version.split()[0]
        + ". `make install` makes an environment."
    )
try:
    from parallax.tasks.program import main
except ModuleNotFoundError as error:
    from parallax.settings.extras import missing

    if (sentence := missing(error)) is None:
        raise
    sys.exit(sentence)

if __name__ == "__main__":
    if status := main():
        sys.exit(status)
