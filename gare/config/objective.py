"""Settings of the objective: InfoNCE and the three regularisers (the method's section 3)."""

from __future__ import annotations

from typing import Literal

from gare.config.base import Section, key, section


class InformationBottleneckConfig(Section):
    """L_ib, the relaxed variational bottleneck on the increments."""

    weight: float = key(1e-4, "beta; belongs to the named reduction", ge=0)
    reduction: Literal["sum", "mean"] = key("sum", "over the D dimensions; 1e-4 summed is 0.0512 averaged at D = 512")
    anchor: Literal["video", "text"] = key(
        "video", "statistics are taken per video over texts, or per text over videos"
    )
    prior_sigma: float = key(1.0, "standard deviation of the prior N(0, sigma^2)", gt=0)
    normalised: bool = key(False, "use unit increments in this term")


class TrustRegionConfig(Section):
    """L_tr, which spreads the increments' lengths within a bound."""

    weight: float = key(0.01, "lambda_eps", ge=0)
    bound: float = key(0.5, "lambda: the term counts while it is at least -lambda", gt=0)
    form: Literal["hard", "smooth"] = key("hard", "0 past the bound as released, or a smooth maximum")
    anchor: Literal["text", "video"] = key("text", "lengths vary over a text's videos, or over a video's texts")
    kappa: float = key(10.0, "sharpness of the smooth form", gt=0)


class DirectionDiversityConfig(Section):
    """L_dir, which spreads the increments' directions."""

    weight: float = key(0.01, "lambda_dir", ge=0)
    alpha: float = key(2.0, "concentration of the diversity form", gt=0)
    anchor: Literal["text", "video"] = key("text", "directions of a text's increments, or of a video's")
    form: Literal["diversity", "orthogonality"] = key("diversity", "log-mean-exp of cosines, or mean squared cosine")


class ObjectiveConfig(Section):
    """The whole objective; with model.increment: none only InfoNCE counts, and other heads take weights of 0 alone."""

    information_bottleneck: InformationBottleneckConfig = section(InformationBottleneckConfig, "L_ib")
    trust_region: TrustRegionConfig = section(TrustRegionConfig, "L_tr")
    direction_diversity: DirectionDiversityConfig = section(DirectionDiversityConfig, "L_dir")
