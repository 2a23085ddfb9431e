"""Rankings measured on logged candidate lists, with intervals over users."""

from tfrs_prerank.evaluation.comparison import Comparison as Comparison
from tfrs_prerank.evaluation.comparison import compare as compare
from tfrs_prerank.evaluation.measure import evaluate as evaluate
from tfrs_prerank.evaluation.report import report as report
from tfrs_prerank.evaluation.results import Difference as Difference
from tfrs_prerank.evaluation.results import Evaluation as Evaluation
from tfrs_prerank.evaluation.results import Finding as Finding
from tfrs_prerank.evaluation.results import Record as Record
from tfrs_prerank.evaluation.slices import Slice as Slice
from tfrs_prerank.evaluation.slices import by_length as by_length

__all__ = [
    "Comparison",
    "Difference",
    "Evaluation",
    "Finding",
    "Record",
    "Slice",
    "by_length",
    "compare",
    "evaluate",
    "report",
]
