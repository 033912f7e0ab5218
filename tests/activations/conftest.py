import pytest
from fake_activations import HEADER, FakeModel

from interp.activations import Header


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def header() -> Header:
    return HEADER
