"""Public names that are imported when they are used."""

import sys
from importlib import import_module


def lazy(package, names, modules=()):
    """Return `__getattr__` and `__dir__` of a package whose names are imported on first use.

    This lets the command line read a log without importing torch, which takes seconds.

    Parameters
    ----------
    package : str
        The ``__name__`` of the package.
    names : dict of str to tuple of str
        Public names, by the module of the package that defines them.
    modules : tuple of str
        Public modules and packages inside it.

    Returns
    -------
    __getattr__, __dir__ : callable

    Examples
    --------
    >>> from implicitrm_sk._lazy import lazy
    >>> getattr_, dir_ = lazy("json", {"decoder": ("JSONDecoder",)})
    >>> getattr_("JSONDecoder").__name__
    'JSONDecoder'
    """
    origin = {name: module for module, found in names.items() for name in found}

    def __getattr__(name):
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in origin:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{origin[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__():
        return sorted({*vars(sys.modules[package]), *origin, *modules})

    return __getattr__, __dir__
