"""Planted instances on disk: one to open again, and one's rows and codes as plain arrays that any library reads.

Nothing is unpickled.

Must not know: autoencoders, training.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save as dump_tensors
from torch import Tensor

from interp.errors import StoreError
from interp.sae.synthetic import Forest, Planted


def save(truth: Planted, path: str | Path) -> Path:
    """Writes an instance as one safetensors file, what is no tensor as JSON in its header. Returns the path.

    Raises StoreError for a path that cannot be written.
    """
    path = Path(path)
    tensors = {name: value.cpu().contiguous() for name, value in vars(truth).items() if isinstance(value, Tensor)}
    plain = {"noise": truth.noise, "forest": None if truth.forest is None else dataclasses.asdict(truth.forest)}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(dump_tensors(tensors, metadata={"planted": json.dumps(plain)}))
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}; choose another path or free some space") from error
    return path


def load(path: str | Path) -> Planted:
    """Reads an instance that `save` wrote. Raises StoreError for a file that is missing, cut off or something else."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})["planted"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        forest = plain.pop("forest")
        return Planted(**tensors, **plain, forest=None if forest is None else Forest(**forest))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; check the path") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} is no planted instance ({error!r}); save one there again") from None


@torch.no_grad()
def export(truth: Planted, directory: str | Path, *, rows: int, count: int, seed: int = 0) -> Path:
    """Writes the first `count` batches of a stream for other libraries, in a directory made if missing, which it returns.

    rows.npy: [row d], in the order of `truth.batches(rows, count, seed=seed)`. codes.npz: [row feature], sparse, as
    scipy.sparse.load_npz reads it. dictionary.npy: [feature d]. All are float32.

    Raises StoreError for a directory that cannot be written.
    """
    from scipy import sparse  # heavy, and needed for this alone

    folder, (features, d) = Path(directory), truth.dictionary.shape
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "dictionary.npy", truth.dictionary.cpu().numpy())
        out = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (rows * count, d))
        parts = []
        for index in range(count):
            x, codes = truth.draw(rows, truth.generator(seed, index))
            out[index * rows : (index + 1) * rows] = x.cpu().numpy()
            cells = (codes.row.cpu().numpy(), codes.feature.cpu().numpy())
            parts.append(sparse.csr_matrix((codes.value.cpu().numpy(), cells), shape=(rows, features)))
        out.flush()
        sparse.save_npz(folder / "codes.npz", sparse.vstack(parts, format="csr"))
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; choose another directory or free some space") from error
    return folder
