"""Files that commands write: checked before the work, written beside their place."""

import contextlib
import json
import math
import os
import tempfile
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from .._keys import is_absent
from ..exceptions import ImplicitRMError

#: Endings of files that are not folders; model-1.0 does not have one of them.
_FILE_KINDS = (".bin", ".joblib", ".json", ".jsonl", ".parquet", ".pickle", ".pkl", ".pt")


def check_writable(path, kinds=None, *, force=False, read=()):
    """Check before the work, not after it, that the result can be written."""
    if kinds is not None and path.suffix not in kinds:
        raise ImplicitRMError(f"{path} must end with {' or '.join(kinds)}. Give another name.")
    if kinds is None and path.suffix.lower() in _FILE_KINDS:
        raise ImplicitRMError(
            f"{path}: expected a folder, or a file that ends with .zip. Give another name."
        )
    if path.is_dir() and (kinds is not None or path.suffix == ".zip"):
        raise ImplicitRMError(f"{path} is a folder; expected a file. Give another name.")
    if any(path.resolve() == Path(other).resolve() for other in read):
        raise ImplicitRMError(f"{path} is the file that is read. Give the result another name.")
    if not force and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(
            f"{path} is there already. Give another name, or --force to replace it."
        )
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise PermissionError(
            f"{path} cannot be written: no permission in {parent}. Choose another folder."
        )


def write_frame(path, frame):
    """Write a table."""

    def write(temporary):
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            write_json(temporary, frame.to_dict("records"))

    in_place(path, write)


def write_json(path, records):
    """Write records as lines of JSON, with every value as it is read back."""
    settings = {"default": as_json, "allow_nan": False}
    with open(path, "wb") as file:
        for number, record in enumerate(records):
            record = {name: strict(value, name, number) for name, value in record.items()}
            try:
                line = json.dumps(record, ensure_ascii=False, **settings).encode()
            except UnicodeEncodeError:  # half of an emoji
                line = json.dumps(record, **settings).encode()
            file.write(line + b"\n")


def in_place(path, write):
    """Write a file beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def strict(value, name, row):
    """Return a value without numbers that JSON has no form for: null in place of NaN."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if is_absent(value):
        return None
    if isinstance(value, float):
        if math.isinf(value):
            raise ImplicitRMError(
                f"column {name!r} holds {value} in row {row}, which JSON has no form for. Write "
                ".parquet."
            )
        return value
    if isinstance(value, dict):
        return {key: strict(part, name, row) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [strict(part, name, row) for part in value]
    return value


def as_json(value):
    """Return a value that JSON cannot hold in a form that is read back as the same."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise ImplicitRMError(
        f"a column holds {type(value).__name__} ({str(value)[:40]}), which JSON cannot hold. Write "
        ".parquet."
    )
