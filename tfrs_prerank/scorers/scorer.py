"""The declaration of a scorer; its learned part is in `scorer_layer.py`.

It is apart from there so that a configuration is checked without TensorFlow.
"""

from __future__ import annotations

from typing import Literal

from tfrs_prerank.declaration import check_effect, declaration


@declaration
class Scorer:
    """How a query's and a document's vector make a logit.

    * `"dot"`: q . d + bias.
    * `"cosine"`: scale * cos(q, d) + bias, with scale and bias learned for each task.
      Without a scale the logit could span 2 at most, and no model could be calibrated.

    A cross tower's logit is added to either. Cost for each document and task: d
    multiply-adds for vectors of size d, and the cross tower.

    Attributes:
        kind: see above.
        cross: how the cross tower's logit enters.
        scale: the cosine's scale at the start.

    >>> from tfrs_prerank.scorers import Scorer
    >>> Scorer("cosine").cross
    'add'
    """

    kind: Literal["dot", "cosine"] = "cosine"
    cross: Literal["add"] = "add"
    scale: float = 10.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale must be positive. Received: {self.scale}")
        if self.kind == "dot":
            check_effect(self, "kind", "scale")
