"""Logs of what users did, rated responses, and simulated logs of what users did with them."""

from ._data import FeedbackData
from ._hub import (
    fetch_helpsteer,
    fetch_oasst1_feedback,
    fetch_pku_saferlhf,
    fetch_ultrafeedback,
)
from ._logs import load_feedback_log
from ._rated import load_rated_responses
from ._simulate import simulate_feedback

__all__ = [
    "FeedbackData",
    "fetch_helpsteer",
    "fetch_oasst1_feedback",
    "fetch_pku_saferlhf",
    "fetch_ultrafeedback",
    "load_feedback_log",
    "load_rated_responses",
    "simulate_feedback",
]
