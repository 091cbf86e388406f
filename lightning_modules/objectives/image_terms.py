"""Objectives that look at the answers beside another image: does the answer follow from this image, or from text alone?

- ImageTerm, Anchor, MDPO: mDPO (arXiv 2406.11839), eq. 4 to 7
- CHiP: arXiv 2501.16629, its response, visual and segment levels. The token level (a KL over the whole vocabulary at every token,
  from the live reference) is left out: summed log-probs do not hold it
- SymMPO: arXiv 2506.11712, eq. 8 to 11: two images, each the other's hard negative

Columns: chosen, K rejected, then the looks. The corrupted image is a view, drawn once per pair from its sample's seed, or
the image of another pair of the set.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from augment.view import View
from lightning_modules.objectives.base import Losses, OfRatios, first_choice_loss
from parallax.preference.looks import Look
from parallax.preference.token_weights import ChangedSpans
from parallax.settings.ranges import NotNegative, Positive

Side = Literal["chosen", "rejected"]
Combine = Literal["one_sigmoid", "sum"]


def image_loss(
    clean: Tensor, corrupted: Tensor, beta: float, side: Side = "chosen", detach_clean: bool = False
) -> Tensor:
    """−log σ(±β(ρ(I) − ρ(Ĩ))): a chosen answer should be likelier beside the clean image, a rejected one beside the corrupted.

    `detach_clean` leaves the answer's log-prob beside the clean image alone. Shapes: (batch,), (batch,) → (batch,).
    """
    clean = clean.detach() if detach_clean else clean
    difference = clean - corrupted if side == "chosen" else corrupted - clean
    return softplus(-beta * difference)


def corrupted_look(response: Side, view: View | None, other_image: bool) -> Look:
    """The look at the corrupted image: another pair's, or the view. Raises ValueError where neither is given."""
    if other_image:
        return Look(response, "partner")
    if view is None:
        raise ValueError(
            "the image term compares with a view of the image or with another pair's image: name a view (aug@loss.view=crop), or "
            "use loss.other_image=true"
        )
    return Look(response, "view", view)


class ImageTerm(OfRatios):
    """The image term alone, to be added to any objective by `loss=weighted`.

    Args:
        view: how the image is corrupted; not used with `other_image`.
        other_image: the image of another pair takes the corrupted one's place.
        side: of which answer: "chosen" (mDPO's, likelier beside the clean image) or "rejected" (likelier beside the other).
        detach_clean: the answer's log-prob beside the clean image gets no gradient: the term moves the other one only.
    """

    pairs_only: ClassVar[bool] = False

    def __init__(
        self,
        view: View | None = None,
        other_image: bool = False,
        *,
        side: Side,
        detach_clean: bool = False,
        beta: Positive,
    ) -> None:
        super().__init__(beta)
        self.side, self.detach_clean = side, bool(detach_clean)
        self.looks = (corrupted_look(self.side, view, other_image),)

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        clean, corrupted = _sides(ratios, self.side)
        loss = image_loss(clean, corrupted, self.beta, self.side, self.detach_clean)
        return loss, {"image_margin": clean - corrupted}


class Anchor(OfRatios):
    """−log σ(βρ_w − δ): keeps the chosen answer's reward above δ, so that it does not become less likely.

    Args:
        anchor: δ, any number; 0 in mDPO.
    """

    def __init__(self, beta: Positive, anchor: float = 0.0) -> None:
        super().__init__(beta)
        self.anchor = float(anchor)

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        return softplus(self.anchor - self.beta * ratios[:, 0]), {}


class MDPO(OfRatios):
    """First choice among 1 + K (DPO for K = 1) + w₁·(image term) + w₂·(anchor). At the start it costs ln(1 + K) + (w₁ + w₂) ln 2.

    A term of weight 0 is not computed, and without the image term no further image is looked at.

    Args:
        beta: of all terms, above 0.
        view, other_image, side, detach_clean: of the image term, as in `ImageTerm`.
        image_weight, anchor_weight: 0 or more; 1 in the paper.
        anchor: δ of the anchor; 0 in the paper.
    """

    def __init__(
        self,
        view: View | None = None,
        *,
        beta: Positive,
        image_weight: NotNegative,
        anchor_weight: NotNegative,
        anchor: float = 0.0,
        side: Side,
        detach_clean: bool = False,
        other_image: bool = False,
    ) -> None:
        super().__init__(beta)
        self.image_weight = float(image_weight)
        self.anchor_weight = float(anchor_weight)
        self.anchor, self.side, self.detach_clean = float(anchor), side, bool(detach_clean)
        look = corrupted_look(self.side, view, other_image)
        self.looks = (look,) if self.image_weight else ()

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        text = first_choice_loss(ratios[:, : ratios.shape[1] - len(self.looks)], self.beta)
        loss, metrics = text, {"loss/text": text}
        if self.image_weight:
            clean, corrupted = _sides(ratios, self.side)
            image = image_loss(clean, corrupted, self.beta, self.side, self.detach_clean)
            loss = loss + self.image_weight * image
            metrics |= {"loss/image": image, "image_margin": clean - corrupted}
        if self.anchor_weight:
            anchor = softplus(self.anchor - self.beta * ratios[:, 0])
            loss = loss + self.anchor_weight * anchor
            metrics["loss/anchor"] = anchor
        return loss, metrics


class CHiP(OfRatios):
    """One sigmoid over the text margin and the image margin, as in the authors' code: −log σ(β[z + w(ρ_w(I) − ρ_w(Ĩ))]).

    Args:
        view, other_image: the corrupted image, as in `ImageTerm`; diffusion noise at step 500 in the paper.
        image_weight: w, 0 or more.
        segment_weight: of the tokens in which the two answers differ, above 0 (see `ChangedSpans`); 1 counts all the same.
        combine: "one_sigmoid", or "sum" for −log σ(βz) − w log σ(β(ρ_w(I) − ρ_w(Ĩ))), as the paper writes it.
    """

    pairs_only: ClassVar[bool] = True

    def __init__(
        self,
        view: View | None = None,
        *,
        beta: Positive,
        image_weight: NotNegative,
        segment_weight: Positive,
        combine: Combine,
        other_image: bool = False,
    ) -> None:
        super().__init__(beta)
        self.image_weight = float(image_weight)
        self.combine = combine
        self.token_weights = ChangedSpans(float(segment_weight))
        look = corrupted_look("chosen", view, other_image)
        self.looks = (look,) if self.image_weight else ()

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        if not self.image_weight:
            return first_choice_loss(ratios, self.beta), {}
        margin = ratios[:, 0] - ratios[:, 2]
        if self.combine == "sum":
            text, image = first_choice_loss(ratios[:, :2], self.beta), softplus(-self.beta * margin)
            return text + self.image_weight * image, {"loss/text": text, "loss/image": image, "image_margin": margin}
        chosen = ratios[:, 0] + self.image_weight * margin
        return first_choice_loss(torch.stack([chosen, ratios[:, 1]], dim=1), self.beta), {"image_margin": margin}


class SymMPO(OfRatios):
    """Two images with one question: each image's chosen answer is the other's hard negative, beside the same image.

    With ρ(i, y) beside image i, w₁ and l₁ the pair's answers and w₂ the partner's chosen one: m₀ = ρ(1, w₁) − ρ(1, l₁),
    m₁ = ρ(1, w₁) − ρ(1, w₂), m₂ = ρ(2, w₂) − ρ(2, w₁), ℓ(x) = −log σ(x), and the loss is
    ℓ(βm₀) + λ[ℓ(βm₁) + ℓ(βm₂)] + a[ℓ(βρ(1, w₁)) + ℓ(βρ(2, w₂))] + c(m₁ − m₂)².

    A pair's partner is another pair of the set with the same question, another image and another chosen answer.

    Args:
        pair_weight: λ, 0 or more.
        anchor_weight: a, 0 or more.
        agreement_weight: c, 0 or more: how strongly both margins are held together.
    """

    pairs_only: ClassVar[bool] = True

    def __init__(
        self,
        beta: Positive,
        pair_weight: NotNegative,
        anchor_weight: NotNegative,
        agreement_weight: NotNegative,
    ) -> None:
        super().__init__(beta)
        self.pair_weight = float(pair_weight)
        self.anchor_weight = float(anchor_weight)
        self.agreement_weight = float(agreement_weight)
        self.looks = (Look("partner", "own"), Look("partner", "partner"), Look("chosen", "partner"))

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        own, rejected, other_here, other_there, own_there = ratios.unbind(1)
        beta = self.beta
        text = softplus(-beta * (own - rejected))
        here, there = own - other_here, other_there - own_there
        images = softplus(-beta * here) + softplus(-beta * there)
        anchors = softplus(-beta * own) + softplus(-beta * other_there)
        loss = text + self.pair_weight * images + self.anchor_weight * anchors
        loss = loss + self.agreement_weight * (here - there).square()
        return loss, {
            "loss/text": text,
            "loss/image": images,
            "loss/anchor": anchors,
            "image_margin": (here + there) / 2,
        }


def _sides(ratios: Tensor, side: Side) -> tuple[Tensor, Tensor]:
    """ρ beside the clean and beside the corrupted image of the answer that is looked at; the look is the last column."""
    if side == "rejected" and ratios.shape[1] != 3:
        raise ValueError(
            f"loss.side=rejected looks at one rejected answer, and here are {ratios.shape[1] - 2}; use pairs.num_negatives=1"
        )
    return ratios[:, 0 if side == "chosen" else 1], ratios[:, -1]
