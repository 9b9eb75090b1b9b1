"""The files of a saved model: folder or zip archive, JSON, names and size limits."""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import struct
import tempfile
import zipfile
from pathlib import Path

from .._paths import local_path
from ..exceptions import ImplicitRMError, ModelFileError

MANIFEST, SETTINGS, ARRAYS, CARD = (
    "implicitrm.json",
    "estimator.json",
    "arrays.safetensors",
    "README.md",
)
#: Maximum size in bytes that is read or written.
MAX_SIZE = {MANIFEST: 2**20, SETTINGS: 2**26, ARRAYS: 2**32, CARD: 2**20}
#: The errors that senseless values cause, including RecursionError.
SENSELESS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def listing(names):
    """Return names for a message, only the first of many, each cut to 40 characters."""
    names = [str(name)[:40] for name in names]
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "none"


def short(error):
    """Return the text of an error in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


# ---------------------------------------------------------------------- JSON


def dump(value):
    """Return JSON with one line per parameter or attribute, for people who compare files."""

    def lines(value, depth):
        if not isinstance(value, dict) or not value or depth == 2:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        indent = "\n" + " " * depth
        items = [f"{json.dumps(key)}: {lines(item, depth + 1)}" for key, item in value.items()]
        return "{" + ",".join(f"{indent} {item}" for item in items) + indent + "}"

    return (lines(value, 0) + "\n").encode("utf-8", "surrogatepass")


def digest(manifest):
    """Return the SHA-256 of a manifest, without that of itself."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse(content, name):
    """Return the content of a JSON file; raise if a constant is not JSON or a key is repeated."""

    def no_constant(text):
        raise ImplicitRMError(f"{text} is not JSON")

    def no_repeated_key(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ImplicitRMError("a key occurs twice")
        return dict(pairs)

    try:
        return json.loads(
            content.decode("utf-8", "surrogatepass"),
            parse_constant=no_constant,
            object_pairs_hook=no_repeated_key,
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{name} is not valid JSON: {short(error)}. Get the file again."
        ) from error


# ---------------------------------------------------------------------- folders and archives


def read(path):
    """Return the content of the files of a saved model, by name; no other file is opened."""
    path = local_path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            errno.ENOENT, "there is no saved model (a folder or a zip archive)", str(path)
        ) from error
    try:
        if stat.S_ISDIR(mode):
            return read_folder(path)
        if not stat.S_ISREG(mode):
            raise ModelFileError("it is neither a folder nor a file. Correct the path.")
        return _read_zip(path)
    except ModelFileError as error:
        raise ModelFileError(f"{str(path)!r} cannot be loaded: {error}") from error.__cause__


def read_folder(folder, follow_links=False):
    """Read the files of a folder; links, which could lead anywhere, only if requested."""
    files = {}
    for name in (MANIFEST, SETTINGS, ARRAYS):
        path = Path(folder) / name
        flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
        try:
            handle = os.open(path, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise ModelFileError(
                    f"{name} is a symbolic link, which could lead anywhere. Copy the file."
                ) from error
            if isinstance(error, FileNotFoundError):
                raise ModelFileError(
                    f"the folder has no file {name}. A saved model has {MANIFEST}, {SETTINGS} "
                    f"and {ARRAYS}. Correct the path, or get the files again."
                ) from error
            raise
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{name} is not a regular file. Get it again.")
            _check_size(name, status.st_size)
            with open(handle, "rb", closefd=False) as file:
                files[name] = file.read(MAX_SIZE[name] + 1)
            _check_size(name, len(files[name]))
        finally:
            os.close(handle)
    return files


def _check_size(name, size):
    if size > MAX_SIZE[name]:
        raise ModelFileError(
            f"{name} has {size:,} bytes; expected at most {MAX_SIZE[name]:,}. Get the file again."
        )


def _read_zip(path):
    wanted = {MANIFEST, SETTINGS, ARRAYS, CARD}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(members) > len(wanted) or not set(names) <= wanted:
                strange = [name for name in names if name not in wanted]
                raise ModelFileError(
                    f"the archive holds other members than those of a saved model: "
                    f"{listing(map(repr, strange))}. Remove them, or get the file again."
                )
            if len(set(names)) < len(names):
                raise ModelFileError("a member of the archive occurs twice. Get the file again.")
            missing = wanted - {CARD} - set(names)
            if missing:
                raise ModelFileError(
                    f"the archive lacks {listing(sorted(missing))}. Get the file again."
                )
            for member in members:
                _check_member(member, path.stat().st_size)
            files = {}
            for name in (MANIFEST, SETTINGS, ARRAYS):
                with archive.open(name) as file:
                    files[name] = file.read(MAX_SIZE[name] + 1)
                _check_size(name, len(files[name]))
            return files
    except (ModelFileError, PermissionError):
        raise
    # zipfile does not catch every error that a damaged archive causes.
    except (zipfile.BadZipFile, OSError, EOFError, struct.error, *SENSELESS) as error:
        raise ModelFileError(
            f"it is not a valid zip archive: {short(error)}. Get the file again."
        ) from error


def _check_member(member, archive_size):
    name = member.filename
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ModelFileError(f"{name} in the archive is a symbolic link. Get the file again.")
    # Uncompressed members cannot be larger than the archive, which rules out zip bombs.
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise ModelFileError(
            f"{name} in the archive is compressed; saved models are not. Pack it without "
            "compression."
        )
    if member.flag_bits & 1:
        raise ModelFileError(f"{name} in the archive is encrypted. Pack it without a password.")
    _check_size(name, member.file_size)
    if member.file_size > archive_size:
        raise ModelFileError(
            f"{name} in the archive is said to be larger than the archive. Get the file again."
        )


def write(path, files):
    """Write the files of a saved model: an archive if the path ends in .zip, else a folder."""
    path = local_path(path)
    (_write_zip if path.suffix.lower() == ".zip" else _write_folder)(path, files)


def _write_zip(path, files):
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder is in the way of the archive", str(path))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            # A fixed date, so that the same model gives the same bytes.
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, tempfile.mkstemp) as (handle, temporary):
        with open(handle, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)


def _write_folder(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() or path.is_symlink():
        if not path.is_dir() or path.is_symlink():
            raise FileExistsError(errno.EEXIST, "something else than a folder is there", str(path))
        others = sorted({entry.name for entry in path.iterdir()} - set(files))
        if others:
            raise FileExistsError(
                errno.EEXIST,
                f"the folder holds files that are not of a saved model ({listing(others)}). Choose "
                "another one",
                str(path),
            )
    with _temporary(path, lambda **kwargs: (None, tempfile.mkdtemp(**kwargs))) as (_, temporary):
        for name, content in files.items():
            with open(Path(temporary) / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o777 & ~_umask())
        if path.exists():
            # A folder cannot be replaced in one step: the old one is kept beside it until the new
            # one is complete.
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)) / "old"
            os.rename(path, old)
            try:
                os.rename(temporary, path)
            except OSError:
                os.rename(old, path)
                os.rmdir(old.parent)
                raise
            shutil.rmtree(old.parent, ignore_errors=True)
        else:
            os.rename(temporary, path)


@contextlib.contextmanager
def _temporary(path, make):
    """Make a temporary file or folder beside the target; remove it if it is left over."""
    handle, temporary = make(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        yield handle, temporary
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        elif os.path.exists(temporary):
            os.unlink(temporary)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
