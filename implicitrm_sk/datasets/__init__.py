"""Rated responses, and simulated logs of what users did with them."""

from implicitrm_sk.datasets._rated import load_rated_responses
from implicitrm_sk.datasets._simulate import simulate_feedback

__all__ = ["load_rated_responses", "simulate_feedback"]
