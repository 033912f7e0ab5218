"""Attention written down by hand does what it is written to do."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from interp.errors import ModelError
from interp.models.closed_forms import previous_token_head, with_positions
from interp.models.positions import sinusoids

Form = Literal["sinusoidal", "rotary"]
FORMS: tuple[Form, ...] = ("sinusoidal", "rotary")


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("length", [2, 9, 300])
def test_the_head_writes_the_token_before_at_every_length(kind: Form, length: int) -> None:
    tokens = torch.randint(5, (3, length), generator=torch.Generator().manual_seed(0))
    written = previous_token_head(kind, 5, 16)(with_positions(tokens, 5, sinusoids(length, 16)))
    assert torch.equal(written[:, 1:, :5].argmax(-1), tokens[:, :-1])
    assert torch.equal(written[:, 0, :5].argmax(-1), tokens[:, 0])
    assert not written[..., 5:].any()


def test_a_rotary_head_does_not_read_the_table_and_a_sinusoidal_one_reads_nothing_else() -> None:
    tokens = torch.randint(5, (3, 20), generator=torch.Generator().manual_seed(0))
    wanted, table = tokens[:, :-1], sinusoids(20, 16)
    survival: dict[Form, bool] = {"rotary": True, "sinusoidal": False}
    for kind, survives in survival.items():
        written = previous_token_head(kind, 5, 16)(with_positions(tokens, 5, table.flip(0)))
        assert torch.equal(written[:, 1:, :5].argmax(-1), wanted) == survives


def test_tokens_that_do_not_fit_and_rows_that_are_too_long_are_refused() -> None:
    with pytest.raises(ModelError, match="d_vocab=20 tokens do not fit a head of width d_position=16; use 20 or more"):
        previous_token_head("rotary", 20, 16)
    with pytest.raises(ModelError, match="a row of 9 tokens is longer than the table of 8 positions; cut the rows"):
        with_positions(torch.zeros(1, 9, dtype=torch.long), 5, sinusoids(8, 16))
