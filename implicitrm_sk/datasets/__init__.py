"""Rated responses, and simulated logs of what users did with them."""

from implicitrm_sk.datasets._hub import fetch_helpsteer, fetch_pku_saferlhf, fetch_ultrafeedback
from implicitrm_sk.datasets._rated import load_rated_responses
from implicitrm_sk.datasets._simulate import simulate_feedback

__all__ = [
    "fetch_helpsteer",
    "fetch_pku_saferlhf",
    "fetch_ultrafeedback",
    "load_rated_responses",
    "simulate_feedback",
]
