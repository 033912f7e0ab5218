"""`harvest_to_store`: a corpus through a model to a store on disk, resumable. What `interp harvest` does.

Must not know: how rows are stored, and what is done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from interp.activations.batch import ActivationBatch
from interp.activations.harvest import Runnable, harvest, side
from interp.activations.log import HEADER_FILE, Header
from interp.activations.store import ActivationStore
from interp.activations.writer import StoreWriter
from interp.errors import CorpusError, HookError, StoreError
from interp.text import Corpus, resolve
from interp.text.packing import BosPolicy, Packing, pack
from interp.text.tokenizer import Tokenizer


@runtime_checkable
class HarvestModel(Runnable, Protocol):
    """What this module asks of a model beside running; `models.Model` is one."""

    tokenizer: Tokenizer | None
    n_ctx: Any  # an int; `Any`, since Model computes it by a descriptor, which no checker takes for an attribute
    d_vocab: Any

    @property
    def fingerprint(self) -> str: ...


def harvest_to_store(
    model: HarvestModel,
    corpus: Corpus | str | Path | Iterable[Any],
    *,
    hooks: Sequence[str],
    out: Path | str,
    context: int | None = None,
    batch: int = 8,
    bos: BosPolicy = "row",
    dtype: str = "float32",
    max_tokens: int | None = None,
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ActivationStore:
    """Harvests `hooks` over a corpus into a new store at `out`, and opens it.

    corpus: a Corpus, or anything `text.resolve` takes. context: tokens per row, by default the model's n_ctx. batch: rows per
    run of the model.
    dtype: of the stored activations. max_tokens: stop after so many text tokens. progress: called after each batch with the
    tokens done so far, those of an earlier, interrupted harvest included.
    resume: go on at the first batch that an interrupted harvest has not committed; where nothing is there yet it starts, and
    where the same harvest is finished it only opens the store.

    Raises HookError, CorpusError and StoreError as `harvest`, `pack` and `StoreWriter` do, and HookError for rows of targets,
    which a corpus does not have; an interrupt leaves a store that can be resumed.
    """
    if model.tokenizer is None:
        raise CorpusError(f"{model.name} has no tokenizer to read text with; load the model with one")
    if max_tokens is not None and max_tokens < 1:
        raise StoreError(f"max_tokens={max_tokens}: a harvest takes at least one token; leave it out for the whole corpus")
    source = corpus if isinstance(corpus, Corpus) else resolve(corpus)
    packing = Packing(context=_context(model, context), batch=batch, bos=bos)
    header = _header(model, source, tuple(hooks), packing, dtype=dtype, max_tokens=max_tokens)
    harvest(model, (), hooks)  # a misspelt hook must not leave an empty store behind
    if side(model, hooks) == "target":
        raise HookError(
            f"{hooks[0]} has rows for the target's tokens, and a corpus has no targets; "
            "use ActivationStore.write(path, harvest(model, pairs, hooks), header)"
        )
    if resume and (finished := _finished(Path(out), header)):
        return finished
    with StoreWriter(out, header, resume=resume) as writer:
        tokens = pack(source.documents(), model.tokenizer, d_vocab=model.d_vocab, **asdict(packing))
        done = writer.rows_committed
        rest = harvest(model, islice(tokens, writer.batches_committed, None), hooks)
        for rows in _up_to(rest, None if max_tokens is None else max_tokens - done):
            writer.append(rows)
            done += len(rows)
            if progress is not None:
                progress(done)
    return ActivationStore.open(out, model=model)


def _context(model: HarvestModel, context: int | None) -> int:
    if context is not None and context > model.n_ctx:
        raise CorpusError(
            f"context={context} is longer than the {model.n_ctx} tokens that {model.name} takes; use at most {model.n_ctx}"
        )
    return model.n_ctx if context is None else context


def _header(
    model: HarvestModel, corpus: Corpus, hooks: tuple[str, ...], packing: Packing, *, dtype: str, max_tokens: int | None
) -> Header:
    assert model.tokenizer is not None
    recorded = asdict(packing)
    return Header(
        model=model.name,
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer.fingerprint,
        hooks=hooks,
        dtype=dtype,
        context=recorded.pop("context"),
        packing=recorded,
        corpus=corpus.name,
        corpus_revision=corpus.revision,
        max_tokens=max_tokens,
    )


def _finished(path: Path, header: Header) -> ActivationStore | None:
    """The store, if it is there, finished and the one asked for."""
    if not (path / HEADER_FILE).exists():
        return None
    store = ActivationStore.open(path, unfinished=True)
    if store.finished and (differences := store.header.differences(header)):
        raise StoreError(f"{path} holds another harvest: {'; '.join(differences)}; write to another directory")
    return store if store.finished else None


def _up_to(batches: Iterable[ActivationBatch], rows: int | None) -> Iterator[ActivationBatch]:
    """Batches until `rows` rows have come, the last one cut to fit."""
    for batch in batches:
        yield batch if rows is None else batch.head(rows)
        if rows is not None:
            rows -= len(batch)
            if rows <= 0:
                return
