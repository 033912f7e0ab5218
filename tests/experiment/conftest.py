"""A toy experiment in a folder of its own."""

import pytest
from toy_experiment import TOY

from interp.experiment import discovery


@pytest.fixture
def scripts(tmp_path):
    """A folder with one experiment, E90."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "e90_toy_sum.py").write_text(TOY, encoding="utf-8")
    return folder


@pytest.fixture
def toy(scripts):
    return discovery.find("E90", scripts)
