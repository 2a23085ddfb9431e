"""What a training list is made of, as a declaration.

Drawing such lists is in `sampler.py`.
"""

from __future__ import annotations

import math

from tfrs_prerank.declaration import check_effect, declaration

EXPOSURES = "exposures"
"""Stands in `Catalog.by` for the bands of exposure; other names are columns."""


@declaration
class Catalog:
    """Negatives from all documents, stratified so that no part of them is forgotten.

    A stratum is a band of exposure times a value of each column in `by`. A stratum of n
    documents has the weight

        w = weights[band] * n ** alpha

    and the draws of a list are shared out by weight; a stratum that has fewer documents
    left passes the rest on to the others. Within a stratum all documents are alike.
    Documents of the request's own list, in whatever stage, are never drawn.

    Attributes:
        count: documents drawn for each request, all different.
        by: what makes the strata: `"exposures"` and names of static document columns
            with one value, such as the category. Empty draws uniformly.
        bands: exposures in the training log at which a new band begins, ascending. The
            default sets apart what was never exposed, and each power of ten up to 100.
        weights: one factor for each band, the least exposed first; None = 1 for all.
            Factor 0 never draws from a band.
        alpha: 1 shares draws out by size, as if there were no strata; 0 gives each
            stratum as many, and so draws a document of a small one more often.

    Example:
    >>> from tfrs_prerank.sampling import Catalog
    >>> Catalog(20, by=["exposures", "category"], alpha=1.0).bands
    (1, 10, 100)
    """

    count: int
    by: tuple[str, ...] = (EXPOSURES,)
    bands: tuple[int, ...] = (1, 10, 100)
    weights: tuple[float, ...] | None = None
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must not be negative. Received: {self.count}")
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by names something twice. Received: {self.by}")
        if EXPOSURES not in self.by:
            check_effect(self, "by", "bands", "weights")
        if not self.by:
            check_effect(self, "by", "alpha")
        edges = (0, *self.bands)
        if any(low >= high for low, high in zip(edges, self.bands, strict=False)):
            raise ValueError(f"bands must ascend, from 1 on. Received: {self.bands}")
        weights = self.weights
        if weights is not None and (
            len(weights) != len(edges) or min(weights) < 0 or max(weights) <= 0
        ):
            raise ValueError(
                f"weights needs {len(edges)} numbers from 0 on, one for each band, "
                f"one of them positive. Received: {weights}"
            )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1]. Received: {self.alpha}")


@declaration
class Hard:
    """Hard negatives from a window of the production order.

    The first ranks are left alone: many of their documents are good, and were only not
    shown. Those behind the window are easy. As in Embedding-based Retrieval in Facebook
    Search (Huang et al., 2020), where ranks 101 to 500 and 100 easy negatives for a
    hard one did best.

    A list gets E / easy_per_hard hard negatives in the mean, where E counts the draws
    of `preranked_out` and of the catalogue; a fraction is made whole at random. They
    are documents that were not exposed, and come on top of the other draws.

    Attributes:
        first: first rank of the window; 1 is the best of the production order.
        last: last rank.
        easy_per_hard: the ratio.

    Example:
    >>> from tfrs_prerank.sampling import Hard
    >>> Hard(easy_per_hard=20)
    Hard(first=101, last=500, easy_per_hard=20.0)
    """

    first: int = 101
    last: int = 500
    easy_per_hard: float = 100.0

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(
                "a window begins at rank 1 or later and does not end before it begins. "
                f"Received: first={self.first}, last={self.last}"
            )
        if self.easy_per_hard <= 0:
            raise ValueError(
                f"easy_per_hard must be positive. Received: {self.easy_per_hard}"
            )


@declaration
class Positives:
    """Which exposed positives are trusted.

    One engagement with a document that was hardly ever shown, or that hardly anyone
    else wanted, is as likely an accident as a wish. Such a document is left out of the
    list: as a positive it would teach the accident, as a negative the opposite of what
    the user did.

    Counts are those of the whole training log. They choose samples and are no feature,
    so that the later part of the log may speak too.

    Attributes:
        min_exposures: fewest exposures of the document.
        min_rate: lowest share of its exposures with a positive label of any task.

    Example:
    >>> from tfrs_prerank.sampling import Positives
    >>> Positives(min_exposures=20, min_rate=0.01).min_rate
    0.01
    """

    min_exposures: int = 1
    min_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.min_exposures < 1:
            raise ValueError(
                f"min_exposures must be at least 1. Received: {self.min_exposures}"
            )
        if not 0 <= self.min_rate <= 1:
            raise ValueError(f"min_rate must be in [0, 1]. Received: {self.min_rate}")


@declaration
class Mixture:
    """How many documents of each stage a training list has.

    A pre-ranker that is trained on exposed documents alone scores thousands of others
    that it knows nothing of (sample selection bias). A list is therefore made of all
    stages of the cascade and of the catalogue. The defaults are those of ASMOL: all
    exposed documents, 10 that only the ranker saw and 40 that did not get there.

    A document is positive where the label of any task is above 0. Positives are always
    taken, and count: of `exposed=5` with two positives three are negatives. A stage
    with fewer documents than wanted gives all; no other stage fills up for it.

    Attributes:
        exposed: documents that were exposed, None for all.
        ranked: documents that the ranker saw and that were not exposed, None for all.
        preranked_out: documents that the pre-ranker left out, None for all.
        catalog: see `Catalog`; a number is its `count`, with all else at its default.
        hard: hard negatives on top; None for none. It needs the production order.
        positives: which exposed positives are trusted; None for all.
        seed: of all draws. They depend on it and the request's id alone.

    Example:
    >>> from tfrs_prerank.sampling import Catalog, Mixture
    >>> Mixture(ranked=5, catalog=Catalog(20, by=["exposures", "category"])).exposed
    >>> Mixture(catalog=20).drawn_from_catalog
    20
    """

    exposed: int | None = None
    ranked: int | None = 10
    preranked_out: int | None = 40
    catalog: Catalog | int = 0
    hard: Hard | None = None
    positives: Positives | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("exposed", "ranked", "preranked_out", "catalog"):
            number = getattr(self, name)
            if isinstance(number, int) and number < 0:
                raise ValueError(f"{name} must not be negative. Received: {number}")

    @property
    def strata(self) -> Catalog:
        """What `catalog` says, also where it is but a number."""
        is_number = isinstance(self.catalog, int)
        return Catalog(self.catalog) if is_number else self.catalog  # type: ignore

    @property
    def drawn_from_catalog(self) -> int:
        """Documents that are drawn from the catalogue for each request."""
        return self.strata.count

    def quota(self, stage: str) -> float:
        """Returns how many documents of a logged stage are wanted, infinity for all.

        Args:
            stage: `"exposed"`, `"ranked"` or `"preranked_out"`.
        """
        quota: int | None = getattr(self, stage)
        return math.inf if quota is None else quota
