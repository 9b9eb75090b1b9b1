"""The command `implicitrm`: from a log of user actions to a reward, without writing Python."""

from ._main import main as main
