"""Kinds of feedback: what a column of y is, and how the preference shows in it."""

from .measurement._action import Action
from .measurement._choice import Choice
from .measurement._graded import Graded
from .measurement._signal import Signal

__all__ = ["Action", "Choice", "Graded", "Signal"]
