"""Attention heads: what they attend to, what they cost to lose, what they say to one another.

patterns.py      scores of attention patterns, with nulls          ablation.py   heads taken out, and the loss of every example
composition.py   composition and copying, from the weights alone   direct.py     what heads write straight into the logits

Must not know: the other rooms of analysis, figures, reports, paths.
"""
