"""The checker that `jaxtyping`'s import hook puts around every function of `interp` while tests run."""

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float, as for pyright


def checked(thing):
    """`thing` with its annotations checked at every call; as it is where one is a protocol that cannot be checked at run time."""
    try:
        return _check(thing)
    except BeartypeDecorHintPep3119Exception:
        return thing
