"""Models: `hooked.py` is the one door to them, `lens.py` the one to TransformerLens; the rest of the room stands behind."""
