"""MLPs as key–value memories: what fires each neuron and what it writes (neurons.py).

Must not know: the other rooms of analysis, figures, reports, paths.
"""
