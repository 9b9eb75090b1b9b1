"""The reward in the form that TRL's trainers call."""

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from .._features import HeadColumns, select_features
from .._pipeline import TextBlock, split_pipeline, starts_with_embedder
from ..exceptions import ImplicitRMError
from ._rewards import check_pessimism, rewards


class RewardFunction:
    """The result of `reward_function`: a callable object, which can be pickled."""

    def __init__(self, est, output, pessimism, name):
        self.est = est
        self.output = output
        self.pessimism = pessimism
        self.__name__ = name  # the name in TRL's logs

    def __repr__(self):
        return (
            f"reward_function({type(self.est).__name__}, output={self.output!r}, "
            f"pessimism={self.pessimism!r})"
        )

    def __call__(self, prompts, completions, log_metric=None, **columns):
        """Return one reward per completion.

        Parameters
        ----------
        prompts, completions : list of str or of chat messages
        log_metric : callable, default=None
            Function of TRL, which gets the mean spread of the batch.
        **columns : dict
            Further columns of the data set and other arguments of TRL; ignored.

        Returns
        -------
        rewards : list of float
        """
        if len(prompts) != len(completions):
            raise ImplicitRMError(
                f"prompts has {len(prompts)} entries and completions {len(completions)}; expected "
                "one prompt per completion. Pass the missing ones."
            )
        if not len(completions):
            return []
        reward, spread = rewards(
            self.est,
            list(zip(prompts, completions, strict=True)),
            output=self.output,
            pessimism=self.pessimism,
        )
        if log_metric is not None:
            log_metric(f"{self.__name__}/spread", float(spread.mean()))
        return reward.tolist()


def reward_function(
    est: Any, *, output: str = "probability", pessimism: float = 0.0, name: str = "implicit_reward"
) -> RewardFunction:
    """Return a fitted estimator as the reward function of TRL's GRPOTrainer and RLOOTrainer.

    Parameters
    ----------
    est : ImplicitRewardEstimator or Pipeline
        Fitted on text, with an `embedder`, or a pipeline that starts with an `LLMEmbedder` or with
        a `ColumnTransformer` that contains one. Columns beside the text are not needed if only the
        propensity reads them. The texts of a batch are embedded together, on the device of the
        embedder. Completions are new each time, so ``LLMEmbedder(cache_dir=None)`` keeps them out
        of the store.
    output : {"probability", "logit"}, default="probability"
        The reward in [0, 1], or its log-odds, which still rise when the probability is near 1.
    pessimism : float, default=0.0
        The reward is mean - pessimism * spread, where the spread is the standard deviation over the
        members (of the probability or of the logit). So it is lower where the members disagree,
        which happens far from the log. It may be below 0.
    name : str, default="implicit_reward"
        The name in the logs of TRL, as ``rewards/<name>/mean``.

    Returns
    -------
    reward : callable
        ``reward(prompts, completions, **columns)`` returns a list of float. Prompts and completions
        are text or chat messages. It can be pickled.

    Raises
    ------
    ValueError
        If the estimator reads only vectors, or its reward reads columns that are not text.

    Notes
    -----
    By default, GRPO divides the advantage by the standard deviation of the group. A linear change
    of the reward then changes nothing, and `output` matters only by its curvature.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
    >>> from implicitrm_sk.integrations import reward_function
    >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
    >>> texts = [("How?", answer) for answer in ["Like this.", "I cannot help."] * 20]
    >>> y = np.tile([[1, 1], [0, 1], [0, 0], [0, 0]], (10, 1))
    >>> y[::4] = [[1, 0]] * 10
    >>> est = ImplicitRewardEstimator(
    ...     embedder=embedder, max_epochs=20, early_stopping=False, random_state=0
    ... )
    >>> reward = reward_function(est.fit(texts, y), output="logit")
    >>> good, bad = reward(["How?", "How?"], ["Like this.", "I cannot help."])
    >>> good > bad
    True
    """
    _check_reads_text(est)
    if output not in ("probability", "logit"):
        raise ImplicitRMError(
            f"output must be 'probability' or 'logit', got {output!r}. Pass one of them."
        )
    return RewardFunction(est, output, check_pessimism(pessimism), name)


def _check_reads_text(est):
    """Raise unless text alone is enough for the reward."""
    fitted, _ = split_pipeline(est)
    read = HeadColumns.of(fitted)
    if isinstance(est, Pipeline):
        block = TextBlock.of(est)
        if block is None and not starts_with_embedder(est):
            raise ImplicitRMError(
                f"the pipeline starts with {type(est.steps[0][1]).__name__}, which does not read "
                "text, but a trainer passes text. Start it with an LLMEmbedder, or with a "
                "ColumnTransformer that contains one."
            )
        if block is None:
            return
        vectors = np.zeros((1, block.where.stop - block.where.start), dtype=np.float32)
        try:
            select_features(fitted, block.beside(vectors), reset=False, with_propensity=False)
        except ValueError as error:
            raise ImplicitRMError(
                "the reward of the pipeline reads columns beside the text, which a trainer does "
                f"not pass ({error}). Let only the propensity read them: propensity_features=."
            ) from error
    elif getattr(fitted, "embedder_", None) is None:
        raise ImplicitRMError(
            "est reads vectors, but a trainer passes text. Fit "
            "ImplicitRewardEstimator(embedder=...) on the texts of the log, or pass a pipeline "
            "that starts with an LLMEmbedder."
        )
    side = read.reward[read.reward >= read.n_features - len(read.side)]
    if len(side):
        raise ImplicitRMError(
            f"the reward reads the columns {read.labels(side)} beside the text, which a trainer "
            "does not pass. Name them in propensity_features, or leave them out."
        )
