"""Settings of an experiment: its `Config` from defaults, from a mapping, from a YAML file; and back.

Must not know: the command line, what settings mean.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from interp.errors import ConfigError
from interp.names import did_you_mean

C = TypeVar("C")


def overlay(config: C, values: Mapping[str, Any], *, source: str) -> C:
    """`config` with some settings replaced; nested dataclasses take nested mappings.

    Lists become tuples, whole numbers become floats and text becomes paths where the field wants that.
    Raises ConfigError naming every unknown setting and every value of the wrong type, and `source`.
    """
    faults: list[str] = []
    changed = _overlaid(config, values, "", faults)
    if faults:
        raise ConfigError(f"{source}: {'; '.join(faults)}")
    return changed


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file; an empty file holds none."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings in {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected lines like `steps: 300`")
    return values or {}


def plain(config: Any) -> dict[str, Any]:
    """The settings as JSON and YAML know them: dicts, lists, text, numbers."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def config_hash(config: Any) -> str:
    """SHA-256 over all settings by name: equal exactly when the settings are."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()


def flag_names(config: type, prefix: str = "") -> list[str]:
    """`--steps`, `--optimiser.learning-rate` …: the flags that the fields become."""
    names = []
    hints = typing.get_type_hints(config)
    for f in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[f.name]):
            names += flag_names(hints[f.name], f"{prefix}{f.name}.")
        else:
            names.append(f"--{prefix}{f.name}".replace("_", "-"))
    return names


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _overlaid(config: Any, values: Mapping[str, Any], prefix: str, faults: list[str]) -> Any:
    hints = typing.get_type_hints(type(config))
    known = [f.name for f in dataclasses.fields(config)]
    changes = {}
    for key, value in values.items():
        if key not in known:
            faults.append(f"unknown setting {prefix}{key}{did_you_mean(str(key), known)}; known: {', '.join(known)}")
        elif dataclasses.is_dataclass(getattr(config, key)) and isinstance(value, Mapping):
            changes[key] = _overlaid(getattr(config, key), value, f"{prefix}{key}.", faults)
        else:
            changes[key] = _converted(value, hints[key])
            if not _fits(changes[key], hints[key]):
                faults.append(f"{prefix}{key}={value!r} should be {_type_name(hints[key])}")
    return dataclasses.replace(config, **changes)


def _converted(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [_converted(value, argument) for argument in arguments]
        return next((each for each, argument in zip(options, arguments, strict=True) if _fits(each, argument)), value)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return tuple(_converted(each, to) for each, to in zip(value, inner, strict=False)) if len(inner) == len(value) else value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            return value
    return value


def _fits(value: Any, hint: Any) -> bool:
    from beartype.door import is_bearable

    return is_bearable(value, hint) and not (hint is int and isinstance(value, bool))


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(repr(each) for each in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
