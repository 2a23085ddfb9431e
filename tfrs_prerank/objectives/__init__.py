"""What a model optimises: weighted terms over tasks, losses and stages."""

from tfrs_prerank.objectives.objective import Objective as Objective
from tfrs_prerank.objectives.objective import Term as Term

__all__ = ["Objective", "Term"]
