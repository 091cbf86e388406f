"""A chat template is a program of whoever made the model: before it is used it is tried in a process with little time and memory.

Jinja's sandbox keeps it from everything but that. This file is the module that asks, and the program that the process runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache

SECONDS = 3  # of a processor, for one rendering; a usual one takes a thousandth
BYTES = 1 << 30  # of memory
MOST = 4 << 20  # characters written for two short questions
OUT_OF = {
    "memory": f"it wants more than {BYTES >> 20} MiB of memory",
    "text": f"it writes more than {MOST >> 20} MiB of text",
}


class TemplateRefused(ValueError):
    """A chat template that would not end, or takes what nobody has."""


@cache
def try_template(template: str, **variables: str) -> None:
    """Render a short dialogue with a template, elsewhere. Raises `TemplateRefused`; other faults are found in its use."""
    asked = json.dumps({"template": template, "variables": variables})
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__], input=asked, capture_output=True, text=True, timeout=20 * SECONDS
        )
        why = OUT_OF.get(done.stdout.strip(), "" if done.returncode >= 0 else f"it does not end within {SECONDS} s")
    except subprocess.TimeoutExpired:
        why = f"it does not end within {20 * SECONDS} s"
    if why:
        raise TemplateRefused(
            f"the model's chat template is not used: {why} for a short question. Put a sound chat_template.jinja into its folder"
        )


def _render(template: str, variables: dict[str, str]) -> str:
    """What is out, "" for nothing: the words of `OUT_OF`."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals.update(raise_exception=str, strftime_now=str)
    bare = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    turns = [
        ("user", [{"type": "image"}, {"type": "text", "text": "a"}]),
        ("assistant", [{"type": "text", "text": "b"}]),
    ]
    messages = [{"role": role, "content": content} for role, content in [*turns, *turns]]
    try:
        compiled = environment.from_string(bare)
        for said in (messages[:1], messages):
            if len(compiled.render(messages=said, add_generation_prompt=True, **variables)) > MOST:
                return "text"
    except MemoryError:
        return "memory"
    except Exception:
        return ""
    return ""


if __name__ == "__main__":
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    except (ImportError, ValueError, OSError):  # no such limits here: the other side's clock remains
        pass
    sys.stdout.write(_render(**json.loads(sys.stdin.read())))
