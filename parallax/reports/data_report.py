"""What `task=check_data` shows: one screen about a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datamodules.inspection import spread
from parallax.records.skipped import most_skipped

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
    known += [f"{found.rejected_images:,} with rejected images"] if found.rejected_images else []
    known += [f"{found.with_opening:,} with a system text or earlier turns"] if found.with_opening else []
    if len(found.images_each) > 1 or max(found.images_each, default=1) > 1:
        known += [
            f"{count:,} with {number} image{'s' if number != 1 else ''}" for number, count in found.images_each.items()
        ]
    if known:
        say("known", " · ".join(known))
    if found.dropped:
        say("dropped", f"{_counts(found.dropped)} of the pairs, by the filters of a run")
    if found.duplicates:
        say("duplicates", f"{found.duplicates:,} ask the same about the same image as another sample")
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
    if found.answer_tokens:
        told = spread(found.answer_tokens)
        say("answer", f"{told['min']} to {told['max']} tokens, median {told['median']}, 95 % up to {told['p95']}")
    if found.refused:
        say("refused", f"{_counts(found.refused)} by the model")
        for fault in found.refused_why:
            say("", fault)
    if found.control_tokens:
        say("control", f"tokens of the model in texts, read as plain text: {_counts(found.control_tokens)}")
    for name, count in found.overlap.items():
        say("overlap", f"{count:,} of the images opened are in the evaluation suite {name}")
    for example in found.examples:
        say("example", f"{example['image']} | {_one_line(example['question'])}" + _answer(example))
    return "\n".join(lines)


def complaints(found: Inspection, max_skipped_share: float) -> list[str]:
    """Why a run on this source would not start or would soon stop, in sentences; empty when it would not."""
    wrong = []
    if not found.samples:
        wrong.append("no sample can be used")
    faulty = sum(found.set_aside.values())
    unusable, total = faulty + _unusable(found), found.samples + faulty
    if found.samples and unusable > most_skipped(max_skipped_share, total):
        wrong.append(
            f"about {unusable:,.0f} of {total:,} samples cannot be used, more than pairs.max_skipped_share={max_skipped_share:g} "
            "allows"
        )
    if found.samples and _unusable(found) + sum(found.dropped.values()) >= found.samples:
        wrong.append("no sample is left once those that cannot be used and those that a run drops are gone")
    for name, count in found.sources.items():
        part = name.rpartition("/")[2]
        if part in found.available and found.available[part] == 0:
            wrong.append(f"the part {part} has no dialogue ({count} samples)")
    return wrong


def _unusable(found: Inspection) -> float:
    """Samples whose images or prompts a run sets aside; those that were not opened are judged by those that were."""
    opened = sum(count * number for number, count in found.images_each.items()) - found.missing
    broken = len(found.unreadable) * max(1.0, opened / found.opened) if found.opened else 0
    looked_at = len(found.tokens) + sum(found.refused.values())
    refused = (
        sum(found.refused.values()) * max(1.0, (found.samples - found.samples_without) / looked_at) if looked_at else 0
    )
    return found.samples_without + broken + refused


def remarks(found: Inspection) -> list[str]:
    """What a run would go on with, and its owner should know."""
    told = [f"{text} of the official one" for text in found.partial()]
    return told + [f"{count:,} images are in the evaluation suite {name}" for name, count in found.overlap.items()]


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
