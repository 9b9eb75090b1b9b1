"""Errors and warning categories of the package."""


class IdentificationWarning(UserWarning):
    """The arguments of `fit` do not identify the reward, whatever the number of rows.

    Silence it with
    ``warnings.filterwarnings("ignore", category=implicitrm_sk.IdentificationWarning)``.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
    >>> X = np.arange(100.0)[:, None]
    >>> est = ImplicitRewardEstimator(max_epochs=1, early_stopping=False, random_state=0)
    >>> with warnings.catch_warnings(record=True) as given:
    ...     warnings.simplefilter("always")
    ...     _ = est.fit(X, X[:, 0] > 60)
    >>> given[0].category is IdentificationWarning
    True
    >>> est.identification_.level
    'not identified'
    """


class ImplicitRMError(ValueError):
    """An argument or file has a value that the caller can mend; the message says how.

    It is a `ValueError`, so that code for scikit-learn's own errors catches it, too. An argument
    of the wrong type raises `TypeError`, a missing file `FileNotFoundError`, and what
    scikit-learn itself checks raises the errors of scikit-learn.

    Examples
    --------
    >>> from implicitrm_sk import ImplicitRewardEstimator, ImplicitRMError
    >>> try:
    ...     ImplicitRewardEstimator(objective="bpr").fit([[0.5], [1.5]], [0, 1])
    ... except ImplicitRMError as error:
    ...     print("groups" in str(error))
    True
    """


class ModelFileError(ImplicitRMError):
    """A file or folder is not a saved model, or is damaged, altered or of a newer format.

    Examples
    --------
    >>> import tempfile
    >>> from implicitrm_sk import ImplicitRewardEstimator, ModelFileError
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     try:
    ...         ImplicitRewardEstimator.load(folder)
    ...     except ModelFileError as error:
    ...         print("cannot be loaded" in str(error))
    True
    """


class ShiftWarning(UserWarning):
    """Responses lie outside the log that the reward was learned from, so the reward extrapolates.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator, ShiftWarning
    >>> from implicitrm_sk.inspection import shift_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 2))
    >>> y = (X[:, :1] + rng.normal(size=(500, 2)) > 0.5).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0).fit(X, y)
    >>> with warnings.catch_warnings(record=True) as given:
    ...     warnings.simplefilter("always")
    ...     report = shift_report(est, rng.normal(loc=3, size=(500, 2)), X)
    >>> given[0].category is ShiftWarning
    True
    """
