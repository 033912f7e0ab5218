"""Help with misspelt names: hooks, labels, flags, experiments, all by one rule."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean a, b?)` with up to three names close to `name`, or nothing when none is close.

    A known name that begins with `name` counts as close, however long it is; capitals and leading dashes do not count.
    """
    plain = {each: each.lower().lstrip("-") for each in known}
    wanted = name.lower().lstrip("-")
    begun = [each for each, word in plain.items() if wanted and word.startswith(wanted)]
    close = difflib.get_close_matches(wanted, list(dict.fromkeys(plain.values())), n=3, cutoff=0.6)
    near = dict.fromkeys([*begun, *(each for word in close for each in plain if plain[each] == word)])
    return f" (did you mean {', '.join(list(near)[:3])}?)" if near else ""
