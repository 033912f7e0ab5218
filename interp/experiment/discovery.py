"""Where experiments are and what they are called. Finding one reads its file and runs nothing.

Experiments are scripts: in a clone in `experiments/`, in an installed wheel in `interp/experiments/`. A script has a docstring
(its first line is the question it asks), an `ID`, a `Config` and a `run`; `QUICK` holds the settings of its quick form.

Must not know: what experiments compute.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import interp
from interp.errors import ConfigError
from interp.names import did_you_mean

_PREFIX = re.compile(r"^e\d+[a-z]?_")


@dataclass(frozen=True)
class Experiment:
    """An experiment as its file describes it, before anything is imported."""

    id: str
    name: str
    title: str
    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        """All it answers to, in lower case: ID, file name, file name without the number."""
        return (self.id.lower(), self.name, _PREFIX.sub("", self.name))

    @property
    def sha256(self) -> str:
        """Of the script: tells whether a finished run was made by the script as it is now."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Definition:
    """What the runner needs from an imported experiment: its settings, its quick settings and what it does."""

    config: type
    run: Callable[[Any, Any], None]
    quick: Mapping[str, Any] = field(default_factory=dict)


def folder() -> Path:
    """The folder of the experiments that came with this `interp`."""
    package = Path(interp.__file__).parent
    inside, beside = package / "experiments", package.parent / "experiments"
    return inside if inside.is_dir() else beside


def discover(where: Path | None = None) -> list[Experiment]:
    """All experiments of a folder (the built-in one when none is named), by ID.

    Raises ConfigError for scripts that are not experiments and for an ID that is taken twice.
    """
    where = folder() if where is None else where
    found = sorted((read(path) for path in sorted(where.glob("[!_]*.py"))), key=lambda each: each.id)
    for one, other in zip(found, found[1:], strict=False):
        if one.id == other.id:
            raise ConfigError(f"{one.path.name} and {other.path.name} both have ID={one.id!r}; number one of them anew")
    return found


def find(name: str, where: Path | None = None) -> Experiment:
    """The experiment with this ID or name, or the script at this path."""
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return read(path)
    known = discover(where)
    wanted = path.name.removesuffix(".py").lower().replace("-", "_")
    for experiment in known:
        if wanted in experiment.names:
            return experiment
    names = [each for experiment in known for each in (*experiment.names[1:], experiment.id)]
    raise ConfigError(f"no experiment {name!r}{did_you_mean(name, names)}; `interp list` shows all {len(known)}")


def read(path: Path) -> Experiment:
    """The experiment in a script, from its text alone."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not Python: {error}") from None
    docstring = ast.get_docstring(tree) or ""
    identifier = next((value for node in tree.body if (value := _assigned_text(node, "ID")) is not None), None)
    faults = [
        *(["a docstring whose first line is the question it asks"] if not docstring else []),
        *(['an ID such as ID = "E08"'] if identifier is None else []),
    ]
    if faults or identifier is None:
        raise ConfigError(f"{path} is no experiment: it lacks {' and '.join(faults)}")
    return Experiment(id=identifier, name=path.stem.lower(), title=docstring.splitlines()[0].strip(), path=path.resolve())


def load(experiment: Experiment) -> Definition:
    """Imports the script."""
    spec = importlib.util.spec_from_file_location(f"interp_experiment_{experiment.name}", experiment.path)
    assert spec is not None and spec.loader is not None, experiment.path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up to resolve annotations
    spec.loader.exec_module(module)
    return definition(module, module.__dict__.get("Config"), module.__dict__.get("run"))


def definition(module: ModuleType, config: Any, run: Any) -> Definition:
    """Checks that an imported script has all that the runner needs; all faults at once."""
    quick = getattr(module, "QUICK", {})
    is_config, is_run = isinstance(config, type) and dataclasses.is_dataclass(config), callable(run)
    needed = [
        f.name for f in (dataclasses.fields(config) if is_config else ())
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    faults = [
        *([] if is_config else ["Config must be a dataclass"]),
        *([f"Config needs a default for {', '.join(needed)}"] if needed else []),
        *([] if is_run else ["run(config, report) is missing"]),
        *([] if isinstance(quick, Mapping) else [f"QUICK must be a dict of settings, not {type(quick).__name__}"]),
    ]
    if faults or not is_config:
        raise ConfigError(f"{getattr(module, '__file__', module)} is no experiment: {'; '.join(faults)}")
    return Definition(config=config, run=run, quick=quick)


def _assigned_text(node: ast.stmt, name: str) -> str | None:
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant) or not isinstance(node.value.value, str):
        return None
    return node.value.value if any(isinstance(target, ast.Name) and target.id == name for target in node.targets) else None
