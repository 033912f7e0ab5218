"""The errors that callers can cause, and mend. Each message says what came, what was expected and how to mend it."""


class InterpError(ValueError):
    """Anything the caller can put right. The command line prints it as one line and exits with code 2."""


class ModelError(InterpError):
    """A model that cannot be found, loaded, or served by a method; tokens or inputs it cannot take."""


class HookError(InterpError):
    """A hook name that does not exist, or an edit that cannot act."""


class CorpusError(InterpError):
    """Text that cannot be found, read, tokenised or packed."""


class StoreError(InterpError):
    """An activation store that is broken, half-written, or made for something else."""


class ConfigError(InterpError):
    """A flag, file or option that is unknown or out of range."""


class TrainingError(InterpError):
    """Training that cannot start or cannot go on."""


class ReportError(InterpError):
    """A claim, table, figure or view that cannot be reported."""
