"""Hugging Face models: from a local folder, from the hub or its cache, from a configuration; as bare modules.

Must not know: TransformerLens, hooks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import torch
import transformers
from torch import nn

from interp.errors import CorpusError, ModelError
from interp.models import storage
from interp.text.tokenizer import Tokenizer, wrap_hf

_UNIMPORTANT = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Entries of a configuration that say nothing about what the model computes."""


def load(source: str, *, dtype: torch.dtype, revision: str | None = None) -> nn.Module:
    """The model in a local folder or on the hub, in the class its configuration names, with eager attention.

    Raises ModelError when it cannot be found or reached, or when weights are missing: a module that Hugging Face would
    fill with random numbers is refused.
    """
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ModelError(f"the folder {source!r} holds no model: no {storage.RECORD} of ours, no config.json of Hugging Face's")
    progress = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(source, revision=revision)
        kind: Any = _class(config.architectures[0]) if config.architectures else transformers.AutoModelForCausalLM
        module, info = kind.from_pretrained(
            source, revision=revision, dtype=dtype, attn_implementation="eager", output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"cannot load {source!r}: {_first_line(error)}") from None
    finally:
        if progress:
            transformers.utils.logging.enable_progress_bar()
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{source!r} lacks the weights {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}")
    return module


def why_unreachable(name: str, *, revision: str | None = None) -> str | None:
    """None when `name` is in the local cache or the hub answers for it; else why not. One request, no retries."""
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
            return None
        huggingface_hub.HfApi().model_info(name, revision=revision, timeout=5)
    except huggingface_hub.errors.HFValidationError:
        return "not a name the hub could have"
    except huggingface_hub.errors.OfflineModeIsEnabled:
        return "the hub could not be reached (offline mode is on, HF_HUB_OFFLINE)"
    except huggingface_hub.errors.RepositoryNotFoundError:
        return "the hub has no model of that name (or it is private)"
    except huggingface_hub.errors.RevisionNotFoundError:
        return f"the hub's model has no revision {revision!r}"
    except Exception as error:  # whatever the HTTP library of the day raises
        return f"the hub could not be reached ({_first_line(error)})"
    return None


def build(kind: str, config: dict[str, Any], *, seed: int) -> nn.Module:
    """A model of class `kind` with fresh weights; a function of the configuration and the seed alone."""
    cls = _class(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = cls(cls.config_class.from_dict(config))
    module.set_attn_implementation("eager")
    return module


def config_of(module: nn.Module) -> dict[str, Any]:
    """The module's configuration as plain JSON values."""
    whole = json.loads(module.config.to_json_string(use_diff=False))  # type: ignore[union-attr, operator]
    return {key: value for key, value in whole.items() if key not in _UNIMPORTANT}


def expected_names(module: nn.Module) -> list[str]:
    """The names in the state of the module as Hugging Face builds it, before anything wrapped its parts."""
    with torch.device("meta"):
        return list(type(module)(module.config).state_dict())


def tokenizer(source: str, *, revision: str | None = None) -> Tokenizer | None:
    """The tokenizer that comes with a model, or None when it has none that gives offsets."""
    folder = Path(source)
    if folder.is_dir() and (folder / storage.TOKENIZER).is_file():
        return storage.read_tokenizer(folder)
    try:
        return wrap_hf(transformers.AutoTokenizer.from_pretrained(source, revision=revision))
    except (OSError, ValueError, KeyError, CorpusError, ImportError):
        return None


def _class(name: str) -> Any:
    found = getattr(transformers, name, None)
    if found is None:
        raise ModelError(f"transformers {transformers.__version__} has no class {name}, which this model needs")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
