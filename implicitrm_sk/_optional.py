"""Imports of packages that only some functions need."""

from importlib import import_module


def import_optional(module, extra, purpose):
    """Import a package that belongs to an extra, or raise an error that says how to install it.

    Parameters
    ----------
    module : str
        Name of the module, for example ``"pandas"``.

    extra : str
        Name of the extra of this distribution that installs it, for example ``"data"``.

    purpose : str
        Feature that needs the module, as the subject of a sentence: ``"Reading a parquet file"``.

    Returns
    -------
    module : module
        The imported module.

    Raises
    ------
    ImportError
        If the module cannot be imported; the message names the purpose, the module, the cause
        and the command that installs the extra.

    Examples
    --------
    >>> from implicitrm_sk._optional import import_optional
    >>> import_optional("json", "data", "Reading a JSON file").loads("[1, 2]")
    [1, 2]
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {module!r}, which could not be imported ({error}). "
            f'Install it with: pip install "implicitrm-sk[{extra}]"',
            name=module,
        ) from error
