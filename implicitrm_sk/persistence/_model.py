"""Saved models: from an estimator to files and back, to the hub and from it."""

import hashlib
import platform
import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from .._sklearn import ATTRIBUTES_OF_SKLEARN, METADATA_REQUEST, validate_params
from ..exceptions import ImplicitRMError, ModelFileError
from ._card import model_card
from ._checks import FITTED, check_fitted, is_count, require
from ._files import (
    ARRAYS,
    CARD,
    MANIFEST,
    MAX_SIZE,
    SENSELESS,
    SETTINGS,
    digest,
    dump,
    listing,
    parse,
    read,
    read_folder,
    short,
    write,
)
from ._values import Codec

FORMAT = "implicitrm_sk estimator"
#: Increased if older code could not read the files; `_upgrade` then converts the old form.
FORMAT_VERSION = 1


def save(est, path, metrics=None, users=False):
    """Write a fitted estimator; see `ImplicitRewardEstimator.save`."""
    write(path, to_files(est, metrics, users))


def load(cls, path):
    """Read an estimator; see `ImplicitRewardEstimator.load`."""
    return from_files(cls, read(path), str(path))


def to_files(est, metrics=None, users=False):
    """Return the content of each file of a saved model, as bytes."""
    check_is_fitted(est, "model_")
    card = model_card(est, metrics, users=users)
    state = est.__getstate__()
    parameters = est.get_params(deep=False)
    fitted = {
        name: value
        for name, value in state.items()
        if name not in parameters and name not in ATTRIBUTES_OF_SKLEARN
    }
    if not users:
        fitted.pop("user_activity_", None)
    unknown = set(fitted) - set(FITTED)
    if unknown:
        raise ImplicitRMError(
            f"the file format does not know the attribute {listing(sorted(unknown))} of the "
            "estimator, which would be lost. Delete it, or pickle the estimator."
        )
    codec = Codec()
    settings = {
        "parameters": {name: codec.encode(value, name) for name, value in parameters.items()},
        "fitted": {name: codec.encode(value, name) for name, value in fitted.items()},
    }
    if METADATA_REQUEST in state:
        settings["metadata_requests"] = {
            method: dict(getattr(state[METADATA_REQUEST], method).requests)
            for method in _methods_with_requests(state[METADATA_REQUEST])
        }
    files = {SETTINGS: dump(settings), ARRAYS: save_arrays(codec.arrays)}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "class": type(est).__name__,
        "written_by": {
            "python": platform.python_version(),
            **{
                name: installed_version(name)
                for name in ("implicitrm-sk", "numpy", "scikit-learn", "torch")
            },
        },
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    manifest["sha256"] = digest(manifest)
    files = {MANIFEST: dump(manifest), **files, CARD: card.encode()}
    for name, content in files.items():
        if len(content) > MAX_SIZE[name]:
            raise ImplicitRMError(
                f"{name} would have {len(content):,} bytes, but files of more than "
                f"{MAX_SIZE[name]:,} bytes cannot be loaded. Save a smaller model."
            )
    return files


def from_files(cls, files, source):
    """Return the estimator that the content of files describes."""
    try:
        manifest = _check_manifest(files, cls)
        settings = _upgrade(parse(files[SETTINGS], SETTINGS), manifest["format_version"])
        return _build(cls, settings, files[ARRAYS])
    except ModelFileError as error:
        raise ModelFileError(f"{source!r} cannot be loaded: {error}") from error.__cause__


def _check_manifest(files, cls):
    manifest = parse(files[MANIFEST], MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelFileError(f"{MANIFEST} does not describe an {FORMAT}. Correct the path.")
    version = manifest.get("format_version")
    if not is_count(version) or version < 1:
        raise ModelFileError(
            f"{MANIFEST} has the format_version {version!r:.40}; expected a number >= 1. Get the "
            "file again."
        )
    if version > FORMAT_VERSION:
        by = manifest.get("written_by")
        by = by.get("implicitrm-sk") if isinstance(by, dict) else None
        raise ModelFileError(
            f"it has format version {version}, written by implicitrm-sk {by!s:.20}, but the "
            f"installed version reads formats up to {FORMAT_VERSION}. Install a newer "
            "implicitrm-sk."
        )
    if manifest.get("sha256") != digest(manifest):
        raise ModelFileError(
            f"{MANIFEST} was changed after it was written (its SHA-256 differs). Get the file "
            "again."
        )
    if manifest.get("class") != cls.__name__:
        raise ModelFileError(
            f"it holds an estimator of class {manifest.get('class')!r:.60}; expected "
            f"{cls.__name__}. Load it with its own class."
        )
    listed = manifest.get("files")
    if not isinstance(listed, dict) or set(listed) != {SETTINGS, ARRAYS}:
        raise ModelFileError(f"{MANIFEST} must list the files {SETTINGS} and {ARRAYS}.")
    for name, entry in listed.items():
        content = files[name]
        found = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if entry != found:
            raise ModelFileError(
                f"{name} is not the file that was written: it has {len(content):,} bytes and the "
                f"SHA-256 {found['sha256'][:12]}..., which differ from {MANIFEST}. The file was "
                "damaged or altered. Get it again."
            )
    return manifest


def _upgrade(settings, version):
    """Convert the settings of an older format version into the form of this one."""
    return settings


def _build(cls, settings, content):
    known = {"parameters", "fitted", "metadata_requests"}
    if not isinstance(settings, dict) or not {"parameters", "fitted"} <= set(settings) <= known:
        raise ModelFileError(f"{SETTINGS} must hold {listing(sorted(known))}.")
    for part in settings.values():
        if not isinstance(part, dict):
            raise ModelFileError(f"the parts of {SETTINGS} must be objects.")
    try:
        arrays = load_arrays(content)
    except (SafetensorError, *SENSELESS) as error:
        raise ModelFileError(
            f"{ARRAYS} is not a valid safetensors file: {short(error)}. Get the file again."
        ) from error
    codec = Codec(arrays)
    try:
        parameters, fitted = (
            {name: codec.decode(value) for name, value in settings[part].items()}
            for part in ("parameters", "fitted")
        )
    except RecursionError as error:
        raise ModelFileError(f"{SETTINGS} is nested too deeply.") from error
    if codec.arrays:
        raise ModelFileError(f"{ARRAYS} holds arrays that nothing uses: {listing(codec.arrays)}.")
    try:
        est = cls(**parameters)
    except TypeError as error:
        raise ModelFileError(
            f"{SETTINGS} does not hold valid parameters: {short(error)}. Get the file again."
        ) from error
    try:
        validate_params(est)
        check_fitted(fitted)
        state = {**est.get_params(deep=False), **fitted}
        if "metadata_requests" in settings:
            state[METADATA_REQUEST] = _metadata_request(cls, settings["metadata_requests"])
    except ModelFileError:
        raise
    except SENSELESS as error:
        raise ModelFileError(
            f"{SETTINGS} does not describe a fitted estimator: {short(error)}"
        ) from error
    est = cls.__new__(cls)
    est.__setstate__(state)
    return est


def _methods_with_requests(request):
    return [name for name, value in vars(request).items() if hasattr(value, "requests")]


def _metadata_request(cls, requests):
    request = MetadataRequest(owner=cls.__name__)
    for method, values in requests.items():
        require(method in _methods_with_requests(request), f"requests of {method!r:.40}")
        for param, alias in values.items():
            getattr(request, method).add_request(param=param, alias=alias)
    return request


# ---------------------------------------------------------------------- hub


def push_to_hub(est, repo_id, *, metrics, commit_message, private, token):
    """Upload a saved model; see `ImplicitRewardEstimator.push_to_hub`."""
    from huggingface_hub import HfApi

    files = to_files(est, metrics)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        # One commit, so that a download never mixes two models.
        return api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message
        ).commit_url


def from_pretrained(cls, repo_id, *, revision, token, cache_dir):
    """Download a saved model; see `ImplicitRewardEstimator.from_pretrained`."""
    if Path(repo_id).expanduser().exists():
        if revision is not None:
            raise ImplicitRMError(
                f"{str(repo_id)!r} is a local path, which does not have a revision. Leave revision "
                "out."
            )
        return load(cls, repo_id)
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        str(repo_id),
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        allow_patterns=[MANIFEST, SETTINGS, ARRAYS],
    )
    try:
        files = read_folder(folder, follow_links=True)  # the cache of the hub consists of links
    except ModelFileError as error:
        raise ModelFileError(f"{str(repo_id)!r} cannot be loaded: {error}") from error.__cause__
    return from_files(cls, files, str(repo_id))
