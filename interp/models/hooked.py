"""The one door to models.

A `Model` has a bridge or a hooked module (never is one) and runs it: always in evaluation mode, without gradient unless
asked, no further than the last activation read. Hook names are TransformerLens's own. Names are resolved and edits are
proved able to act before anything runs; hooks never outlive a run.

Must not know: analyses, reports.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import HookError, ModelError
from interp.models import attention, huggingface, inputs, lens, loading, storage, weights
from interp.models.hooks import Hooks, silenced
from interp.models.lens import HookedRootModule, HookPoint, NativeModel, TransformerBridge, native_module
from interp.models.runs import Edit, Run, evaluating, execute, passing_on
from interp.models.transformer import TransformerConfig
from interp.text.tokenizer import Tokenizer, wrap_hf

__all__ = ["SHIPPED", "Edit", "Model", "Run"]

SHIPPED = {"stdlib-4l": Path(__file__).parent / "shipped"}
"""Models that come with the package: a folder with `card.json`, weights in half precision and a tokenizer."""

_PROBE = 8  # tokens of the input on which hooks are tried out


class Model:
    """A model and what can be done with it. Made by `load`, `wrap`, `native` or `untrained`, not by its constructor.

    `bridge` is the TransformerLens object behind it (a `TransformerBridge`, or the `HookedRootModule` that was wrapped), for
    whatever is not offered here; what is done through it directly is not checked. `module` is the bare module that was bridged,
    with hooks on its parts (or the hooked module itself): what is trained. Sizes go by TransformerLens's names:
    `n_layers` (of one stack), `n_heads` (of queries), `d_model`, `d_head`, `d_vocab` (ids are 0 to d_vocab - 1), `n_ctx` (the
    longest sequence). Weights too; their shapes are in `interp.models.weights`.
    """

    n_layers, n_heads, d_model = weights.Size(), weights.Size(), weights.Size()
    d_head, d_vocab, n_ctx = weights.Size(), weights.Size(), weights.Size()

    W_E, W_U, W_pos, b_U = weights.Single(), weights.Single(), weights.Single(), weights.Single()
    W_Q, W_K, W_V, W_O = (weights.Stacked(f"attn.{name}") for name in ("W_Q", "W_K", "W_V", "W_O"))
    b_Q, b_K, b_V, b_O = (weights.Stacked(f"attn.{name}") for name in ("b_Q", "b_K", "b_V", "b_O"))
    W_in, W_gate, W_out = (weights.Stacked(f"mlp.{name}") for name in ("W_in", "W_gate", "W_out"))
    b_in, b_out = weights.Stacked("mlp.b_in"), weights.Stacked("mlp.b_out")

    def __init__(self, bridge: Any, *, name: str, tokenizer: Tokenizer | None) -> None:
        self.bridge = bridge
        self.name = name
        self.tokenizer = tokenizer
        self._is_bridge = isinstance(bridge, TransformerBridge)
        self.module: nn.Module = bridge.original_model if self._is_bridge else bridge
        self._submodules = list({id(m): m for root in (bridge, self.module) for m in root.modules()}.values())
        accepted = inspect.signature(self.module.forward).parameters
        self._takes = frozenset({"decoder_input" if p == "decoder_input_ids" else p for p in accepted})
        self._constant = {"use_cache": False} if "use_cache" in accepted else {}
        self._hooks = Hooks(bridge.hook_dict, self._probe if self._knows_vocabulary else None, lens.why_off)
        self._fingerprint: tuple[list, str] | None = None

    # ---- making one ----

    @classmethod
    def load(
        cls, name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, revision: str | None = None
    ) -> Model:
        """A model by name: shipped ("stdlib-4l"), from the zoo ("induction-2l", trained on first use), a folder (saved by
        `save`, or Hugging Face's), or a name on the Hugging Face hub.

        `dtype` None means the dtype of a saved model, and float32 for all others; `revision` is for the hub.
        Raises ModelError for a name that is nowhere, and for a folder whose weights are not all there.
        """
        from interp.models import zoo

        folder = zoo.folder(name) if name in zoo.NAMES else SHIPPED.get(name, Path(name))
        module = loading.stored(folder)
        if module is not None:
            tokenizer = storage.read_tokenizer(folder)
        else:
            if not folder.is_dir():
                loading.require_hub(name, (*SHIPPED, *zoo.NAMES), revision=revision)
            module = huggingface.load(name, dtype=dtype or torch.float32, revision=revision)
            tokenizer = huggingface.tokenizer(name, revision=revision)
        return cls.wrap(module.to(device=device, dtype=dtype), tokenizer=tokenizer, name=name)

    @classmethod
    def wrap(cls, module: nn.Module, *, tokenizer: Any = None, name: str | None = None) -> Model:
        """A `TransformerBridge`, any `HookedRootModule`, a Hugging Face model or a bare native model as a Model.

        A bare module is bridged in place (its parts get hooks) and, if it is Hugging Face's, set to eager attention, without
        which attention patterns cannot be seen. `tokenizer` is Hugging Face's or any `interp.text.tokenizer.Tokenizer`.
        """
        if tokenizer is None and isinstance(module, TransformerBridge):
            tokenizer = module.tokenizer
        if isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
            tokenizer = wrap_hf(tokenizer) if tokenizer.is_fast else None
        name = name or type(module).__name__
        if not isinstance(module, TransformerBridge | HookedRootModule):
            module = lens.bridged(module, name)
        return cls(module, name=name, tokenizer=tokenizer)

    @classmethod
    def native(cls, config: dict[str, Any], *, seed: int, name: str = "native") -> Model:
        """A TransformerLens native model with fresh weights, by the fields of `TransformerBridgeConfig`."""
        return cls.wrap(native_module(config, seed).eval(), name=name)

    def untrained(self, seed: int) -> Model:
        """The same architecture and tokenizer with fresh weights: a control."""
        name = f"{self.name} (untrained, seed {seed})"
        return self.wrap(self._another(seed), tokenizer=self.tokenizer, name=name)

    def with_weights(self, state: Mapping[str, Tensor], *, name: str) -> Model:
        """The same architecture and tokenizer with other weights, by the bare module's names, as training keeps them.

        Raises ModelError when they do not fit.
        """
        module = self._another(0)
        storage.fill(module, state, {})
        return self.wrap(module, tokenizer=self.tokenizer, name=name)

    def state(self) -> dict[str, Tensor]:
        """The weights by the bare module's names, as `with_weights` takes them.

        Raises ModelError when some are not where they were, as with adapters attached.
        """
        state = {name.replace("._original_component", ""): tensor for name, tensor in self.module.state_dict().items()}
        missing = [name for name in self._names or () if name not in state]
        if missing:
            lost = f"{self.name} has lost the weights {', '.join(missing[:3])}"
            raise ModelError(f"{lost}; it cannot be saved or fingerprinted (merge or detach adapters first)")
        return state if self._names is None else {name: state[name] for name in self._names}

    def save(self, folder: str | Path) -> None:
        """Saves configuration, weights and tokenizer; `load(folder)` gives a model with the same logits.

        What is saved is the state of the module that was bridged: a bridge's own `state_dict` loses experts.
        """
        if self._recipe is None:
            raise ModelError(f"no recipe to rebuild a {type(self.module).__name__}; save its state_dict instead")
        if getattr(self.bridge, "_weights_processed", False):
            raise ModelError("this bridge's weights were processed (compatibility mode); save the model before that")
        dtype = str(next(self.module.parameters()).dtype).removeprefix("torch.")
        facts = {"name": self.name, "class": type(self.module).__name__, "dtype": dtype, "config": self.config}
        storage.write(Path(folder), {"kind": self._recipe, **facts}, self.state(), self.tokenizer)

    # ---- running it ----

    def run(
        self,
        tokens: Tensor,
        *,
        read: Sequence[str] = (),
        edits: Sequence[Edit] = (),
        logits: bool | None = None,
        grad: bool = False,
        **beside: Any,
    ) -> Run:
        """One forward pass over `tokens` (int64, [batch pos]).

        `read` names the activations to return; a read sees the edits made at its own hook. `edits` apply in order. Without
        `logits=True` the pass stops at the last read; with no read, logits are returned. `beside` are `attention_mask`,
        `decoder_input` (encoder–decoders), … as the model takes them. With `grad`, activations belong to the graph.

        Raises HookError for a name that cannot be read and an edit that cannot act (both before anything runs), and for an
        edit that returns another shape or dtype; ModelError for tokens the model cannot take.
        """
        to_end = not read if logits is None else logits
        if not to_end and not read:
            raise ModelError("nothing to compute: read an activation, or leave logits on")
        self._check(tokens, beside)
        visits = self._hooks.visits(read, edits, to_end=to_end)
        return execute(lambda: self._forward(tokens, beside), visits, to_end=to_end, grad=grad)

    def run_from(
        self,
        layer: int,
        residual: Float[Tensor, "batch pos d_model"],
        *,
        read: Sequence[str] = (),
        edits: Sequence[Edit] = (),
        logits: bool | None = None,
        grad: bool = False,
        **beside: Any,
    ) -> Run:
        """A pass that starts at block `layer` with `residual` as its input; the blocks before it are passed over.

        As `run` otherwise. `edits` at the block's own input come after `residual` is put there.
        """
        start = f"blocks.{layer}.hook_in"
        if start not in self._hooks.points:
            raise ModelError(f"no block {layer} to start at; blocks are 0 to {self.n_layers - 1}")
        places = self._hooks.survey.place
        self._hooks.resolve([*read, *(edit.hook for edit in edits)])
        for name in (*read, *(edit.hook for edit in edits)):
            if places[id(self._hooks.points[name])] < places[id(self._hooks.points[start])]:
                raise HookError(f"{name} comes before block {layer}, where this run starts")
        to_end = not read if logits is None else logits
        tokens = torch.zeros(residual.shape[:2], dtype=torch.long)
        self._check(tokens, beside)
        visits = self._hooks.visits(read, [Edit(start, lambda _: residual), *edits], to_end=to_end)
        with passing_on(self.bridge.blocks[:layer], as_tuple=self._blocks_give_tuples):
            return execute(lambda: self._forward(tokens, beside), visits, to_end=to_end, grad=grad)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Every name that can be read, in the order in which they fire."""
        return self._hooks.readable()

    def resolve(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names, if every one can be read. Raises HookError with all faults and near names."""
        return self._hooks.resolve(names)

    def final_norm(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The norm before the unembedding, with its gain and bias."""
        self._require_plain_head()
        grad = torch.is_grad_enabled() and residual.requires_grad
        return self._silently(lambda: self.bridge.ln_final(residual), grad=grad)

    def unembed(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
        """Logits of a residual stream: final norm, then unembedding (and soft cap). Carries the gradient of `residual`.

        Raises ModelError for models whose head is more than that, as BERT's is.
        """
        self._require_plain_head()
        return self._head(residual)

    def apply(self, part: str, value: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        """What a part of the model ("blocks.0.ln1", "blocks.0.attn.q") makes of `value` alone. No hook fires; carries gradient.

        Raises ModelError for a part that the model does not have.
        """
        module = weights.part(self.bridge, part)
        grad = torch.is_grad_enabled() and value.requires_grad
        points = [point for point in module.modules() if isinstance(point, HookPoint)]
        with silenced(points), evaluating(self._submodules), torch.set_grad_enabled(grad):
            return module(value)

    # ---- what it is ----

    @property
    def kind(self) -> Literal["decoder", "encoder", "encoder-decoder"]:
        """Whether it predicts the next token, reads both ways, or does both in two stacks."""
        if getattr(getattr(self.module, "config", None), "is_encoder_decoder", False):
            return "encoder-decoder"
        return "encoder" if getattr(self._config, "attention_dir", "causal") == "bidirectional" else "decoder"

    @property
    def d_mlp(self) -> int:
        """Hidden width of one MLP (of one expert, for mixtures)."""
        stack = "encoder_blocks" if self.kind == "encoder-decoder" else "blocks"
        try:
            return self.weight(f"{stack}.0.mlp.W_in").shape[1]
        except ModelError:
            return weights.size(self, "d_mlp")

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.module.parameters()).device

    def weight(self, name: str) -> Tensor:
        """A weight by TransformerLens's name, as `blocks.0.mlp.W_out`; shapes are in `interp.models.weights`."""
        return weights.weight(self.bridge, name)

    @property
    def config(self) -> dict[str, Any]:
        """The fields that make the architecture, as plain JSON values; empty for hooked modules of one's own, unless they keep
        their `TransformerConfig`."""
        if self._recipe == "native":
            return lens.native_config(self.module)
        if self._recipe == "transformer":
            return asdict(cast(Any, self.module).config)
        return huggingface.config_of(self.module) if self._recipe else {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex over architecture and weights: equal exactly when two models compute alike. Follows in-place changes."""
        state = self.state()
        version = [(name, tensor.data_ptr(), tensor._version) for name, tensor in state.items()]
        if self._fingerprint is None or self._fingerprint[0] != version:
            self._fingerprint = version, storage.fingerprint({"class": type(self.module).__name__, **self.config}, state)
        return self._fingerprint[1]

    # ---- behind the door ----

    @cached_property
    def _config(self) -> Any:
        return getattr(self.bridge, "cfg", None)

    def _another(self, seed: int) -> nn.Module:
        """A bare module of this architecture with fresh weights, of the same dtype and in the same place."""
        if self._recipe is None:
            raise ModelError(f"no recipe to build another {type(self.module).__name__}; build it and use Model.wrap")
        module = loading.build(self._recipe, type(self.module).__name__, self.config, seed).eval()
        first = next(self.module.parameters())
        return module.to(first.device, first.dtype)

    @cached_property
    def _recipe(self) -> loading.Recipe | None:
        """How to build another module like this one from its configuration; None where nobody can."""
        if isinstance(self.module, NativeModel):
            return "native"
        if isinstance(self.module, transformers.PreTrainedModel):
            return "huggingface"
        return "transformer" if isinstance(getattr(self.module, "config", None), TransformerConfig) else None

    @property
    def _knows_vocabulary(self) -> bool:
        """Whether the inputs are known to be tokens. A hooked module may take anything; it is probed with its first input."""
        return self._is_bridge or all(isinstance(getattr(self._config, name, None), int) for name in ("d_vocab", "n_ctx"))

    def _check(self, tokens: Tensor, beside: dict[str, Any]) -> None:
        if self._hooks.probe is None:
            self._hooks.probe = lambda: self._forward(tokens[:1], {})
        if self._knows_vocabulary:
            inputs.check_tokens(tokens, d_vocab=self.d_vocab, n_ctx=self.n_ctx)
            inputs.check_beside(beside, tokens, takes=self._takes, encoder_decoder=self.kind == "encoder-decoder")
            if "decoder_input" in beside:
                inputs.check_tokens(beside["decoder_input"], d_vocab=self.d_vocab, n_ctx=self.n_ctx, name="decoder_input")

    def _forward(self, tokens: Tensor, beside: dict[str, Tensor]) -> Tensor:
        with evaluating(self._submodules), attention.live(self._sites, self._attention_configs):
            return self._output(tokens, beside)

    def _output(self, tokens: Tensor, beside: dict[str, Tensor]) -> Tensor:
        beside = {name: value.to(self.device) for name, value in beside.items()}
        output = self.bridge(tokens.to(self.device), **self._constant, **beside)
        output = getattr(output, "logits", output)
        if not isinstance(output, Tensor):
            raise ModelError(f"{self.name} gives a {type(output).__name__}, not logits; load it with a language-model head")
        return output

    def probe_inputs(self) -> tuple[Tensor, dict[str, Any]]:
        """A short input of valid ids, all different where the vocabulary allows."""
        length = min(_PROBE, self.n_ctx)
        tokens = (torch.arange(length)[None] * 7 + 3) % self.d_vocab
        return tokens, {"decoder_input": tokens.flip(1)[:, :-2]} if self.kind == "encoder-decoder" else {}

    def _probe(self) -> Tensor:
        return self._forward(*self.probe_inputs())

    @cached_property
    def _attention_configs(self) -> list[Any]:
        return attention.configs_of(self._submodules) if self._sites else []

    @cached_property
    def _sites(self) -> list[attention.Site]:
        """Attentions whose hooks can be made live: those left to Hugging Face, if the model's output stays what it was."""
        sites = [
            attention.Site(tuple(m for m in part.modules() if hasattr(m, "config")), part.hook_attn_scores, part.hook_pattern)
            for part in lens.opaque_attentions(self._submodules)
        ]
        if not sites:
            return []
        inputs_, configs = self.probe_inputs(), attention.configs_of(self._submodules)
        with silenced(self._hooks.points.values()), evaluating(self._submodules), torch.no_grad():
            return sites if attention.changes_nothing(sites, configs, lambda: self._output(*inputs_)) else []

    def _silently(self, compute: Callable[[], Tensor], *, grad: bool) -> Tensor:
        with silenced(self._hooks.points.values()), evaluating(self._submodules), torch.set_grad_enabled(grad):
            return compute()

    def _head(self, residual: Tensor) -> Tensor:
        logits = self._silently(
            lambda: self.bridge.unembed(self.bridge.ln_final(residual)), grad=torch.is_grad_enabled() and residual.requires_grad
        )
        cap = float(getattr(self._config, "output_logits_soft_cap", -1.0) or -1.0)
        return cap * torch.tanh(logits / cap) if cap > 0 else logits

    @cached_property
    def _head_is_plain(self) -> bool:
        """Whether the logits are the final norm and the unembedding of the last residual stream, and nothing more."""
        if self.kind == "encoder-decoder" or not hasattr(self.bridge, "ln_final"):
            return False
        last = f"blocks.{self.n_layers - 1}.hook_resid_post"
        with silenced(self._hooks.points.values()):
            run = self.run(self.probe_inputs()[0], read=[last], logits=True)
        return torch.allclose(self._head(run.activations[last]), run.logits, rtol=1e-3, atol=1e-3 * float(run.logits.abs().max()))

    def _require_plain_head(self) -> None:
        if not self._head_is_plain:
            raise ModelError(f"the logits of {self.name} are not just its final norm and unembedding; use run(…, logits=True)")

    @cached_property
    def _blocks_give_tuples(self) -> bool:
        seen: list[bool] = []
        handle = self.bridge.blocks[0].register_forward_hook(lambda module, given, output: seen.append(isinstance(output, tuple)))
        try:
            self._silently(self._probe, grad=False)
        finally:
            handle.remove()
        return seen[0]

    @cached_property
    def _names(self) -> list[str] | None:
        """The module's own names for its state, before TransformerLens wrapped its parts; None when they are as they were."""
        if getattr(self.bridge, "_weights_processed", False):
            return None
        if isinstance(self.module, NativeModel):
            return lens.native_names(self.module)
        return huggingface.expected_names(self.module) if isinstance(self.module, transformers.PreTrainedModel) else None
