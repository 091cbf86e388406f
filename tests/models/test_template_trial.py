"""A template that loops, explodes or digs is refused within seconds, in a sentence, before it is used."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from parallax.models.encoding.template_trial import SECONDS, TemplateRefused, try_template
from tests.faults import Injected
from tests.typed import load_policy

ROOT = Path(__file__).resolve().parents[2]
LOOPS = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)
ENDLESS = {
    "a loop that only a later turn meets": ("{% if messages | length > 1 %}" + LOOPS + "{% endif %}x", "does not end"),
    "a number of a million digits": ("{{ 7 ** (7 ** 11) }}", "does not end"),
    "a text of gigabytes": ("{{ 'a' * 10 ** 10 }}", "memory"),
    "a text made wide": ("{{ 'a'.ljust(10 ** 10) }}", "memory"),
    "a number made wide": ("{{ '%10000000000d' % 1 }}", "memory"),
    "a list that doubles": (
        "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = n.l + n.l %}{% endfor %}", "memory"
    ),
    "megabytes of text": ("{% for i in range(99999) %}{{ 'a' * 100 }}{% endfor %}", "text"),
}  # fmt: skip
SAID_IN_ITS_USE = {
    "a range out of range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "a macro that calls itself": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "expressions nested 3,000 deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "statements nested 150 deep": "{% for i in [1] %}" * 150 + "{% endfor %}" * 150,
    "no template": "{% if %}",
    "its author's word": "{{ raise_exception('\x1b[2Jno') }}",
    "the way out of the sandbox": "{{ ''.__class__.__mro__[1].__subclasses__()[0].x.y }}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_that_takes_everything_is_refused_elsewhere(kind: str, injected: Injected) -> None:
    template, why = ENDLESS[kind]
    began = time.monotonic()
    with pytest.raises(TemplateRefused, match=f"the model's chat template is not used: it .*{why}"):
        try_template(template)
    assert time.monotonic() - began < 10 * SECONDS
    injected("attack: chat template that loops or explodes", told=1, says="refused within seconds, before it is used")


@pytest.mark.parametrize("kind", [*SAID_IN_ITS_USE, "loops within loops"])
def test_a_model_with_such_a_template_is_a_sentence(kind: str, tmp_path: Path, injected: Injected) -> None:
    shutil.copytree(ROOT / "assets" / "tiny_llava", tmp_path / "llava")
    (tmp_path / "llava" / "chat_template.jinja").write_text({**SAID_IN_ITS_USE, "loops within loops": LOOPS}[kind])
    with pytest.raises(ValueError, match="the model's chat template") as caught:
        load_policy({"path": str(tmp_path / "llava"), "feature_cache": "none"}, None).encoder.chat.fingerprint()
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 400
    injected("attack: chat template that cannot be rendered", told=1, says="a sentence")


def test_sound_templates_are_tried_and_taken() -> None:
    for file in ROOT.glob("assets/*/chat_template.jinja"):
        try_template(file.read_text("utf-8"))
    try_template("{% generation %}{{ messages[0].content[1].text }}{% endgeneration %}{{ bos_token }}", bos_token="<s>")
