"""Sparse autoencoders: the network, its training, its scores, its features, its files.

`autoencoder`, `kernels`, `objectives` and `training` must not know models or text: they see rows of activations.
"""
