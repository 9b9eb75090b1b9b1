"""Logs of what users did with responses: read, public, simulated, or from rated responses."""

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ._data import FeedbackData
    from ._events import actions_from_events
    from ._hub import (
        fetch_helpsteer,
        fetch_oasst1_feedback,
        fetch_pku_saferlhf,
        fetch_ultrafeedback,
    )
    from ._logs import load_feedback_log
    from ._rated import load_rated_responses
    from ._read import read_feedback_log
    from ._simulate import simulate_feedback
    from ._summary import LogSummary

__all__ = [
    "FeedbackData",
    "LogSummary",
    "actions_from_events",
    "fetch_helpsteer",
    "fetch_oasst1_feedback",
    "fetch_pku_saferlhf",
    "fetch_ultrafeedback",
    "load_feedback_log",
    "load_rated_responses",
    "read_feedback_log",
    "simulate_feedback",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "_data": ("FeedbackData",),
        "_events": ("actions_from_events",),
        "_hub": (
            "fetch_helpsteer",
            "fetch_oasst1_feedback",
            "fetch_pku_saferlhf",
            "fetch_ultrafeedback",
        ),
        "_logs": ("load_feedback_log",),
        "_rated": ("load_rated_responses",),
        "_read": ("read_feedback_log",),
        "_simulate": ("simulate_feedback",),
        "_summary": ("LogSummary",),
    },
)
