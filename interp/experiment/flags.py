"""The command line of an experiment, derived from its `Config`, and of any function, derived from its signature.

Precedence, lowest first: defaults, QUICK (under --quick), the file of --config, flags.

Must not know: what is done with the settings.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from interp.errors import ConfigError
from interp.experiment import settings
from interp.experiment.discovery import Definition, Experiment
from interp.names import did_you_mean

T = TypeVar("T")
Device = Literal["auto", "cpu", "cuda", "mps"]
REPORTS = Path("reports")
"""Where runs go unless --out says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags that every experiment has, beside `--seed` and `--device`."""

    out: Path = REPORTS  # the folder that holds all runs
    quick: bool = False  # smaller settings: a first look in seconds or a few minutes
    resume: bool = False  # if this run is finished already, keep it
    config: Path | None = None  # YAML file of settings; flags override it


@dataclass(frozen=True)
class Request:
    """One run, asked for: resolved settings and options. `device` is where it will run, `auto` resolved."""

    config: Any
    options: Options
    device: str


def parse(experiment: Experiment, definition: Definition, argv: Sequence[str], *, prog: str) -> Request:
    """The run that the arguments ask for.

    Raises ConfigError for unknown flags and settings and for values that do not fit; prints the help and exits for --help.
    """
    from tyro import conf

    options = _read_ahead(argv)
    default = _default(experiment, definition, options)
    fields: list[Any] = [
        ("config", Annotated[definition.config, conf.arg(name="")], dataclasses.field(default_factory=lambda: default)),
        ("options", Annotated[Options, conf.arg(name="")], dataclasses.field(default=Options())),
    ]
    own = {f.name for f in dataclasses.fields(definition.config)}
    if clash := own & {f.name for f in dataclasses.fields(Options)}:
        raise ConfigError(f"{experiment.path.name}: Config has {', '.join(sorted(clash))}, which the runner has too; rename it")
    if "seed" not in own:
        fields.append(("seed", Annotated[int, conf.arg(help="nothing here is drawn at random")], 0))
    if "device" not in own:
        fields.append(("device", Annotated[Device, conf.arg(help="this experiment runs on the CPU")], "auto"))
    command = dataclasses.make_dataclass("Command", fields, frozen=True)
    known = [*settings.flag_names(definition.config), *settings.flag_names(Options), "--seed", "--device"]
    parsed = _tyro(command, argv, prog=prog, description=experiment.title, known=known)
    if getattr(parsed, "seed", 0) != 0:
        raise ConfigError(f"{experiment.id} draws nothing at random and takes no --seed; leave it out")
    if "device" not in own:
        if parsed.device not in ("auto", "cpu"):
            raise ConfigError(f"{experiment.id} runs on the CPU only, and --device is {parsed.device}; leave it out")
        return Request(parsed.config, parsed.options, "cpu")
    device = resolve_device(parsed.config.device)
    return Request(dataclasses.replace(parsed.config, device=device), parsed.options, device)


def call(function: Callable[..., T], argv: Sequence[str], *, prog: str) -> T:
    """Calls `function` with arguments from the command line; its signature and docstring make the help."""
    import inspect

    parameters = inspect.signature(function).parameters.values()
    known = ["--" + each.name.replace("_", "-") for each in parameters if each.kind == each.KEYWORD_ONLY]
    bound = _tyro(
        _bind(function), argv, prog=prog, description=(inspect.getdoc(function) or "").split("\n\nArgs:")[0], known=known
    )
    return bound()


def resolve_device(name: str) -> str:
    """The device itself for `auto`: CUDA, else Apple's MPS, else the CPU. Raises ConfigError for one that is not there."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, present in there.items() if present)
    if not there.get(name.split(":")[0], False):
        usable = ", ".join(device for device, present in there.items() if present)
        raise ConfigError(f"--device {name} is not on this machine (torch {torch.__version__} sees {usable}); use --device auto")
    return name


def _bind(function: Callable[..., T]) -> Callable[..., Callable[[], T]]:
    """`function` with the same signature that returns the call instead of making it: parsing and running stay apart."""
    import functools

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], T]:
        return functools.partial(function, *args, **kwargs)

    return bound


def _read_ahead(argv: Sequence[str]) -> argparse.Namespace:
    """--quick and --config: the defaults that the help shows and the flags override depend on them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--quick", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--config", type=Path, nargs="?")
    return parser.parse_known_args(list(argv))[0]


def _default(experiment: Experiment, definition: Definition, options: argparse.Namespace) -> Any:
    default = definition.config()
    if options.quick:
        default = settings.overlay(default, definition.quick, source=f"QUICK in {experiment.path.name}")
    if options.config is not None:
        default = settings.overlay(default, settings.read_yaml(options.config), source=str(options.config))
    return default


def _tyro(target: Any, argv: Sequence[str], *, prog: str, description: str, known: Sequence[str]) -> Any:
    """tyro's parse, with its boxed errors as one line."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed, unknown = tyro.cli(target, prog=prog, description=description, args=list(argv), return_unknown_args=True)
    except SystemExit as end:
        if not end.code:
            raise
        raise ConfigError(f"{_first_section(said.getvalue())} (`{prog} --help` lists all flags)") from None
    flags = [each.split("=")[0] for each in unknown if each.startswith("--")]
    if flags:
        faults = [f"unknown flag {flag}{did_you_mean(flag.replace('_', '-'), known)}" for flag in flags]
        raise ConfigError(f"{'; '.join(faults)}; `{prog} --help` lists all flags")
    if unknown:
        raise ConfigError(f"unexpected argument {' '.join(unknown)}; `{prog} --help` shows what is expected")
    return parsed


def _first_section(box: str) -> str:
    """The message in one of tyro's boxes, which stands above the first rule and below the title."""
    lines = [re.sub(r"^[│\s]+|[│\s]+$", "", line) for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    message = []
    for line in lines:
        if set(line) == {"─"}:
            break
        message.append(line)
    return " ".join(message).rstrip(".")
