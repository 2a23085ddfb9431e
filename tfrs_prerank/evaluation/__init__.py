"""Rankings measured on logged candidate lists, with intervals over users."""

from tfrs_prerank.evaluation.measure import evaluate as evaluate
from tfrs_prerank.evaluation.results import Difference as Difference
from tfrs_prerank.evaluation.results import Evaluation as Evaluation
from tfrs_prerank.evaluation.results import Record as Record

__all__ = ["Difference", "Evaluation", "Record", "evaluate"]
