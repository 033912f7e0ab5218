"""Planted models that several tests use, built once."""

from functools import cache

from interp.models.memories import planted_memory, planted_world
from interp.tasks.facts import world


@cache
def memory():
    return planted_memory(64, 32, seed=1)


@cache
def small_world():
    return world(32, 2, 8)


@cache
def world_model():
    return planted_world(small_world())
