"""Writes docs/reference/<group>.md and their list in docs/configuration.md: `python docs/make_reference.py`."""

from __future__ import annotations

import re
from pathlib import Path

from parallax.settings.choices import choices, groups
from parallax.settings.comments import CONF, Described, described_keys, title
from parallax.settings.rules import Rule
from parallax.settings.schema import FILE_GROUPS, rule_at
from parallax.settings.targets import signature
from parallax.settings.tasks import task_rule

PAGE = CONF.parent / "docs" / "configuration.md"
REFERENCE = PAGE.parent / "reference"
BEGIN = "<!-- From here on this page is made by `python docs/make_reference.py` (make docs). -->"


def reference() -> str:
    """The root keys, and which page tells of which group, as Markdown."""
    top = _table(_keys_of(CONF / "config.yaml", lambda key: "." not in key))
    rows = [f"| [`{group}`](reference/{file_name(group)}) | {len(choices(group))} |" for group in groups()]
    return (
        "\n".join(["## Keys at the top", "", *top, "", "## Groups", "", "| group | choices |", "|---|---|", *rows])
        + "\n"
    )


def pages() -> dict[str, str]:
    """File in docs/reference/ → one group with its choices and keys, as Markdown."""
    return {file_name(group): "\n".join(_group(group)).rstrip() + "\n" for group in groups()}


def file_name(group: str) -> str:
    """The page of a group; `hydra/launcher` is a group too."""
    return f"{group.replace('/', '_')}.md"


def page_with_reference(page: str) -> str:
    """The page with its made part replaced."""
    written, mark, _ = page.partition(BEGIN)
    if not mark:
        raise ValueError(f"{PAGE.name} has no line {BEGIN!r}; put it where the reference should begin")
    return f"{written}{BEGIN}\n\n{reference()}"


def _group(group: str) -> list[str]:
    files = [CONF / group / f"{name}.yaml" for name in choices(group)]
    parts = [
        f"# `{group}`",
        "",
        f"`python run.py {group}=<choice>`; a key by `<key>=<value>`.",
        "",
        "| choice | |",
        "|---|---|",
    ]
    parts += [f"| `{group}={file.stem}` | {_cell(title(file))} |" for file in files]
    if group == "experiment":
        return [*parts, ""]
    if group in FILE_GROUPS:
        return [*parts, "", f"Its keys are described in `conf/{group}/default.yaml`.", ""]
    shared = _keys_of(CONF / "config.yaml", lambda key: key.startswith(f"{group}."))
    seen = {described.key for described in shared}
    parts += ["", *_table(shared), ""] if shared else [""]
    if any(_target(file) for file in files) or group == "task":
        for file in files:
            own = _keys_of(file)
            if own:
                parts += [f"With `{group}={file.stem}`:", "", *_table(own, _target(file)), ""]
        return parts
    new: list[Described] = []
    for file in sorted(files, key=lambda file: file.stem not in ("default", "auto", "adamw")):
        for described in _keys_of(file, lambda key: key.startswith((f"{group}.", "stages."))):
            if described.key not in seen:
                seen.add(described.key)
                new.append(described)
    return [*parts, *_table(new), ""] if new else parts


def _keys_of(file: Path, wanted=lambda key: True) -> list[Described]:  # type: ignore[no-untyped-def]
    return [key for key in described_keys(file) if key.comment and wanted(key.key)]


def _target(file: Path) -> str | None:
    found = re.search(r"^_target_: *(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def _table(keys: list[Described], target: str | None = None) -> list[str]:
    cells = [
        (f"`{key.key}`", _value(key.value), _cell(_allowed(key.key, target, CONF / key.file)), _cell(key.comment))
        for key in keys
    ]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    return ["| key | as shipped | allowed | meaning |", "|---|---|---|---|", *rows]


def _allowed(key: str, target: str | None, file: Path) -> str:
    group, _, name = key.partition(".")
    rule: Rule | None = rule_at(key)
    if target and group != "task":
        rule = signature(target).rule(name.split(".")[0])
        for inner in name.split(".")[1:]:
            rule = _below(rule, inner) if rule else None
    if group == "task":
        rule = (task_rule(file.stem).keys or {}).get(name)
    return "" if rule is None or rule.kind == "anything" else rule.words()


def _below(rule: Rule, name: str) -> Rule | None:
    """The rule of a key inside what an argument holds: of a part by its class, of a group, or of a mapping."""
    if rule.kind == "component" and rule.of:
        return signature(rule.of).rule(name)
    return (rule.keys or {}).get(name, rule.items if rule.kind == "mapping" else None)


def _value(value: str) -> str:
    return f"`{_cell(value)}`" if value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    PAGE.write_text(page_with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    REFERENCE.mkdir(exist_ok=True)
    made = pages()
    for stale in set(REFERENCE.glob("*.md")) - {REFERENCE / name for name in made}:
        stale.unlink()
    for name, text in made.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    print(f"wrote {PAGE} and {len(made)} pages in {REFERENCE}")


if __name__ == "__main__":
    main()
