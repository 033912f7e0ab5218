"""Training small Transformers, native ones and our own: one loop, with its schedules, curves and checkpoints.

    module = transformer(config, seed)
    learner = Learner(module, schedule=noam(config.d_model, 400), label_smoothing=0.1, seed=seed)
    course = fit(learner, (sequence_to_sequence(reversal(…)) for _ in range(600)))

Adam with β = (0.9, 0.98) as in Vaswani et al. 2017, §5.3, with decoupled weight decay where it is asked for; gradients clipped.
All that is random (weights, batches, dropout) comes from generators of its own, so a course is a function of its seeds.
Fine-tuning is the same on a trained module. What a step asks is in `interp.models.batches`, what is measured on the way in
`interp.models.evaluations`.

Must not know: hooks, analyses, reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import TrainingError
from interp.models.batches import Batch
from interp.models.evaluations import losses
from interp.models.parts import Dropout
from interp.stats import torch_generator

# ---- how fast: the learning rate of every step, counted from 1 ----

Schedule = Callable[[int], float]


def constant(rate: float, warmup: int = 1) -> Schedule:
    """Linear warm-up over `warmup` steps, then `rate`. Like all schedules raises TrainingError for a warm-up below one step."""
    _require_warmup(warmup)
    return lambda step: rate * min(1.0, step / warmup)


def noam(d_model: int, warmup: int, factor: float = 1.0) -> Schedule:
    """factor · d^(−½) · min(step^(−½), step · warmup^(−3/2)): highest at step = warmup, with (d · warmup)^(−½).

    Vaswani et al. 2017, eq. 3.
    """
    _require_warmup(warmup)
    return lambda step: factor * d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def linear_decay(rate: float, warmup: int, steps: int) -> Schedule:
    """Linear warm-up to `rate` over `warmup` steps, then linearly down to nothing after step `steps`.

    Raises TrainingError for a warm-up that is longer than that.
    """
    _require_warmup(warmup)
    if warmup > steps:
        raise TrainingError(f"warmup={warmup} of steps={steps} leaves none to train at the rate; warm up for fewer")
    return lambda step: rate * min(step / warmup, max(0.0, (steps + 1 - step) / (steps + 1 - warmup)))


def _require_warmup(warmup: int) -> None:
    if warmup < 1:
        raise TrainingError(f"warmup={warmup}: steps are counted from 1; use 1 for none")


# ---- the loop ----

Forward = Callable[[Any, Batch], Tensor]
"""(module, batch) -> logits [batch pos d_vocab]."""


def plain(module: Any, batch: Batch) -> Float[Tensor, "batch pos d_vocab"]:
    """The module's own forward; the logits of it, where a Hugging Face module gives more."""
    output = module(batch.tokens, **batch.beside)
    return getattr(output, "logits", output)


def fast(module: Any, batch: Batch) -> Float[Tensor, "batch pos d_vocab"]:
    """`fast_logits`, for native modules."""
    return fast_logits(module, batch.tokens)


class Learner:
    """A module, its optimiser, and how many steps they have taken.

    schedule: learning rate of every step. weight_decay: decoupled (Loshchilov & Hutter 2019). clip: largest norm of the gradient;
    None leaves it as it is. label_smoothing: ε of Szegedy et al. 2016, spread over all tokens, the right one among them.
    seed: of dropout. forward: how logits come out of the module. Raises TrainingError for a module without trainable parameters,
    and for smoothing outside 0 … 1.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        schedule: Schedule,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        label_smoothing: float = 0.0,
        seed: int = 0,
        forward: Forward = plain,
    ) -> None:
        self.module, self.schedule, self.clip, self.label_smoothing, self.forward = (
            module,
            schedule,
            clip,
            label_smoothing,
            forward,
        )
        self.parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
        if not self.parameters:
            raise TrainingError(f"this {type(module).__name__} has no parameter to train; let some require gradients")
        if not 0 <= label_smoothing <= 1:
            raise TrainingError(f"label_smoothing={label_smoothing} is a share of each label; use a number from 0 to 1")
        self.optimizer = torch.optim.AdamW(self.parameters.values(), betas=(0.9, 0.98), weight_decay=weight_decay)
        self.steps = 0
        self.generator = torch_generator(seed, "dropout")
        for part in module.modules():
            if isinstance(part, Dropout):
                part.generator = self.generator

    def step(self, batch: Batch) -> Float[Tensor, "batch pos"]:
        """One step on the mean loss of the targets that count. Returns every target's loss before the step, in nats."""
        self.module.train()
        each = losses(self.forward(self.module, batch), batch, label_smoothing=self.label_smoothing)
        mean = each.mean() if batch.counted is None else (each * batch.counted).sum() / batch.counted.sum()
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.steps)
        self.optimizer.zero_grad()
        mean.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
        self.optimizer.step()
        return each.detach()

    @torch.no_grad()
    def logits(self, batch: Batch) -> Float[Tensor, "batch pos d_vocab"]:
        """What the module answers now, in evaluation mode: what `evaluations` measure."""
        self.module.eval()
        return self.forward(self.module, batch)

    def state(self) -> dict[str, Tensor]:
        """All that the next steps depend on but the batches, as copies: weights, moments, dropout's generator, steps taken."""
        flat = {f"module/{name}": tensor for name, tensor in self.module.state_dict().items()}
        for name, parameter in self.parameters.items():
            flat |= {f"optimizer/{name}/{key}": value for key, value in self.optimizer.state[parameter].items()}
        copies = {name: tensor.detach().clone() for name, tensor in flat.items()}
        return copies | {"generator": self.generator.get_state(), "steps": torch.tensor(self.steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`, to the same bits as if there had been no break.

        Raises TrainingError for the state of another module.
        """
        prefix = "module/"
        weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        _require_same(weights, self.module.state_dict())
        self.module.load_state_dict(weights)
        for name, parameter in self.parameters.items():
            keys = [key for key in state if key.rpartition("/")[0] == f"optimizer/{name}"]
            self.optimizer.state[parameter] = {key.rpartition("/")[2]: state[key].clone() for key in keys}
        self.generator.set_state(state["generator"])
        self.steps = int(state["steps"])


def _require_same(kept: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> None:
    for name in {**mine, **kept}:
        there, here = (list(each[name].shape) if name in each else "missing" for each in (kept, mine))
        if there != here:
            raise TrainingError(f"the state is of another module: {name} is {there} there and {here} here; build the same module")


@dataclass(frozen=True)
class Course:
    """What training went through, by steps taken.

    losses: mean loss of each batch, over the targets that it tells of, in nats. evaluations: by name, {step: value}.
    states: the module's weights after some numbers of steps.
    """

    losses: tuple[float, ...]
    evaluations: dict[str, dict[int, float]]
    states: dict[int, dict[str, Tensor]]


def fit(
    learner: Learner,
    batches: Iterable[Batch],
    *,
    checkpoints: Collection[int] = (),
    evaluations: Mapping[str, Callable[[], float]] | None = None,
    every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
) -> Course:
    """A step on each batch; the module is left in evaluation mode.

    checkpoints: steps after which the weights are kept; 0 is before the first. evaluations: what is measured, without gradient
    and in evaluation mode, before the first step, after every `every` steps and after the last. on_step: called with the steps
    taken and the loss after each. Raises TrainingError when a loss is not finite.
    """
    curve: list[float] = []
    evaluated: dict[str, dict[int, float]] = {name: {} for name in evaluations or {}}
    states: dict[int, dict[str, Tensor]] = {}

    def look(*, last: bool = False) -> None:
        if learner.steps in checkpoints:
            states[learner.steps] = {name: tensor.detach().clone() for name, tensor in learner.module.state_dict().items()}
        if last or learner.steps % every == 0:
            learner.module.eval()
            with torch.no_grad():
                for name, measure in (evaluations or {}).items():
                    evaluated[name][learner.steps] = measure()

    look()
    for batch in batches:
        found = learner.step(batch)
        told = batch.counted if batch.told is None else batch.told
        curve.append(float((found if told is None else found[told]).mean()))
        if not math.isfinite(curve[-1]):
            raise TrainingError(f"the loss of step {learner.steps} is {curve[-1]}; lower the learning rate, or clip the gradient")
        look()
        if on_step is not None:
            on_step(learner.steps, curve[-1])
    look(last=True)
    learner.module.eval()
    return Course(tuple(curve), evaluated, states)


def evenly(steps: int, n: int) -> list[int]:
    """`n` numbers of steps, evenly spaced from 0 to `steps`; 0 alone for one."""
    return sorted({round(steps * i / max(1, n - 1)) for i in range(n)})


# ---- native modules, fast ----


def fast_logits(module: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of a native decoder-only module, equal to its hooked forward to rounding.

    Serves pre-LN models with standard or rotary positions, plain MLPs or none. Runs in whatever autocast it is called
    under.
    """
    residual = module.tok_embed(tokens)
    length = tokens.shape[1]
    if module.pos is not None:
        residual = residual + module.pos.weight[:length]
    hidden = torch.full((length, length), float("-inf"), device=tokens.device).triu(1)
    for block in module.layers:
        residual = residual + _attention(block.attn, block.ln1(residual), hidden)
        if not block.cfg.attn_only:
            residual = residual + block.mlp(block.ln2(residual))
    return module.head(module.ln_out(residual))


def last_logits(module: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch 1 d_vocab"]:
    """`fast_logits` at the last position alone, of a model of one layer with learned positions and no norms.

    What depends on a token and its place alone is computed once for each of them, not once for each row.
    """
    (block,), attn = module.layers, module.layers[0].attn
    table = module.tok_embed.weight + module.pos.weight[: tokens.shape[1], None]  # [pos token d_model]
    rows = tokens + len(module.tok_embed.weight) * torch.arange(tokens.shape[1])
    k, v = (F.embedding(rows, part(table).flatten(0, 1)).unflatten(-1, (attn.n_heads, -1)) for part in (attn.k, attn.v))
    q = F.embedding(tokens[:, -1:], attn.q(table[-1])).unflatten(-1, (attn.n_heads, -1))
    pattern = (torch.einsum("bqhd,bkhd->bhqk", q, k) / attn.scale).softmax(-1)
    mixed = attn.o(torch.einsum("bhqk,bkhd->bqhd", pattern, v).flatten(-2))
    last = F.embedding(tokens[:, -1:], table[-1]) + mixed
    return module.head(last + block.mlp(last))


def _attention(attn: Any, x: Float[Tensor, "batch pos d_model"], hidden: Float[Tensor, "pos pos"]) -> Tensor:
    q, k, v = (linear(x).unflatten(-1, (attn.n_heads, attn.d_head)).transpose(1, 2) for linear in (attn.q, attn.k, attn.v))
    if attn.rotary is not None:
        q, k = _rotate(attn.rotary, q), _rotate(attn.rotary, k)
    scores = (q / attn.scale) @ k.transpose(-1, -2)
    pattern = torch.softmax(scores + hidden.to(scores.dtype), dim=-1, dtype=scores.dtype)
    return attn.o((pattern @ v).transpose(1, 2).flatten(-2))


def _rotate(rotary: Any, x: Float[Tensor, "batch head pos d_head"]) -> Tensor:
    cos, sin = (table[: x.shape[-2], ::2].to(x.dtype) for table in (rotary.cos_cached, rotary.sin_cached))
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
