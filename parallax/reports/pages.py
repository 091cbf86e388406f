"""Pages that open from a file: templates with everything escaped, data as JSON, scripts named by their hash.

A page loads nothing from elsewhere and runs nothing but its own script: its content security policy names that script's
SHA-256, so that even markup that slipped through would stay dead.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from parallax.records.atomic import finite

TEMPLATES = Path(__file__).parent / "templates"
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page(template: str, *, scripts: tuple[str, ...] = (), data: object = None, files: str = "", **words: Any) -> str:
    """Render `templates/<template>`.

    Args:
        scripts: files of `templates/`, joined into the page's one script.
        data: plain data the script finds in the element `#data`.
        files: further sources of scripts and images, as a content security policy names them (`file:`).
        words: what the template is given; every text is escaped.
    """
    script = "\n".join((TEMPLATES / name).read_text("utf-8") for name in scripts)
    run = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    policy = (
        f"default-src 'none'; script-src {run} {files}; img-src data: {files}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
    return str(
        _environment()
        .get_template(template)
        .render(policy=Markup(" ".join(policy.split())), script=Markup(script), data=Markup(json_text(data)), **words)
    )


def json_text(value: object) -> str:
    """JSON that may stand inside a `<script>`: no `<`, no `&`, no line separator of Unicode, no NaN."""
    text = json.dumps(finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _UNSAFE.items():
        text = text.replace(character, escape)
    return text


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("parallax.reports", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
