"""MLPs as key–value memories: what fires each neuron, what it writes, what is stored in it, and how to change that.

Single neurons
    memories.py, expert_memories.py    every kind of MLP as keys, values and activations; mixtures of experts too
    keys.py        top triggers in one pass, with controls       patterns.py     what triggers share, beyond chance
    values.py      what values say, and whether it follows       detectors.py    what neurons tell, by what they read and write
    subupdates.py, readout.py    what each memory adds to each logit              steering.py    neurons scaled
    census.py      all neurons in numbers                        fourier.py      waves modulo p

Facts
    knowledge.py, recall.py, tracing.py, editing.py, judging.py    where they are, writing them, and how well it went
    associative.py                                                 capacity

Mixtures of experts
    routing.py    what routers decide    specialists.py    what experts are for    rerouting.py    experts taken away

Must not know: the other rooms of analysis, figures, reports, paths.
"""
