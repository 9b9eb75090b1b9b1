"""A fitted estimator, alone or at the end of a pipeline."""

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ._estimator import ImplicitRewardEstimator
from ._optional import import_optional
from .embedding import LLMEmbedder


def split_pipeline(est):
    """Return the estimator, and the function that converts X to its input.

    A pipeline may embed text beside other columns in a `ColumnTransformer`. Text alone is then
    enough, and the results of the other columns are NaN.

    Raises
    ------
    TypeError
        If `est` is neither an estimator nor a pipeline that ends with one.
    """
    if isinstance(est, Pipeline) and isinstance(est[-1], ImplicitRewardEstimator):
        check_is_fitted(est[-1], "model_")
        block = TextBlock.of(est)
        return est[-1], est[:-1].transform if block is None else block.transform
    if not isinstance(est, ImplicitRewardEstimator):
        raise TypeError(
            "est must be an ImplicitRewardEstimator, or a Pipeline that ends with one, got "
            f"{type(est).__name__}. For a search, pass best_estimator_."
        )
    check_is_fitted(est, "model_")
    return est, lambda X: X


def starts_with_embedder(step):
    """Return whether a transformer is an `LLMEmbedder`, or a pipeline that begins with one."""
    if isinstance(step, Pipeline):
        return starts_with_embedder(step.steps[0][1])
    return isinstance(step, LLMEmbedder)


class TextBlock:
    """The part of a fitted `ColumnTransformer`, first in a pipeline, that embeds text.

    Attributes
    ----------
    pipeline : Pipeline
    embedder : LLMEmbedder or Pipeline
    columns : str or list of str
        The columns of the table that the embedder reads.
    where : slice
        The slice of its output within the output of all columns.
    """

    def __init__(self, pipeline, embedder, columns, where):
        self.pipeline = pipeline
        self.embedder = embedder
        self.columns = columns
        self.where = where

    @classmethod
    def of(cls, pipeline):
        """Return the text block of a pipeline, or None if it does not have exactly one."""
        first = pipeline.steps[0][1]
        if not isinstance(first, ColumnTransformer):
            return None
        found = [part for part in first.transformers_ if starts_with_embedder(part[1])]
        if len(found) != 1:
            return None
        name, embedder, columns = found[0]
        return cls(pipeline, embedder, columns, first.output_indices_[name])

    def transform(self, X):
        """Return the input of the estimator for a whole table, or for rows of text."""
        columns = getattr(X, "columns", None)
        first = self.pipeline.steps[0][1]
        names = getattr(first, "feature_names_in_", None)
        if columns is not None:
            text = [self.columns] if isinstance(self.columns, str) else self.columns
            lacks = names is not None and set(names) - set(columns)
            if not lacks or not all(name in columns for name in text):
                return self.pipeline[:-1].transform(X)
            X = X[self.columns]
        elif isinstance(X, np.ndarray):
            return self.pipeline[:-1].transform(X)
        return self.beside(self.embedder.transform(X))

    def beside(self, vectors):
        """Return the input of the estimator for the vectors of rows, NaN for all other columns."""
        first = self.pipeline.steps[0][1]
        width = max(part.stop for part in first.output_indices_.values())
        values = np.full((len(vectors), width), np.nan, dtype=np.asarray(vectors).dtype)
        values[:, self.where] = vectors
        behind = self.pipeline.steps[1][1]
        names = getattr(behind, "feature_names_in_", None)
        if names is not None:
            pandas = import_optional("pandas", "data", "A pipeline with named columns")
            values = pandas.DataFrame(values, columns=names)
        rest = self.pipeline[1:-1]
        return rest.transform(values) if len(rest.steps) else values
