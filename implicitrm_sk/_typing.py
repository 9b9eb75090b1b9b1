"""Types of the public interface."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray


class SupportsRows(Protocol):
    """A table, or a list of texts, pairs, dicts or chat messages."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


F = TypeVar("F", bound=Callable[..., Any])


def same(decorator: Any) -> Callable[[F], F]:
    """Declare that a decorator keeps the signature; scikit-learn's types do not say so."""
    return decorator


#: The types of X.
Rows: TypeAlias = ArrayLike | SupportsRows
#: The type of results.
Floats: TypeAlias = NDArray[np.floating[Any]]
#: Seeds, as scikit-learn accepts them.
RandomState: TypeAlias = int | np.random.RandomState | None
