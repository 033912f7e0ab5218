"""What the activations at one hook look like: norms, outlier dimensions, kurtosis, PCA spectrum, how far they point one way.

One pass, float64 sums, memory of a few d × d matrices. Must not know: models, text, figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.store import ActivationStore
from interp.errors import StoreError
from interp.streaming import Covariance, CovarianceResult, Histogram, Moments, MomentsResult

OUTLIER_RATIO = 5.0
"""A dimension is an outlier when its root mean square is at least this many times the median dimension's."""
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Summary:
    """Three tables.

    overview: quantity, value. Norms are Euclidean, in the activations' own unit. `cosine to mean` is the mean over rows of
    cos(x, mean of x). `participation ratio` is (Σλ)² / Σλ² over the eigenvalues λ of the covariance: how many directions the
    variance fills.
    dimensions: one row per dimension, with mean, std, rms, rms over the median rms, kurtosis (3 for a Gaussian) and whether it
    is an outlier (OUTLIER_RATIO).
    spectrum: one row per principal component, largest first, with its variance, its share of the total and the share up to it.
    """

    overview: pd.DataFrame
    dimensions: pd.DataFrame
    spectrum: pd.DataFrame


def contents(store: ActivationStore) -> pd.DataFrame:
    """What a store holds and where it comes from, as quantity and value (text), one row per hook among them."""
    header = store.header
    rows = {
        "path": store.path,
        "state": "finished" if store.finished else "half-written",
        "rows": f"{store.rows:,}",
        "size": f"{store.bytes / 2**20:,.1f} MiB",
        **{hook: f"{' × '.join(str(n) for n in shape)} {header.dtype}" for hook, shape in header.shapes.items()},
        "model": f"{header.model} ({header.model_fingerprint[:12]})",
        "tokenizer": (header.tokenizer_fingerprint or "none")[:12],
        "corpus": f"{header.corpus} ({header.corpus_revision[:12]})",
        "context": header.context,
        **header.packing,
        "max tokens": "all" if header.max_tokens is None else f"{header.max_tokens:,}",
    }
    return pd.DataFrame({"quantity": list(rows), "value": [str(value) for value in rows.values()]})


def summary(store: ActivationStore, hook: str) -> Summary:
    """The summary of one hook of a store. Raises StoreError for a hook that the store does not hold."""
    return summarise(batch.activations[hook] for batch in store.sequential(hook))


def summarise(batches: Iterable[Float[Tensor, "_ d"]]) -> Summary:
    """The summary of any rows; how they are split into batches makes no difference beyond rounding. Raises StoreError when
    there are none."""
    moments, covariance, direction, norm, norms = Moments(), Covariance(), Moments(), Moments(), Histogram()
    for batch in batches:
        values = batch.double()
        length = values.norm(dim=1)
        moments.update(values)
        covariance.update(values)
        direction.update(values / length.clamp(min=torch.finfo(torch.float64).tiny)[:, None])
        norm.update(length[:, None])
        norms.update(length)
    try:
        per_dimension, spread = moments.compute(), covariance.compute()
    except ValueError:
        raise StoreError("there are no rows to summarise") from None
    spectrum = _spectrum(spread)
    dimensions = _dimensions(per_dimension)
    mean = spread.mean
    overview = {
        "rows": spread.n,
        "dimensions": len(mean),
        "mean norm": float(norm.compute().mean),
        **{f"norm, quantile {q}": value for q, value in zip(QUANTILES, norms.compute(list(QUANTILES)), strict=True)},
        "norm of mean": float(mean.norm()),
        "cosine to mean": float(direction.compute().mean @ mean / mean.norm()),
        "outlier dimensions": int(dimensions["outlier"].sum()),
        "participation ratio": _participation(spectrum["variance"].to_numpy()),
        "components for 90 % of variance": int((spectrum["cumulative"] < 0.9).sum()) + 1,
    }
    return Summary(
        pd.DataFrame({"quantity": list(overview), "value": [float(value) for value in overview.values()]}), dimensions, spectrum
    )


def _spectrum(spread: CovarianceResult) -> pd.DataFrame:
    variance = torch.linalg.eigvalsh(spread.covariance).flip(0).clamp(min=0).cpu().numpy()
    share = variance / variance.sum() if variance.sum() > 0 else np.full_like(variance, np.nan)
    return pd.DataFrame(
        {"component": np.arange(1, len(variance) + 1), "variance": variance, "share": share, "cumulative": share.cumsum()}
    )


def _participation(variance: np.ndarray) -> float:
    return float(variance.sum() ** 2 / np.square(variance).sum()) if variance.any() else float("nan")


def _dimensions(result: MomentsResult) -> pd.DataFrame:
    mean, variance = result.mean.cpu().numpy(), result.variance.cpu().numpy()
    rms = np.sqrt(mean**2 + variance)
    median = float(np.median(rms))
    ratio = np.divide(rms, median, out=np.where(rms > 0, np.inf, 0.0), where=median > 0)
    return pd.DataFrame(
        {
            "dimension": np.arange(len(mean)),
            "mean": mean,
            "std": np.sqrt(variance),
            "rms": rms,
            "rms over median": ratio,
            "kurtosis": result.kurtosis.cpu().numpy(),
            "outlier": ratio >= OUTLIER_RATIO,
        }
    )
