"""One shard: a safetensors file with the rows of every hook, and the tokens beside them.

Must not know: the directory's log and lock, models.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import xxhash
from torch import Tensor

from interp.activations.batch import ActivationBatch
from interp.activations.log import ShardRecord
from interp.errors import StoreError

ROW_TENSORS = {"tokens": "rows/tokens", "document": "rows/document", "position": "rows/position"}
"""Field of ActivationBatch → tensor name; hook names have no slash, so none can collide."""
_HASHED_AT_ONCE = 1 << 24
_SAFETENSORS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32"}


def encode(batches: list[ActivationBatch], hooks: tuple[str, ...]) -> tuple[bytes, dict[str, tuple[str, tuple[int, ...]]]]:
    """The bytes of a shard, and its tensors' dtypes and shapes."""
    tensors = {hook: torch.cat([batch.activations[hook] for batch in batches]) for hook in hooks}
    tensors |= {name: torch.cat([getattr(batch, field) for batch in batches]).int() for field, name in ROW_TENSORS.items()}
    layout = {name: (_SAFETENSORS[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    return safetensors.torch.save(tensors), layout


def checksums(data: bytes) -> dict[str, str]:
    """sha256, which vouches for a shard, and xxh3, fast enough to check it at every opening."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "xxh3": xxhash.xxh3_128_hexdigest(data)}


def check_size(directory: Path, record: ShardRecord) -> None:
    """Raises StoreError when the shard is missing or of another size than the log says."""
    file = directory / record.name
    if not file.is_file():
        raise StoreError(f"{file} is missing: the log commits it; put it back or harvest again")
    if file.stat().st_size != record.bytes:
        raise StoreError(f"{file} has {file.stat().st_size} bytes, the log says {record.bytes}; put it back or harvest again")


def check_content(directory: Path, record: ShardRecord, *, algorithm: str) -> None:
    """Raises StoreError unless the shard's bytes are those that were committed. algorithm: "sha256" or "xxh3"."""
    check_size(directory, record)
    state = hashlib.sha256() if algorithm == "sha256" else xxhash.xxh3_128()
    file = directory / record.name
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start in range(0, len(data), _HASHED_AT_ONCE):
            state.update(data[start : start + _HASHED_AT_ONCE])
    if state.hexdigest() != getattr(record, algorithm):
        raise StoreError(f"{file} is damaged: its {algorithm} is not the one in the log; put it back or harvest again")


def load(directory: Path, record: ShardRecord) -> dict[str, Tensor]:
    """The shard's tensors, memory-mapped. Raises StoreError when the bytes, names, dtypes or shapes are not those in the log."""
    check_content(directory, record, algorithm="xxh3")
    file = directory / record.name
    try:
        with safetensors.safe_open(file, framework="pt") as shard:
            names = shard.keys()
            layout = {name: (shard.get_slice(name).get_dtype(), tuple(shard.get_slice(name).get_shape())) for name in names}
            if layout != record.tensors:
                odd = sorted(name for name in layout | record.tensors if layout.get(name) != record.tensors.get(name))
                pairs = "; ".join(
                    f"{name}: {layout.get(name)} in the file, {record.tensors.get(name)} in the log" for name in odd
                )
                raise StoreError(f"{file} does not hold what the log says: {pairs}")
            return {name: shard.get_tensor(name) for name in layout}
    except safetensors.SafetensorError as error:
        raise StoreError(f"{file} cannot be read ({error}); put it back or harvest again") from None
