"""Mechanistic interpretability of transformers, from text to a report.

The rooms, lowest floor first: `stats` and `measurement`; `text` and `tasks`; `models`; `activations`; `heads`, `mlp`, `sae` and
`probes`; `figures` and `report`; `experiment`. Import the room you need: nothing heavy is loaded before that.
"""

__version__ = "0.1.0"
