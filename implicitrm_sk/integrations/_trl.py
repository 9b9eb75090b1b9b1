"""The reward as TRL's trainers call it."""

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from .._features import HeadColumns, select_features
from .._pipeline import TextBlock, split_pipeline, starts_with_embedder
from ._rewards import check_pessimism, rewards


class RewardFunction:
    """What `reward_function` returns: an object to call, which can be pickled."""

    def __init__(self, est, output, pessimism, name):
        self.est = est
        self.output = output
        self.pessimism = pessimism
        self.__name__ = name  # what TRL writes into its logs

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
            TRL's; gets the mean spread of the batch.
        **columns : dict
            Further columns of the data set and what else TRL passes; not read.

        Returns
        -------
        rewards : list of float
        """
        if len(prompts) != len(completions):
            raise ValueError(
                f"prompts has {len(prompts)} entries and completions {len(completions)}: expected "
                "is one prompt per completion."
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
    """Make of a fitted estimator the reward function of TRL's GRPOTrainer and RLOOTrainer.

    Parameters
    ----------
    est : ImplicitRewardEstimator or Pipeline
        Fitted on text: with an `embedder`, or a pipeline that starts with an `LLMEmbedder` or with
        a `ColumnTransformer` that has one. Columns beside the text are not needed if the propensity
        alone reads them. The texts of a batch are embedded together, on the device of the embedder.
        Completions are new each time; ``LLMEmbedder(cache_dir=None)`` keeps them out of the store.
    output : {"probability", "logit"}, default="probability"
        The reward in [0, 1], or its log odds, which still rise where the probability is near 1.
    pessimism : float, default=0.0
        The reward is mean - pessimism * spread, with the standard deviation over the members as
        spread (of the probability or of the logit): it is lower where the members disagree, which
        they do far from the log. It may be below 0.
    name : str, default="implicit_reward"
        Under which TRL logs it, as ``rewards/<name>/mean``.

    Returns
    -------
    reward : callable
        ``reward(prompts, completions, **columns)`` returns a list of float. Prompts and completions
        are text or chat messages. It can be pickled.

    Raises
    ------
    ValueError
        If the estimator reads vectors only, or its reward reads columns that are no text.

    Notes
    -----
    GRPO divides the advantage by the standard deviation of the group by default: then a linear
    change of the reward changes nothing, and `output` matters by its curvature only.

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
        raise ValueError(f"output must be 'probability' or 'logit', got {output!r}.")
    return RewardFunction(est, output, check_pessimism(pessimism), name)


def _check_reads_text(est):
    """Raise unless text alone is enough for the reward."""
    fitted, _ = split_pipeline(est)
    read = HeadColumns.of(fitted)
    if isinstance(est, Pipeline):
        block = TextBlock.of(est)
        if block is None and not starts_with_embedder(est):
            raise ValueError(
                f"the pipeline starts with {type(est.steps[0][1]).__name__}, which does not read "
                "text, but a trainer passes text. Start it with an LLMEmbedder, or with a "
                "ColumnTransformer that has one."
            )
        if block is None:
            return
        vectors = np.zeros((1, block.where.stop - block.where.start), dtype=np.float32)
        try:
            select_features(fitted, block.beside(vectors), reset=False, with_propensity=False)
        except ValueError as error:
            raise ValueError(
                "the reward of the pipeline reads columns beside the text, which a trainer does "
                f"not pass ({error}). Give them to the propensity alone: propensity_features=."
            ) from error
    elif getattr(fitted, "embedder_", None) is None:
        raise ValueError(
            "est reads vectors, but a trainer passes text: fit ImplicitRewardEstimator("
            "embedder=...) on the texts of the log, or pass a pipeline that starts with an "
            "LLMEmbedder."
        )
    side = read.reward[read.reward >= read.n_features - len(read.side)]
    if len(side):
        raise ValueError(
            f"the reward reads the columns {read.labels(side)} beside the text, which a trainer "
            "does not pass. Name them in propensity_features, or leave them out."
        )
