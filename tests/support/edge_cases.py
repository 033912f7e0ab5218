"""Models of every shape with weights that differ from norm to norm, pairs of inputs for them, and a slow way to replace edges."""

import torch
from model_shapes import build, case_of

from interp.models.hooked import Edit
from interp.tasks.contrast import Contrast

_shaken = {}


def shaken(shape):
    """The model of a shape with noise on every weight, so that no two norms are alike and every edge does something."""
    if shape not in _shaken:
        model, generator = build(shape), torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.bridge.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        _shaken[shape] = model
    return _shaken[shape]


def contrast_of(shape):
    """Two examples whose corrupted twins differ everywhere, in both inputs of an encoder-decoder."""
    case, generator = case_of(shape), torch.Generator().manual_seed(5)
    other = {name: torch.randint(3, 50, tensor.shape, generator=generator) for name, tensor in case.beside.items()}
    return Contrast(
        clean=case.tokens,
        corrupt=torch.randint(3, 50, case.tokens.shape, generator=generator),
        answers=torch.tensor([7, 8]),
        wrong=torch.tensor([9, 10]),
        beside=case.beside,
        beside_corrupt=other or None,
    )


def put(hook, head, value):
    """The edit that puts `value` at a hook, or only at one of its heads."""

    def apply(now):
        if head is None:
            return value
        now[:, :, head] = value[:, :, head]
        return now

    return Edit(hook, apply)


def logits_by_freezing(model, graph, contrast, edges):
    """Logits with these edges replaced, by nothing but forward passes.

    What a reader would read is read off a run in which the sources write what they write on the corrupted twin, and every
    other sublayer what it wrote in the run so far; then it is put in, reader after reader.
    """
    sublayers, twin = graph.anatomy.sublayers, contrast.swapped()
    wrote = [*(s.out for s in sublayers), *(s.writes for s in sublayers)]
    starts = [stream.start for stream in graph.anatomy.streams.values()]
    corrupt = model.run(twin.clean, read=[*wrote, *starts], **twin.beside).activations
    edits = []
    for (target, way), reader in graph.readers.items():
        sources = [graph.writers[edge.source] for edge in edges if (edge.target, edge.way) == (target, way)]
        if not sources:
            continue
        now = model.run(contrast.clean, read=wrote, edits=edits, **contrast.beside).activations
        changed = {source.sublayer.name for source in sources if source.sublayer}
        frozen = [
            put(s.writes if s.name in changed else s.out, None, now[s.writes if s.name in changed else s.out]) for s in sublayers
        ]
        swapped = [put(source.hook, source.head, corrupt[source.hook]) for source in sources]
        run = model.run(contrast.clean, read=[reader.way.hook], edits=[*frozen, *swapped], logits=True, **contrast.beside)
        edits.append(put(reader.way.hook, reader.head, run.activations[reader.way.hook]))
    return model.run(contrast.clean, edits=edits, **contrast.beside).logits
