"""Autoencoders on the Hugging Face hub: pulled in any layout that `formats` reads, pushed in ours.

A repository holds one autoencoder, or several in folders, as SAELens's releases do. Needs the extra `hub`.

Must not know: models, training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, StoreError
from interp.names import did_you_mean
from interp.sae import formats
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.formats.saelens import SCALER, WHITENING

FILES = sorted(
    {formats.SPARSITY, SCALER, WHITENING}.union(*({module.CONFIG, module.WEIGHTS} for module in formats.LAYOUTS.values()))
)
"""Names of the files that make up an autoencoder; nothing else is fetched."""

_UNREACHABLE = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError", "ConnectTimeout")
T = TypeVar("T")


class Api(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str: ...

    def list_repo_files(self, repo_id: str, *, revision: str | None) -> list[str]: ...

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def upload_folder(self, *, repo_id: str, folder_path: str, path_in_repo: str, revision: str | None) -> Any: ...


def pull(
    repo: str, *, folder: str = "", revision: str | None = None, input_scale: float | None = None, api: Api | None = None
) -> formats.Saved:
    """The autoencoder in `folder` of a repository "org/name"; only its own files are fetched, into the hub's cache.

    revision: a branch, tag or commit. input_scale: as for `formats.load`. api: another `HfApi`, with a token or endpoint.

    Raises StoreError when the hub cannot be reached or has no such repository, for a folder that holds no autoencoder (with
    those that do) and for files that `formats.load` refuses; ConfigError for a folder that leads out of the repository.
    """
    inside, client = _inside(folder), api or _client()
    patterns = [escape(str(PurePosixPath(inside, name))) for name in FILES]
    root = _asked(repo, lambda: client.snapshot_download(repo, revision=revision, allow_patterns=patterns))
    place = Path(root, inside)
    if not any((place / module.WEIGHTS).is_file() for module in formats.LAYOUTS.values()):
        there = _asked(repo, lambda: client.list_repo_files(repo, revision=revision))
        raise StoreError(f"{repo} has no autoencoder in {inside or 'its root'}{_elsewhere(there, inside)}")
    return formats.load(place, input_scale=input_scale)


def push(
    sae: SparseAutoencoder,
    repo: str,
    *,
    folder: str = "",
    metadata: Mapping[str, Any] | None = None,
    density: Float[Tensor, "d_sae"] | None = None,
    private: bool = True,
    revision: str | None = None,
    api: Api | None = None,
) -> str:
    """Saves `sae` into `folder` of a repository "org/name", made if missing, as one commit, and returns what the hub says of it.

    What is pushed has been read back first. Raises StoreError when the hub refuses or cannot be reached, and as `formats.save`.
    """
    inside, client = _inside(folder), api or _client()
    with tempfile.TemporaryDirectory() as local:
        formats.load(formats.save(sae, local, metadata=metadata, density=density))
        _asked(repo, lambda: client.create_repo(repo, private=private, exist_ok=True))
        where = inside or "."
        return str(
            _asked(repo, lambda: client.upload_folder(repo_id=repo, folder_path=local, path_in_repo=where, revision=revision))
        )


def _client() -> Api:
    try:
        import huggingface_hub
    except ImportError as error:
        raise StoreError("the hub needs huggingface_hub, which is not installed; pip install 'interp[hub]'") from error
    return huggingface_hub.HfApi()


def _inside(folder: str) -> str:
    """The folder as a path within a repository. Raises ConfigError for one that leads out of it."""
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts or "\\" in folder or "\0" in folder:
        raise ConfigError(f"folder={folder!r} leads out of the repository; give a folder within it, as 'layer_3/width_16k'")
    return "" if str(path) == "." else str(path)


def _elsewhere(there: list[str], folder: str) -> str:
    """`; it has them in …`, the nearest name first."""
    weights = {module.WEIGHTS for module in formats.LAYOUTS.values()}
    homes = sorted({str(path.parent) for path in map(PurePosixPath, there) if path.name in weights})
    if not homes:
        return ""
    return f"{did_you_mean(folder, homes)}; it has them in {', '.join(homes[:5])}{' …' if len(homes) > 5 else ''}"


def _asked(repo: str, question: Callable[[], T]) -> T:
    """The hub's answer. Raises StoreError with its reason in one line."""
    try:
        return question()
    except Exception as error:  # whatever the hub's client and the HTTP library of the day raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if type(error).__name__ in _UNREACHABLE:
            reason = "the hub could not be reached; go online, or load from a folder with interp.sae.formats.load"
        raise StoreError(f"{repo}: {reason}") from error
