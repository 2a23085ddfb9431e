"""The declaration of a scorer; its learned parts are in the modules beside it.

It is apart from there so that a configuration is checked without TensorFlow.
"""

from __future__ import annotations

from typing import Literal

from tfrs_prerank.declaration import check_effect, declaration
from tfrs_prerank.towers.experts import Experts, ExpertsKind

ScorerKind = Literal["dot", "cosine", "mlp", "max_sim", "experts"]

_OPTIONS = {
    "dot": (),
    "cosine": ("scale",),
    "mlp": ("units", "blocks"),
    "max_sim": ("heads", "head_size"),
    "experts": ("experts",),
}


@declaration
class Scorer:
    """How a query's and a document's vector make a logit.

    Cost for each document and task, in multiply-adds for vectors of size d; the cross
    tower comes on top:

    * `"dot"`: q . d + bias. Cost: d.
    * `"cosine"`: scale * cos(q, d) + bias, with scale and bias learned for each task.
      Without a scale the logit could span 2 at most, and no model could be calibrated.
      Cost: d.
    * `"mlp"`: a small network over [q, d, q * d, |q - d|, c] and the towers' fields
      (`layers.LateInteraction`). Cost: 2 d units + 2 blocks units^2.
    * `"max_sim"`: heads of every layer of the query's MLP against the best of the
      document's heads (`layers.MaxSim`). Cost: layers heads^2 head_size.
    * `"experts"`: MMoE or PLE over [q * d, c], with a linear head for each task. The
      towers' experts give each task a vector of its own; here all tasks read one, so
      the table is no larger for many tasks, but every candidate passes the experts.
      Cost for all T tasks together, with n = d + size of c and layers u_1 .. u_m of an
      expert, for K experts of `"mmoe"`: K (n u_1 + u_1 u_2 + ..) + T K (n + u_m);
      that of `"ple"` is in `layers.PLE`.

    All keep the document's side in the export's table. Only `"dot"` and `"cosine"` can
    retrieve from the whole table, or learn from an in-batch softmax.

    Attributes:
        kind: see above.
        cross: how the cross tower enters: `"add"` adds its logit; `"concat"` (of
            `"mlp"` and `"experts"`, and their default) gives them its vector as c.
        scale: the cosine's scale at the start.
        units: hidden size of the `"mlp"`.
        blocks: its residual blocks.
        heads: of `"max_sim"`.
        head_size: numbers in a head.
        experts: of `"experts"`: `towers.Experts`, or their kind alone; `"mmoe"` without
            it.

    >>> from tfrs_prerank.scorers import Scorer
    >>> Scorer("cosine").cross, Scorer("mlp").cross
    ('add', 'concat')
    """

    kind: ScorerKind = "cosine"
    cross: Literal["add", "concat"] | None = None
    scale: float = 10.0
    units: int = 64
    blocks: int = 1
    heads: int = 4
    head_size: int = 16
    experts: Experts | ExpertsKind | None = None

    def __post_init__(self) -> None:
        reads_cross = self.kind in ("mlp", "experts")
        if self.cross is None:
            cross = "concat" if reads_cross else "add"
            object.__setattr__(self, "cross", cross)
        if self.cross == "concat" and not reads_cross:
            raise ValueError(
                'cross="concat" belongs to kind="mlp" and kind="experts", which read '
                f"the cross vector; leave it out. Received: kind={self.kind!r}"
            )
        if self.experts is None and self.kind == "experts":
            object.__setattr__(self, "experts", "mmoe")
        if isinstance(self.experts, str):
            object.__setattr__(self, "experts", Experts(self.experts))
        if self.scale <= 0:
            raise ValueError(f"scale must be positive. Received: {self.scale}")
        for name, least in (
            ("units", 1),
            ("blocks", 0),
            ("heads", 1),
            ("head_size", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} must be at least {least}. Received: {getattr(self, name)}"
                )
        every = [name for names in _OPTIONS.values() for name in names]
        idle = [name for name in every if name not in _OPTIONS[self.kind]]
        check_effect(self, "kind", *idle)

    @property
    def compares_vectors(self) -> bool:
        """Whether a logit is a product of vectors, so that a table can be searched."""
        return self.kind in ("dot", "cosine")

    @property
    def compares_without_cross(self) -> bool:
        """Whether vectors alone make a logit: nothing behind them reads a cross vector.

        Only then can a table be scored apart from the cross tower.
        """
        return self.kind not in ("mlp", "experts")

    @property
    def shares_vectors(self) -> bool:
        """Whether all tasks read one vector of a tower, and not each its own."""
        return self.kind == "experts"
