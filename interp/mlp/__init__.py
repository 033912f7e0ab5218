"""MLPs as key–value memories: what fires each neuron, what it writes, what is stored in it, and how to change that.

memories.py    every kind of MLP as keys, values and activations        keys.py         top triggers in one pass, with controls
patterns.py    what triggers share, beyond chance                       values.py       what values say, and whether it follows
subupdates.py  what each memory adds to each logit; steering            census.py       all neurons in numbers
knowledge.py, recall.py, tracing.py, editing.py    facts: where they are, and writing them   associative.py  capacity

Must not know: the other rooms of analysis, figures, reports, paths.
"""
