"""The command line: `interp COMMAND …`. Finds the command, runs it, prints its answer, and turns errors into one line each.

Exit codes: 0 all well · 1 a claim failed, or a check did · 2 bad input · 3 the program itself failed (with a traceback) ·
130 interrupted.

Must not know: what commands do. Nothing heavy is imported before one is chosen.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp import __version__
from interp.errors import ConfigError, InterpError

COMMANDS = {
    "run": "run an experiment, by ID or name",
    "list": "the experiments there are",
    "report": "run all experiments, quick form, and build the index of their reports",
    "show": "what a run found: its claims",
    "compare": "two runs side by side",
    "rerun": "run again what a run folder says, and compare",
    "index": "rebuild the index of all reports",
    "harvest": "run a model over text and store its activations",
    "activations": "what is in a store of activations",
    "probe": "probes on stored activations, as a report",
    "heads": "what the attention heads of a model look for, write and cost, as a report",
    "circuit": "which edges of a model carry what it does on some inputs, as a report",
    "neurons": "what the MLP neurons of a model read, write and store, as a report",
    "train-sae": "train sparse autoencoders, transcoders or crosscoders",
    "eval-sae": "how good an autoencoder is, beside controls, as a report",
    "features": "what the features of an autoencoder respond to and write, as a report",
    "convert-sae": "an autoencoder's files in another library's layout",
    "bench": "how fast autoencoders train here",
    "doctor": "what is installed here, and what is missing",
}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True)
class Answer:
    """What a command has to say, and its exit code."""

    text: str
    code: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `interp` with these arguments (the process's own when none are given) and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return answered(lambda: _dispatch(arguments))


def answered(command: Callable[[], Answer]) -> int:
    """Prints the command's answer, or one line on stderr for what the caller can mend; returns the exit code."""
    try:
        answer = command()
        print(answer.text, flush=True)
    except InterpError as error:
        return _fault(str(error), 2)
    except KeyboardInterrupt:
        return _fault("interrupted; what was finished before is kept", 130)
    except BrokenPipeError:  # whoever read our output has heard enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in _NO_ROOM:
            return _fault(f"cannot go on writing: {error}; make room or choose another --out; what was finished is kept", 2)
        traceback.print_exc()
        return 3
    except Exception:  # any other fault is ours: show where it is, with a code of its own
        traceback.print_exc()
        return 3
    return answer.code


def _dispatch(arguments: list[str]) -> Answer:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help", "help"):
        return Answer(_help())
    if name == "--version":
        return Answer(f"interp {__version__}")
    if name not in COMMANDS:
        from interp.names import did_you_mean

        kind = "flag" if name.startswith("-") else "command"
        raise ConfigError(f"unknown {kind} {name!r}{did_you_mean(name, COMMANDS)}; `interp --help` lists all commands")
    module = importlib.import_module(f"interp.commands.{name.replace('-', '_')}")
    return module.main(rest, prog=f"interp {name}")


def _help() -> str:
    lines = [f"  {name:<12} {text}" for name, text in COMMANDS.items()]
    return "\n".join([
        "usage: interp COMMAND …", "",
        "Mechanistic interpretability of transformers: activations, experiments, reports.", "",
        *lines, "",
        "`interp COMMAND --help` lists the flags of a command. Start with `interp doctor`, then `interp run E08 --quick`.",
    ])  # fmt: skip


def _fault(message: str, code: int) -> int:
    print(f"interp: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
