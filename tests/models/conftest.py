"""Models to test on. Nothing may be fetched."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from model_shapes import DECODERS, SHAPES, case_of


@pytest.fixture(params=SHAPES)
def case(request):
    return case_of(request.param)


@pytest.fixture(params=DECODERS)
def decoder(request):
    return case_of(request.param)


@pytest.fixture
def gpt2():
    return case_of("gpt2")
