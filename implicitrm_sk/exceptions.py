"""Warning categories of the package."""


class IdentificationWarning(UserWarning):
    """What was passed to `fit` does not determine the reward, whatever the number of rows.

    Silence it with
    ``warnings.filterwarnings("ignore", category=implicitrm_sk.IdentificationWarning)``.
    """
