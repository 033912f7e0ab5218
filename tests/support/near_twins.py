"""Models with pairs of inputs that are close together, so that what is right to first order can be told from what is not."""

import torch
from model_shapes import build, case_of

from interp.models.hooked import Model
from interp.tasks.contrast import Contrast

HALF = 25


def near(shape: str, *, finer: int = 1) -> tuple[Model, Contrast]:
    """A model of a shape, and twins: token t's twin is t + 25, whose embedding lies as near as the model's precision allows.

    In float64, but for mixtures of experts, which torch computes in float32 only; `finer` divides the distance.
    """
    case, generator = case_of(shape), torch.Generator().manual_seed(2)
    model = build(shape)
    mixture = shape in ("mixtral", "qwen2moe")
    distance = (1e-2 if mixture else 1e-3) / finer
    model.bridge.to(torch.float32 if mixture else torch.float64)
    with torch.no_grad():
        for parameter in model.bridge.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for part in model.bridge.modules():
            if "Embed" in type(part).__name__ and len(getattr(part, "weight", ())) == 2 * HALF:
                away = distance * torch.randn(part.weight[HALF:].shape, generator=generator, dtype=torch.float64)
                part.weight[HALF:] = part.weight[:HALF] + away
    beside = {name: tensor % (HALF - 3) + 3 for name, tensor in case.beside.items()}
    clean = case.tokens % (HALF - 3) + 3
    twins = {name: tensor + HALF for name, tensor in beside.items()}
    answers, wrong = torch.tensor([7, 8]), torch.tensor([9, 10])
    return model, Contrast(
        clean=clean, corrupt=clean + HALF, answers=answers, wrong=wrong, beside=beside, beside_corrupt=twins or None
    )
