"""Measures on embeddings, increments and gradients; pure functions, N items, B texts, V videos, D dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gare.model.gare import GareModel
from gare.objective.ideal import IdealIncrement, ideal_increment, row_gradient
from gare.scoring.head import masked_mean
from gare.scoring.increment.cell import corrected_sides


@dataclass(frozen=True)
class PairState:
    """A model's vectors of B texts and V videos, without dropout.

    ``text`` [B, D]; ``video`` [B, V, D], as scored; ``gap`` [B, V, D]: the video's mean minus the text; ``delta``
    [B, V, D], the increments; ``logit_scale``: exp of the learned scale; ``match`` [B]: each text's video.
    """

    text: Tensor
    video: Tensor
    gap: Tensor
    delta: Tensor
    logit_scale: float
    corrected: Literal["text", "video"]
    match: Tensor

    def scores(self, delta: Tensor | None = None) -> Tensor:
        """Return cosines [B, V] with these increments (the model's own by default)."""
        delta = self.delta if delta is None else delta
        return F.cosine_similarity(*corrected_sides(self.text[:, None], self.video, delta, self.corrected), dim=-1)


class Summary(NamedTuple):
    """Mean and standard deviation over matching and over other pairs."""

    positive: float
    positive_sd: float
    negative: float
    negative_sd: float


@torch.no_grad()
def observe(
    model: GareModel,
    text: Tensor,
    frames: Tensor,
    frame_mask: Tensor,
    *,
    words: Tensor | None = None,
    word_mask: Tensor | None = None,
    match: Tensor | None = None,
) -> PairState:
    """Return the state of a model's pairs without dropout.

    Takes texts [B, D], frames [V, F, D] with their mask, and words if the context is words.
    ``match`` [B] defaults to the diagonal. Without an increment ``delta`` is zeros.
    """
    out = model.score(text, frames, frame_mask, words=words, word_mask=word_mask, return_delta=True, return_pooled=True)
    assert out.pooled is not None  # noqa: S101 - requested above
    mean = masked_mean(frames, frame_mask)
    delta = torch.zeros_like(out.pooled) if out.delta is None else out.delta
    match = torch.arange(len(text), device=text.device) if match is None else match
    scale = float(model.logit_scale.detach())
    return PairState(text, out.pooled, mean[None] - text[:, None], delta, scale, model.config.corrected, match)


def modality_gap(text: Tensor, video: Tensor) -> Tensor:
    """Return the distance between the centroids of unit texts and unit videos, [N, D] each; a scalar from 0 to 2."""
    between: Tensor = F.normalize(text, dim=-1).mean(dim=0) - F.normalize(video, dim=-1).mean(dim=0)
    distance: Tensor = between.norm()
    return distance


def alignment(text: Tensor, video: Tensor, power: float = 2.0) -> Tensor:
    """Return the mean over matching pairs [N, D] of ||x - y||^power on the unit sphere; smaller is closer."""
    distances: Tensor = (F.normalize(text, dim=-1) - F.normalize(video, dim=-1)).norm(dim=-1)
    return distances.pow(power).mean()


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Return log mean exp(-t ||x - y||^2) over unequal pairs of [N, D] on the unit sphere; smaller is more spread.

    Needs N >= 2 (NaN otherwise).
    """
    unit = F.normalize(x, dim=-1)
    squares = (2 - 2 * unit @ unit.T).clamp_min(0.0)
    count = len(x)
    others = ~torch.eye(count, dtype=torch.bool, device=x.device)
    pairs = torch.where(others, -t * squares, -math.inf)
    return pairs.flatten().logsumexp(dim=0) - math.log(count * (count - 1)) if count > 1 else squares.sum() * math.nan


def angles(x: Tensor, y: Tensor) -> Tensor:
    """Return angles in degrees between vectors [..., D]; NaN if one is zero. Accurate at 0 and 180 too."""
    zero = (x == 0).all(dim=-1) | (y == 0).all(dim=-1)
    x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    return torch.rad2deg(2 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1))).masked_fill(zero, math.nan)


def positives_and_negatives(values: Tensor, match: Tensor) -> tuple[Tensor, Tensor]:
    """Return values [B, V] of the matching pairs [B], and of all others [B (V - 1)]."""
    matching = _matching(values, match)
    return values[matching], values[~matching]


def summarise(values: Tensor, match: Tensor) -> Summary:
    """Return mean and spread of values [B, V] over matching and other pairs, leaving out NaN."""
    figures: list[float] = []
    for whole in positives_and_negatives(values, match):
        part = whole[~whole.isnan()]
        figures += [float(part.mean()), float(part.std(correction=0)) if len(part) else math.nan]
    return Summary(*figures)


def spread(vectors: Tensor) -> Tensor:
    """Return how vectors [..., N, D] differ from their mean: mean ||x - mean x|| over mean ||x||, [...].

    0 if all are the same vector, about 1 if they have nothing in common. NaN if all are zero.
    """
    around = (vectors - vectors.mean(dim=-2, keepdim=True)).norm(dim=-1).mean(dim=-1)
    found: Tensor = around / vectors.norm(dim=-1).mean(dim=-1)
    return found


def increment_spread(delta: Tensor) -> Tensor:
    """Return the ``spread`` of increments [B, V, D] over all pairs; a scalar."""
    return spread(delta.flatten(0, 1))


def relative_length(state: PairState) -> Tensor:
    """Return the mean length of the increments over the mean length of the vectors they are added to; a scalar."""
    base = state.text if state.corrected == "text" else state.video
    length: Tensor = state.delta.norm(dim=-1).mean() / base.norm(dim=-1).mean()
    return length


def margins(scores: Tensor, match: Tensor) -> Tensor:
    """Return the score of each row's match minus that of its best rival, [B]; negative if the match is not first."""
    matching = scores.gather(1, match[:, None])[:, 0]
    ahead: Tensor = matching - scores.masked_fill(_matching(scores, match), -math.inf).max(dim=1).values
    return ahead


def gradient_tension(gradients: Tensor) -> Tensor:
    """Return ||sum_j g_ij|| / sum_j ||g_ij|| of each anchor's gradients [B, V, D]: [B], from 0 (cancel) to 1 (agree).

    NaN if all are zero. The paper's argument: a shared text cannot move in two directions at once, but its increments
    can.
    """
    tension: Tensor = gradients.sum(dim=1).norm(dim=-1) / gradients.norm(dim=-1).sum(dim=1)
    return tension


@dataclass(frozen=True)
class StepComparison:
    """For every pair [B, V]: the analytic step, the effective one, and the cosine of the two moves.

    ``cosine`` is cos(D_new - D, -g); NaN if nothing moved or g is 0.
    """

    analytic: Tensor
    effective: Tensor
    cosine: Tensor


def compare_steps(before: Tensor, after: Tensor, ideal: IdealIncrement) -> StepComparison:
    """Compare the effective step -<D_new - D, g> / ||g||^2 with the analytic ``ideal.step`` (reconstructed).

    ``before``, ``after`` [B, V, D]: increments around one optimiser step on the same batch, without dropout;
    ``ideal``: computed before it. Pairs with g = 0 have no effective step (NaN).
    """
    gradient, moved = ideal.gradient, after - before
    square = gradient.square().sum(dim=-1)
    length = -(moved * gradient).sum(dim=-1) / square
    still = (square == 0) | (moved == 0).all(dim=-1)
    cosine = F.cosine_similarity(F.normalize(moved, dim=-1), -F.normalize(gradient, dim=-1), dim=-1)
    return StepComparison(ideal.step, length, cosine.masked_fill(still, math.nan))


def pair_diagnostics(state: PairState) -> dict[str, float]:
    """Return every measure of one state, by name; ``before`` means without the increment, angles are in degrees.

    Gap, alignment and uniformity compare each matching pair's two vectors; the relative norm compares the increments
    with the vectors they are added to; tension uses the row losses' gradients, averaged over texts.
    """
    match = state.match
    rows = torch.arange(len(state.text), device=match.device)
    video, added = state.video[rows, match], state.delta[rows, match]
    text, target = corrected_sides(state.text, video, added, state.corrected)
    values = {
        "modality_gap/before": modality_gap(state.text, video),
        "modality_gap/after": modality_gap(text, target),
        "alignment/before": alignment(state.text, video),
        "alignment/after": alignment(text, target),
        "uniformity/text_before": uniformity(state.text),
        "uniformity/text_after": uniformity(text),
        "uniformity/video_before": uniformity(video),
        "uniformity/video_after": uniformity(target),
        "increment_norm/relative": relative_length(state),
        "increment_spread": increment_spread(state.delta),
        "spread/text": spread(state.text),
        "spread/video": spread(video),
        "spread/increments_of_a_text": spread(state.delta).mean(),
        "spread/increments_of_a_video": spread(state.delta.transpose(0, 1)).mean(),
    }
    figures = {name: float(value) for name, value in values.items()}
    for when, delta in (("before", torch.zeros_like(state.delta)), ("after", state.delta)):
        scores = state.scores(delta)
        gradient = row_gradient(
            state.text, state.video, delta, state.logit_scale, corrected=state.corrected, match=match
        )
        figures[f"margin/{when}"] = float(margins(scores, match).mean())
        figures[f"first/{when}"] = float((margins(scores, match) > 0).double().mean())
        figures[f"gradient_tension/{when}"] = float(gradient_tension(gradient).nanmean())
    figures |= _flat("increment_norm", summarise(state.delta.norm(dim=-1), match))
    return figures | _flat("increment_angle_to_gap", summarise(angles(state.delta, state.gap), match))


def step_diagnostics(before: PairState, after: PairState, radius: Tensor | float | None = None) -> dict[str, float]:
    """Return means over pairs of analytic and effective step, their distance and the moves' cosine, by name.

    ``before`` and ``after``: ``observe`` around one optimiser step on the same batch; ``radius``: eps of the ideal
    increment.
    """
    ideal = ideal_increment(
        before.text,
        before.video,
        before.delta,
        before.logit_scale,
        corrected=before.corrected,
        radius=radius,
        match=before.match,
    )
    steps = compare_steps(before.delta, after.delta, ideal)
    figures: dict[str, float] = {}
    for name, values in (
        ("analytic_step", steps.analytic),
        ("effective_step", steps.effective),
        ("step_distance", (steps.effective - steps.analytic).abs()),
        ("step_cosine", steps.cosine),
    ):
        figures |= _flat(name, summarise(values, before.match))
    return figures


def _flat(name: str, summary: Summary) -> dict[str, float]:
    return {f"{name}/{part}": value for part, value in summary._asdict().items()}


def _matching(values: Tensor, match: Tensor) -> Tensor:
    return torch.arange(values.shape[1], device=values.device)[None] == match[:, None]
