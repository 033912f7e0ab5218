"""RASP programs whose circuits are known: those of Weiss et al. (2021, arXiv:2106.06981, section 5) and of tracr (Lindner et al.
2023, arXiv:2301.05062), in the language of `interp.models.rasp`.

Must not know: tensors, how programs become weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from interp.models.rasp import Linear, Map, Mean, Pick, Program, Select, Width, always, before, equal, up_to


@dataclass(frozen=True, kw_only=True)
class Task:
    """A program with the words and the length that it is tried on, and what it computes in one sentence."""

    program: Program
    vocabulary: tuple[str, ...]
    length: int
    description: str


_EVERYWHERE = Select("indices", "indices", always)


def _standing(token: str, index: int) -> tuple[str, int]:
    return token, index


def _earlier_twin(key: tuple[str, int], query: tuple[str, int]) -> bool:
    """Whether the key is the same token at an earlier position."""
    return key[0] == query[0] and key[1] < query[1]


HIST = Program(count=Width(Select("tokens", "tokens", equal)))

REVERSE = Program(
    length=Width(_EVERYWHERE),
    opposite=Map(lambda length, index: length - 1 - index, "length", "indices"),
    reversed=Pick(Select("indices", "opposite", equal), "tokens"),
)

SORT = Program(
    standing=Map(_standing, "tokens", "indices"),
    rank=Width(Select("standing", "standing", before)),
    sorted=Pick(Select("rank", "indices", equal), "tokens"),
)

FRAC_PREVS = Program(
    is_x=Map(lambda token: token == "x", "tokens"),
    share_of_x=Mean(Select("indices", "indices", up_to), "is_x"),
)

MOST_FREQ = Program(
    count=Width(Select("tokens", "tokens", equal)),
    standing=Map(_standing, "tokens", "indices"),
    earlier=Width(Select("standing", "standing", _earlier_twin)),
    shown=Map(lambda token, earlier: "-" if earlier else token, "tokens", "earlier"),
    order=Map(lambda count, earlier, index: (bool(earlier), -count, index), "count", "earlier", "indices"),
    rank=Width(Select("order", "order", before)),
    by_frequency=Pick(Select("rank", "indices", equal), "shown"),
)

BRACKETS = Program(
    is_open=Map(lambda token: token == "(", "tokens"),
    is_close=Map(lambda token: token == ")", "tokens"),
    opens=Mean(Select("indices", "indices", up_to), "is_open"),
    closes=Mean(Select("indices", "indices", up_to), "is_close"),
    height=Linear(opens=1, closes=-1),
    below=Map(lambda height: height < 0, "height"),
    times_below=Mean(_EVERYWHERE, "below"),
    sign=Map(lambda token: 1 if token == "(" else -1, "tokens"),
    total=Mean(_EVERYWHERE, "sign"),
    dips=Map(lambda share: share > 0, "times_below"),
    even=Map(lambda total: total == 0, "total"),
    balanced=Map(lambda dips, even: even and not dips, "dips", "even"),
)

TASKS = {
    "hist": Task(program=HIST, vocabulary=tuple("abc"), length=5, description="how often each token occurs in the input"),
    "reverse": Task(program=REVERSE, vocabulary=tuple("abc"), length=5, description="the input from its end to its start"),
    "sort": Task(program=SORT, vocabulary=tuple("abc"), length=5, description="the tokens in the order of the alphabet"),
    "frac_prevs": Task(
        program=FRAC_PREVS, vocabulary=tuple("xyz"), length=5, description="the share of x among the tokens so far"
    ),
    "most_freq": Task(
        program=MOST_FREQ,
        vocabulary=tuple("abc"),
        length=5,
        description="each token of the input once, the most frequent first, then dashes",
    ),
    "brackets": Task(
        program=BRACKETS, vocabulary=tuple("()"), length=6, description="whether the brackets are balanced, at every position"
    ),
}
"""The programs by name, at sizes at which every input can be tried."""
