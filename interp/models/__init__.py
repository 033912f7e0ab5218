"""Models: `hooked.py` is the one door to them and to TransformerLens; the rest of the room stands behind it."""
