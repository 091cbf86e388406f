"""Controls change which answer is preferred and nothing else."""

from dataclasses import dataclass

import pytest

from parallax.preference.controls import apply_control
from parallax.records import PreferencePair, Response


@dataclass(frozen=True)
class Named:
    name: str

    def load(self):
        raise AssertionError("controls never open an image")

    def digest(self) -> str:
        return self.name

    def describe(self) -> str:
        return self.name


def pairs(count: int, negatives: int = 1) -> list[PreferencePair]:
    return [
        PreferencePair(
            f"s{i}", "test", Named(f"i{i}"), "What?", Response(f"good {i}"),
            tuple(Response(f"bad {i} {k}") for k in range(negatives)),
        )
        for i in range(count)
    ]  # fmt: skip


def test_swapping_exchanges_the_sides_and_swapping_twice_gives_the_pairs_back() -> None:
    original = pairs(3)
    swapped = apply_control(original, "swapped", seed=0)
    assert [(p.chosen.text, p.rejected[0].text) for p in swapped] == [(f"bad {i} 0", f"good {i}") for i in range(3)]
    assert apply_control(swapped, "swapped", seed=0) == original


def test_random_rejected_answers_were_chosen_for_other_images() -> None:
    original = pairs(20, negatives=3)
    changed = apply_control(original, "random_rejected", seed=0)
    for before, after in zip(original, changed, strict=True):
        texts = [r.text for r in after.rejected]
        assert after.chosen == before.chosen and after.image == before.image
        assert len(set(texts)) == 3 and all(t.startswith("good ") and t != before.chosen.text for t in texts)
    assert apply_control(original, "random_rejected", seed=0) == changed
    assert apply_control(original, "random_rejected", seed=1) != changed


def test_random_rejected_belongs_to_the_sample_when_pairs_are_the_same_set() -> None:
    original = pairs(8)
    assert apply_control(original, "none", seed=0) == original


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ValueError, match="pairs.num_negatives=1"):
        apply_control(pairs(2, negatives=2), "swapped", seed=0)
    with pytest.raises(ValueError, match="use more samples"):
        apply_control(pairs(1), "random_rejected", seed=0)
    with pytest.raises(ValueError, match="must be one of none, swapped, random_rejected"):
        apply_control(pairs(1), "other", seed=0)  # type: ignore[arg-type]
