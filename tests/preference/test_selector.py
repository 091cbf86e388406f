"""Selecting pairs: every filter by hand-made answers, every drop with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from parallax.preference.caps import cap
from parallax.preference.filters import REASONS, Filters
from parallax.preference.judges import ByConstruction
from parallax.preference.junk import NoDebris
from parallax.preference.selector import BestAgainstRest
from parallax.records import (
    Candidate,
    Decoding,
    Dropped,
    GenerationSpec,
    PreferencePair,
    Response,
    Sample,
    Turn,
    ViewSpec,
)


@dataclass(frozen=True)
class NamedImage:
    name: str = "image"

    def load(self) -> Any:
        raise AssertionError("selecting needs no pixels")

    def digest(self) -> str:
        return self.name

    def describe(self) -> str:
        return self.name


SAMPLE = Sample("s", "folder/part", NamedImage(), (Turn("What?", "truth"),), kind="describe")


def candidates(*texts: str, cut: tuple[int, ...] = ()) -> list[Candidate]:
    """The first is proposed as chosen, the others as rejected; `cut` names those that hit the token limit."""
    spec = GenerationSpec("p", "float32", "x", "t", "i", "What?", ViewSpec(), Decoding(8))
    return [
        Candidate(f"{k:032x}", "s", "rejected" if k else "chosen", max(k - 1, 0), (k, 2), text, k not in cut, spec)
        for k, text in enumerate(texts)
    ]


def select(*texts: str, k: int = 1, cut: tuple[int, ...] = (), **options: Any) -> PreferencePair | Dropped:
    made = candidates(*texts, cut=cut)
    (scores,) = ByConstruction().judge(None, [SAMPLE], [made])
    return BestAgainstRest(k, **options).select(SAMPLE, made, scores)


def reason(*texts: str, **options: Any) -> str:
    outcome = select(*texts, **options)
    assert isinstance(outcome, Dropped), outcome
    assert outcome.reason in REASONS and (outcome.sample_id, outcome.source) == ("s", "folder/part")
    return outcome.reason


def test_a_pair_carries_tokens_scores_and_where_they_came_from() -> None:
    pair = select("A cat.", "A dog.")
    assert isinstance(pair, PreferencePair)
    assert (pair.prompt, pair.kind, pair.source, pair.image) == ("What?", "describe", "folder/part", SAMPLE.image)
    assert (pair.chosen.text, pair.chosen.token_ids, pair.chosen.score) == ("A cat.", (0, 2), 1.0)
    (worse,) = pair.rejected
    assert (worse.text, worse.score, worse.provenance["candidate"]) == ("A dog.", 0.0, f"{1:032x}")
    assert worse.provenance["view"]["name"] == "identity" and worse.provenance["policy"] == "p"


@pytest.mark.parametrize(
    ("texts", "options", "expected"),
    [
        (("A cat.", "A cat."), {}, "equal"),
        (("A cat.", " A\n\tcat.  "), {}, "equal"),
        (("A cat.\n", "A dog."), {}, None),
        (("A cat.", "a cat."), {}, None),
        (("A cat.", "A cat."), {"drop_equal": False}, None),
        (("red\ncat", "redcat"), {}, None),
        (("red\ncat", "redcat"), {"strip_newlines": "delete"}, "equal"),
        (("", "A dog."), {}, "empty"),
        (("A cat.", " \n"), {}, "empty"),
        (("A cat.", ""), {"drop_empty": False}, None),
        (("A cat.", "A dog."), {"cut": (0,), "drop_truncated": True}, "truncated"),
        (("A cat.", "A dog."), {"cut": (1,), "drop_truncated": True}, "truncated"),
        (("A cat.", "A dog."), {"cut": (0, 1)}, None),
        (("A cat.", "A"), {"min_chars": 2}, "too_short"),
        (("A cat.", "A dog."), {"min_chars": 6, "max_chars": 6}, None),
        (("A cat.", "A big dog."), {"max_chars": 6}, "too_long"),
        (("A cat.", "A dog."), {"min_margin": 1.0}, None),
        (("A cat.", "A dog."), {"min_margin": 1.1}, "small_margin"),
        (("A cat.",), {}, "no_candidates"),
        ((), {}, "no_candidates"),
    ],
)
def test_each_filter_by_hand(texts: tuple[str, ...], options: dict[str, Any], expected: str | None) -> None:
    if expected is None:
        assert isinstance(select(*texts, **options), PreferencePair)
    else:
        assert reason(*texts, **options) == expected


def test_k_negatives_are_distinct_and_complete_or_there_is_no_pair() -> None:
    pair = select("A", "B", "C", "D", k=3)
    assert isinstance(pair, PreferencePair) and [r.text for r in pair.rejected] == ["B", "C", "D"]
    assert reason("A", "B", "A", "D", k=3) == "too_few_negatives"
    assert reason("A", "B", "B ", "D", k=3) == "too_few_negatives"
    assert reason("A", "A", "A", k=2) == "equal"
    outcome = select("A", "B", "A", "B", "", k=3)
    assert isinstance(outcome, Dropped) and outcome.detail == "1 of 3: equal, duplicate, empty"
    spare = select("A", "A", "C", "D", k=2)  # one more was asked for than needed: the pair is saved
    assert isinstance(spare, PreferencePair) and [r.text for r in spare.rejected] == ["C", "D"]


def test_scores_decide_whatever_the_roles_say_and_ties_make_no_pair() -> None:
    made = candidates("A", "B", "C")
    pair = BestAgainstRest().select(SAMPLE, made, [0.2, 0.9, 0.1])
    assert isinstance(pair, PreferencePair) and (pair.chosen.text, pair.rejected[0].text) == ("B", "C")
    tie = BestAgainstRest().select(SAMPLE, made, [0.5, 0.5, 0.5])
    assert isinstance(tie, Dropped) and tie.reason == "small_margin"
    with pytest.raises(ValueError, match="3 candidates of sample 's' came with 2 scores"):
        BestAgainstRest().select(SAMPLE, made, [0.5, 0.5])


def test_ready_made_pairs_go_through_the_same_filters() -> None:
    pair = PreferencePair("s", "file", NamedImage(), "Q", Response("yes"), (Response("no"), Response("yes")))
    kept = BestAgainstRest().check(pair)
    assert kept == replace(pair, rejected=(Response("no"),))
    outcome = BestAgainstRest().check(replace(pair, rejected=(Response(" yes "),)))
    assert isinstance(outcome, Dropped) and outcome.reason == "equal"


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="num_negatives=0 is not allowed"):
        BestAgainstRest(0)
    with pytest.raises(ValueError, match="min_chars 5 is larger than max_chars 4"):
        Filters(min_chars=5, max_chars=4)
    with pytest.raises(ValueError, match="strip_newlines='keep' is not allowed"):
        BestAgainstRest(strip_newlines="keep")  # type: ignore[arg-type]


# -- caps --------------------------------------------------------------------------------------------------------------


def pair_of(source: str, number: int) -> PreferencePair:
    return PreferencePair(f"{source}{number}", source, NamedImage(), "Q", Response("yes"), (Response("no"),))


PAIRS = [pair_of(source, n) for n in range(10) for source in ("llava/ocr_vqa", "llava/textcaps")]


def test_caps_keep_so_many_of_each_source_and_of_all() -> None:
    kept, dropped = cap(PAIRS, seed=0, max_per_source={"ocr_vqa": 3, "llava/textcaps": 6}, max_pairs=8)
    assert len(kept) == 8 and [d.reason for d in dropped].count("over_source_cap") == 11 and len(dropped) == 12
    assert sum(p.source == "llava/ocr_vqa" for p in kept) <= 3 and kept == [p for p in PAIRS if p in kept]
    assert cap(PAIRS, seed=0, max_per_source=2)[0] != cap(PAIRS, seed=1, max_per_source=2)[0]
    assert cap(PAIRS, seed=0) == (PAIRS, [])


def test_which_pairs_stay_hangs_on_their_samples_not_on_the_order() -> None:
    one, _ = cap(PAIRS, seed=4, max_pairs=5)
    other, _ = cap(PAIRS[::-1], seed=4, max_pairs=5)
    assert one == other[::-1]


def test_debris_gives_no_pair_and_says_why() -> None:
    def told(chosen: str, rejected: str) -> str:
        sides = Response(chosen), (Response(rejected),)
        made = NoDebris(most_repeats=3).check(PreferencePair("s", "test", NamedImage(), "What?", *sides))
        return made.reason if isinstance(made, Dropped) else ""

    assert told("A dog sits there.", "A cat sits there.") == ""
    assert told("A dog. A cat. A dog.", "A cat.") == "repeats" == told("A dog.", "a a a a")
    assert told("Yes", "A cat.") == "bare_yes_no" and told("A dog.", "- - - ;") == "symbols"
    assert told("It is a red dog.", "A RED dog") == "contains_rejected" and told("A dog.", "A dog.") == "equal"
    assert {"repeats", "bare_yes_no", "symbols", "contains_rejected"} <= REASONS.keys()
