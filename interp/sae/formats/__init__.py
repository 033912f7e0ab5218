"""Autoencoders on disk, in three layouts: SAELens's, which is ours too, dictionary_learning's and sparsify's.

saelens.py              cfg.json + sae_weights.safetensors      common.py    checks, atomic writes, the tensors between layouts
dictionary_learning.py  config.json + ae.pt                     foreign.py   activation functions that only files bring
sparsify.py             cfg.json + sae.safetensors

Scales are folded on saving, so files need no normaliser. Our own facts (model fingerprint, hook, training) travel as metadata;
`weights_sha256` there lets a cut-off or swapped weight file be noticed. The configuration is put in place last: a directory
without it is half-written. Nothing is unpickled freely.

Must not know: models (only their fingerprints), training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from interp.errors import StoreError
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.formats import common, dictionary_learning, saelens, sparsify
from interp.sae.formats.common import Saved

__all__ = ["LAYOUTS", "Layout", "Saved", "check_made_for", "convert", "layout_of", "load", "save"]

Layout = Literal["saelens", "dictionary_learning", "sparsify"]
LAYOUTS = {"saelens": saelens, "dictionary_learning": dictionary_learning, "sparsify": sparsify}

SPARSITY = "sparsity.safetensors"
"""SAELens's file of firing frequencies: log10(share + 1e-10). It may lie beside any layout."""


def save(
    sae: SparseAutoencoder,
    directory: str | Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    density: Float[Tensor, "d_sae"] | None = None,
    layout: Layout = "saelens",
) -> Path:
    """Writes `sae`, folded, into `directory` (made if missing) and returns it. What was there stays until all is written.

    metadata: JSON-able facts. SAELens knows `model_name`, `hook_name`, `hook_name_out`, `context_size`, `prepend_bos`,
    `dataset_path`, `training_architecture` and `training_architecture_details` (`matryoshka_widths` lies there); `load` checks
    `model_fingerprint` and `hook_name`.
    density: share of the tokens on which each latent fires.
    layout: "saelens" takes every autoencoder; the others those that their libraries have.

    Raises StoreError for what the layout has no name for, metadata that is not JSON, a directory that holds another layout, or a
    path that cannot be written.
    """
    folder = Path(directory)
    there = [name for name in _found(folder) if name != layout]
    if there:
        raise StoreError(f"{folder} holds an autoencoder of layout {there[0]!r}; choose another directory for {layout!r}")
    scale = sae.scale.tolist()
    facts = {"training_scale": scale, **(metadata or {})} if scale == 1 else {**(metadata or {}), "training_scale": scale}
    files, config = LAYOUTS[layout].files(sae.folded(), facts)
    if density is not None:
        files[SPARSITY] = common.dump({"sparsity": (density.double() + 1e-10).log10().float()})
    common.write(folder, files, config, LAYOUTS[layout].CONFIG)
    return folder


def load(
    directory: str | Path,
    *,
    model_fingerprint: str | None = None,
    hook: str | None = None,
    input_scale: float | None = None,
) -> Saved:
    """Reads an autoencoder in any of the layouts, which it tells apart by their files.

    model_fingerprint, hook: what the caller is about to use it on; checked against the metadata where that names them.
    input_scale: what inputs were multiplied by in training, for SAELens files that want it and do not have it.

    Raises StoreError for missing, cut-off, hostile or contradictory files, architectures that are not read, and another model or
    hook.
    """
    folder = Path(directory)
    layout = layout_of(folder)
    saved = saelens.read(folder, input_scale=input_scale) if layout == "saelens" else LAYOUTS[layout].read(folder)
    check_made_for(folder, saved.metadata, model_fingerprint=model_fingerprint, hook=hook)
    return Saved(saved.sae, saved.metadata, _density(folder, saved.sae.d_sae))


def convert(source: str | Path, target: str | Path, *, layout: Layout, input_scale: float | None = None) -> Path:
    """Reads the autoencoder in `source` and writes it to `target` in another layout, with its metadata. Raises StoreError."""
    saved = load(source, input_scale=input_scale)
    return save(saved.sae, target, metadata=saved.metadata, density=saved.density, layout=layout)


def layout_of(directory: str | Path) -> str:
    """Which layout a directory has. Raises StoreError for none or several, naming the subdirectories that have one."""
    folder = Path(directory)
    found = _found(folder)
    if len(found) > 1:
        raise StoreError(f"{folder} holds autoencoders of the layouts {', '.join(found)}; keep each in a directory of its own")
    if found:
        return found[0]
    if any((folder / module.CONFIG).is_file() for module in LAYOUTS.values()):
        return "dictionary_learning" if (folder / dictionary_learning.CONFIG).is_file() else "saelens"
    expected = " or ".join(f"{module.CONFIG} and {module.WEIGHTS} ({name})" for name, module in LAYOUTS.items())
    below = sorted(each.name for each in folder.iterdir() if each.is_dir() and _found(each)) if folder.is_dir() else []
    hint = f"; it has them in {', '.join(below[:5])}" if below else ""
    raise StoreError(f"{folder} holds no autoencoder: expected {expected}{hint}")


def _found(folder: Path) -> list[str]:
    return [name for name, module in LAYOUTS.items() if (folder / module.WEIGHTS).is_file()]


def _density(folder: Path, d_sae: int) -> Tensor | None:
    path = folder / SPARSITY
    if not path.is_file():
        return None
    tensors = common.read_tensors(path, SPARSITY, None)
    common.check_shapes(path, "the autoencoder beside it", tensors, {"sparsity": (d_sae,)})
    return (10 ** tensors["sparsity"].double() - 1e-10).clamp_min(0).float()


def check_made_for(
    folder: Path, metadata: Mapping[str, Any], *, model_fingerprint: str | None = None, hook: str | None = None
) -> None:
    """Raises StoreError where the metadata name another model or hook than the one it is about to be used on."""
    made = (metadata.get("model_fingerprint"), metadata.get("hook_name"))
    for what, ours, theirs in (("model", model_fingerprint, made[0]), ("hook", hook, made[1])):
        if ours is not None and theirs is not None and ours != theirs:
            raise StoreError(
                f"{folder} was trained on {what} {theirs}, not on {ours}; use it there, or train one for this {what}"
            )
