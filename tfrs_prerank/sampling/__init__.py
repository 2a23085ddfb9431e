"""From a cascade log to training lists: stages, strata, and sampling probabilities.

`Mixture` says what a list is made of, `Sampler` draws it from a logged request, with
`DocumentLog` for what the training log says of documents. `StreamingFrequency` and
`in_batch_log_q` say how likely a document is among the negatives of a batch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tfrs_prerank.sampling.document_log import DocumentLog as DocumentLog
from tfrs_prerank.sampling.mixture import Catalog as Catalog
from tfrs_prerank.sampling.mixture import Hard as Hard
from tfrs_prerank.sampling.mixture import Mixture as Mixture
from tfrs_prerank.sampling.mixture import Positives as Positives
from tfrs_prerank.sampling.sampler import Sample as Sample
from tfrs_prerank.sampling.sampler import Sampler as Sampler

_STREAMING = ("StreamingFrequency", "in_batch_log_q")

__all__ = [
    "Catalog",
    "DocumentLog",
    "Hard",
    "Mixture",
    "Positives",
    "Sample",
    "Sampler",
    "StreamingFrequency",
    "in_batch_log_q",
]


def __getattr__(name: str) -> Any:
    # A mixture in a configuration file is checked without TensorFlow.
    if name in _STREAMING:
        module = importlib.import_module("tfrs_prerank.sampling.streaming")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if TYPE_CHECKING:
    from tfrs_prerank.sampling.streaming import (
        StreamingFrequency as StreamingFrequency,
    )
    from tfrs_prerank.sampling.streaming import in_batch_log_q as in_batch_log_q
