"""What a log and a fitted reward can be asked about."""

from ._report import IdentificationReport, identification_report
from ._shift import ShiftReport, shift_report

__all__ = ["IdentificationReport", "ShiftReport", "identification_report", "shift_report"]
