"""Inspection of a log and a fitted reward, in text, tables and figures."""

from ._comparison import GroupComparison
from ._groups import compare_groups
from ._interval import RewardInterval, reward_interval
from ._plot._activity import ActivityDisplay
from ._plot._comparison import MethodComparisonDisplay
from ._plot._identification import IdentificationDisplay
from ._plot._propensity import PropensityDisplay
from ._plot._reliability import ReliabilityDisplay
from ._plot._stratification import StratificationDisplay
from ._plot._training_curve import TrainingCurveDisplay
from ._queue import label_queue
from ._refits import identification_report
from ._report import IdentificationReport
from ._sensitivity import sensitivity_report
from ._shift import ShiftReport, shift_report
from ._taste import UserTaste, user_taste
from ._violations import SensitivityReport

__all__ = [
    "ActivityDisplay",
    "GroupComparison",
    "IdentificationDisplay",
    "IdentificationReport",
    "MethodComparisonDisplay",
    "PropensityDisplay",
    "ReliabilityDisplay",
    "RewardInterval",
    "SensitivityReport",
    "ShiftReport",
    "StratificationDisplay",
    "TrainingCurveDisplay",
    "UserTaste",
    "compare_groups",
    "identification_report",
    "label_queue",
    "reward_interval",
    "sensitivity_report",
    "shift_report",
    "user_taste",
]
