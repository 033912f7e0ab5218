"""`ActivationBatch`: rows of activations, each with the token it belongs to.

Must not know: where the rows come from, and what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ActivationBatch:
    """One row per text token; row i of every tensor belongs to the same token.

    activations: hook name → activation vectors; heads are laid side by side, [head d_head] → [d].
    tokens: token ids. document: index of the document in its corpus. position: index of the token in its document.
    shapes: hook name → the shape that a row had in the model, such as (8, 64) for 8 heads of 64.
    """

    activations: dict[str, Float[Tensor, "row _"]]
    tokens: Int[Tensor, " row"]
    document: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    shapes: dict[str, tuple[int, ...]]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def head(self, n: int) -> ActivationBatch:
        """The first n rows."""
        activations = {hook: values[:n] for hook, values in self.activations.items()}
        return replace(
            self, activations=activations, tokens=self.tokens[:n], document=self.document[:n], position=self.position[:n]
        )
