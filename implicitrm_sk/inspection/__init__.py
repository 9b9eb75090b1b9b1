"""What a log and a fitted reward can be asked about."""

from ._report import IdentificationReport, identification_report

__all__ = ["IdentificationReport", "identification_report"]
