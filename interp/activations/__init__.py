"""Activations: `harvest` them from a model in one pass, keep them in an `ActivationStore`, look at them with `summary`.

Floor 4: may import errors, stats, measurement, streaming, text and models. Must not know: heads, mlp, sae, probes, reports.
"""

from interp.activations.batch import ActivationBatch
from interp.activations.collect import harvest_to_store
from interp.activations.harvest import harvest
from interp.activations.log import Header
from interp.activations.pairs import TokenPairs
from interp.activations.store import ActivationStore
from interp.activations.summary import Summary, contents, summarise, summary
from interp.activations.writer import StoreWriter

__all__ = [
    "ActivationBatch",
    "ActivationStore",
    "Header",
    "StoreWriter",
    "Summary",
    "TokenPairs",
    "contents",
    "harvest",
    "harvest_to_store",
    "summarise",
    "summary",
]
