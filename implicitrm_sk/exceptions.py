"""Warning categories of the package."""


class IdentificationWarning(UserWarning):
    """What was passed to `fit` does not determine the reward, whatever the number of rows.

    Silence it with
    ``warnings.filterwarnings("ignore", category=implicitrm_sk.IdentificationWarning)``.
    """


class ModelFileError(ValueError):
    """A file or folder is no saved model, or it is damaged, altered or of a newer format."""


class ShiftWarning(UserWarning):
    """Responses lie outside the log that a reward was learned from: the reward extrapolates."""
