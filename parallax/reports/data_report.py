"""What `task=check_data` shows: one screen about a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datamodules.inspection import spread

if TYPE_CHECKING:
    from datamodules.inspection import Inspection

LABEL = 13  # characters of the column of labels


def data_report(key: str, found: Inspection, *, width: int = 120) -> str:
    """The report as lines of at most `width` characters; `key` names the group it was configured by."""
    lines = [f"{key}: {found.name}"]

    def say(label: str, text: str) -> None:
        lines.append(_cut(f"  {label:<{LABEL}}{text}", width))

    for name, rows, whole in found.counted:
        official = (
            ""
            if whole is None
            else " as the official one"
            if rows == whole
            else f", and the official one has {whole:,}"
        )
        say("read", f"{name}: {rows:,}{official}")
    say("samples", _joined(f"{found.samples:,}", _counts(found.left_out, "left out")))
    if found.set_aside:
        say("set aside", _counts(found.set_aside))
        for fault in found.faults:
            say("", fault)
    if len(found.sources) > 1 or found.available:
        say("by source", " · ".join(_of(name, count, found.available) for name, count in found.sources.items()))
    elif len(found.folders) > 1:
        say("by folder", _counts(found.folders))
    known = [f"{found.answered:,} with an answer"] if found.answered else []
    known += [f"{found.annotated:,} with objects"] if found.annotated else []
    known += [f"{found.turns / found.samples:.1f} questions each"] if found.turns > found.samples else []
    known += [f"{count:,} pairs with {k} rejected" for k, count in found.rejected.items()]
    if known:
        say("known", " · ".join(known))
    gone = f"{found.missing:,} missing" if found.missing else "none missing"
    say("images", f"{found.images:,} different, {gone}")
    for name in found.missing_names:
        say("", f"missing: {name}")
    if found.opened:
        bad = len(found.unreadable)
        say("opened", f"{found.opened:,} of them: {f'{bad:,} cannot be read' if bad else 'all can be read'}")
        for fault in found.unreadable[:3]:
            say("", fault)
    if found.widths:
        wide, high = spread(found.widths), spread(found.heights)
        say(
            "pixels",
            f"{wide['min']} to {wide['max']} wide, {high['min']} to {high['max']} high, "
            f"median {wide['median']} x {high['median']}",
        )
    if found.tokens:
        told = spread(found.tokens)
        long = sum(count >= (found.context or 2**31) for count in found.tokens)
        limit = f", {long:,} too long for {found.context:,}" if found.context and found.context < 2**31 else ""
        say(
            "prompt", f"{told['min']} to {told['max']} tokens, median {told['median']}, 95 % up to {told['p95']}{limit}"
        )
    elif found.uncounted:
        say("prompt", f"tokens not counted: {found.uncounted}")
    for example in found.examples:
        say("example", f"{example['image']} | {_one_line(example['question'])}" + _answer(example))
    return "\n".join(lines)


def complaints(found: Inspection, max_skipped_share: float) -> list[str]:
    """Why a run on this source would not start or would soon stop, in sentences; empty when it would not."""
    wrong = []
    if not found.samples:
        wrong.append("no sample can be used")
    faulty = sum(found.set_aside.values())
    broken = (
        found.missing + (found.images - found.missing) * len(found.unreadable) / found.opened
        if found.opened
        else found.missing
    )
    share = (faulty + broken * found.samples / max(found.images, 1)) / max(found.samples + faulty, 1)
    if found.samples and share > max_skipped_share:
        wrong.append(
            f"about {share:.0%} of the samples cannot be used, more than pairs.max_skipped_share={max_skipped_share:g} allows"
        )
    for name, count in found.sources.items():
        part = name.rpartition("/")[2]
        if part in found.available and found.available[part] == 0:
            wrong.append(f"the part {part} has no dialogue ({count} samples)")
    return wrong


def remarks(found: Inspection) -> list[str]:
    """What a run would go on with, and its owner should know."""
    return [f"{text} of the official one" for text in found.partial()]


def _answer(example: Mapping[str, Any]) -> str:
    more = f" (+{example['turns'] - 1} questions)" if example["turns"] > 1 else ""
    return f" -> {_one_line(example['answer'])}{more}" if example["answer"] else more


def _of(name: str, count: int, available: Mapping[str, int]) -> str:
    whole = available.get(name.rpartition("/")[2])
    return f"{name} {count:,}" + (f" (of {whole:,} dialogues)" if whole is not None else "")


def _counts(counts: Mapping[str, int], label: str = "") -> str:
    text = " · ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{label}: {text}" if label and text else text


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
