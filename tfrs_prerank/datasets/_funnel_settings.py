"""The sizes and knobs of the simulated cascade.

They are apart from `funnel.py` so that both the world and the cascade may read them.
"""

from __future__ import annotations

from tfrs_prerank.declaration import declaration

PUBLISHED_AT_START = 0.7
"""Share of the documents that are there when the log starts."""

_MOST_QUERIES = 5_000  # the words of a topic make no more that differ


@declaration
class Settings:
    """Sizes and knobs of a simulated cascade.

    Attributes:
        documents: of the catalogue; 70% are there at the start, the others are
            published while the log runs.
        authors: who write them.
        users: who search.
        queries: distinct queries, at most 5,000.
        requests: searches in the log.
        candidates: documents that retrieval hands to the pre-ranker for each request.
        ranked: documents that the pre-ranker hands to the ranker.
        exposed: documents that the user is shown.
        block: requests between two updates of counters, histories and the ranker.
        days: time that the log covers.
        position_bias: how fast examination falls with the position k, as
            `(1 + k) ** -position_bias`; 0 = all are examined.
        popularity: how strongly retrieval and the pre-ranker favour what was clicked
            before; 0 = not at all, though the ranker still learns from counters.
        met_elsewhere: documents that a user meets outside search after a request.
        history: most clicked documents that a request's record holds.
        searches: most past queries that a request's record holds.
        seed: of everything.

    Raises:
        ConfigurationError: a size is not positive, or a stage passes on more documents
            than it receives.

    Example:
    >>> from tfrs_prerank.datasets import funnel
    >>> funnel.Settings(seed=3).candidates
    400
    """

    documents: int = 10_000
    authors: int = 500
    users: int = 2_000
    queries: int = 1_500
    requests: int = 20_000
    candidates: int = 400
    ranked: int = 100
    exposed: int = 10
    block: int = 500
    days: int = 30
    position_bias: float = 0.7
    popularity: float = 1.0
    met_elsewhere: int = 100
    history: int = 20
    searches: int = 10
    seed: int = 7

    def __post_init__(self) -> None:
        for name in (
            "documents", "authors", "users", "queries", "requests", "candidates",
            "ranked", "exposed", "block", "days", "met_elsewhere", "history",
            "searches",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {getattr(self, name)}"
                )
        for name in ("position_bias", "popularity", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} must not be negative. Received: {getattr(self, name)}"
                )
        if self.queries > _MOST_QUERIES:
            raise ValueError(
                f"queries must be at most {_MOST_QUERIES:,}, as there are not more "
                f"different ones. Received: {self.queries}"
            )
        if not self.exposed <= self.ranked <= self.candidates <= self.published:
            raise ValueError(
                "each stage passes on at most what it receives: exposed <= ranked <= "
                f"candidates <= {PUBLISHED_AT_START:.0%} of documents. Received: "
                f"exposed={self.exposed}, ranked={self.ranked}, "
                f"candidates={self.candidates}, documents={self.documents}"
            )

    @property
    def published(self) -> int:
        """Documents that are there when the log starts."""
        return int(self.documents * PUBLISHED_AT_START)


def full(seed: int = 7) -> Settings:
    """Returns the settings of the benchmarks: 8,000,000 candidates, 200,000 shown.

    Args:
        seed: of everything.

    Returns:
        10,000 documents, 2,000 users, 20,000 requests of 400 candidates.
    """
    return Settings(seed=seed)


def small(seed: int = 7) -> Settings:
    """Returns settings for tests and first trials, which take about a second.

    Args:
        seed: of everything.

    Returns:
        1,000 documents, 200 users, 2,000 requests of 120 candidates, of which 40 are
        ranked and 10 shown.
    """
    return Settings(
        documents=1_000, authors=60, users=200, queries=150, requests=2_000,
        candidates=120, ranked=40, block=100, met_elsewhere=50, seed=seed,
    )  # fmt: skip
