"""Attention heads and circuits: what heads attend to, what they write, what they cost to lose, what they say to one another.

What a head does by itself
    patterns.py, targets.py    scores of attention patterns, with nulls     classes.py    heads by what they attend to
    composition.py, qkov.py    composition, copying and circuits, from the weights alone
    direct.py                  what heads write straight into the logits
    positions.py               tables of positions as shifts and waves, scores by distance
    temperature.py             how sharp heads are, and what heating them costs
    sources.py                 which tokens are brought from: norm-weighted attention, keys hidden

What is lost or changed without it
    ablation.py    heads and other nodes taken out      patching.py    activations of a corrupted twin put in
    paths.py       exact edges of a graph.py, made of runs in replacing.py

What gradients say of the same
    gradients.py, nodes.py, softmax.py    attribution patching, AtP*      edge_attribution.py    EAP, EAP-IG
    static.py                             guesses from weights and direct effects     calibration.py    how right all of them are

Circuits
    circuits.py     edges chosen         faithfulness.py    how much of the model they are     circuit_files.py    exports
    scrubbing.py    hypotheses tested    interchange.py     swapped causes                     flow.py             rollout, flow
    induction.py, formation.py    the induction circuit, and how it forms    messages.py    attention as a graph

Must not know: the other rooms of analysis, figures, reports, paths of files.
"""
