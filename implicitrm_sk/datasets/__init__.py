"""Rated responses, and simulated logs of what users did with them."""

from ._data import FeedbackData
from ._hub import fetch_helpsteer, fetch_pku_saferlhf, fetch_ultrafeedback
from ._rated import load_rated_responses
from ._simulate import simulate_feedback

__all__ = [
    "FeedbackData",
    "fetch_helpsteer",
    "fetch_pku_saferlhf",
    "fetch_ultrafeedback",
    "load_rated_responses",
    "simulate_feedback",
]
