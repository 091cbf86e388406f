"""Controls: pair sets that must *not* help, so that an effect of the real ones means something.

`swapped` prefers the answers to the corrupted images; if that helps as well, the gain does not come from the preference.
`random_rejected` sets each chosen answer against answers that were chosen for other images; if that helps as much, the corrupted
view taught nothing that any other answer would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from parallax.records import PreferencePair, Response, seed_for

Control = Literal["none", "swapped", "random_rejected"]


def apply_control(pairs: Sequence[PreferencePair], control: Control, *, seed: int) -> list[PreferencePair]:
    """The pairs, changed as the control says. Order and number stay, and so do the images and prompts.

    Args:
        pairs: chosen first, K rejected each.
        control: `none` returns them as they are.
        seed: the run's seed; decides which foreign answers are drawn.

    Raises:
        ValueError: for an unknown control, for `swapped` with K > 1 (there is only one chosen answer to reject), and for
            `random_rejected` when a pair has fewer than K answers of other images that differ from its own.
    """
    if control == "none":
        return list(pairs)
    if control == "swapped":
        return [_swapped(pair) for pair in pairs]
    if control == "random_rejected":
        return _with_foreign_rejected(pairs, seed)
    raise ValueError(f"pairs.control is {control!r}; it must be one of {', '.join(get_args(Control))}")


def _swapped(pair: PreferencePair) -> PreferencePair:
    if len(pair.rejected) != 1:
        raise ValueError(
            f"pairs.control=swapped needs one rejected answer per pair, but sample {pair.sample_id!r} has {len(pair.rejected)}; "
            "use pairs.num_negatives=1"
        )
    return replace(pair, chosen=pair.rejected[0], rejected=(pair.chosen,))


def _with_foreign_rejected(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    changed = []
    for pair in pairs:
        negatives: list[Response] = []
        texts = {pair.chosen.text}
        attempts = 0
        while len(negatives) < len(pair.rejected):
            if attempts == 64 * len(pair.rejected):
                raise ValueError(
                    f"pairs.control=random_rejected found no {len(pair.rejected)} answers of other images that differ from the "
                    f"chosen one of sample {pair.sample_id!r} among {len(pairs)} pairs; use more samples"
                )
            drawn = pairs[seed_for(seed, pair.sample_id, "random rejected", attempts) % len(pairs)].chosen
            attempts += 1
            if drawn.text not in texts:
                texts.add(drawn.text)
                negatives.append(drawn)
        changed.append(replace(pair, rejected=tuple(negatives)))
    return changed
