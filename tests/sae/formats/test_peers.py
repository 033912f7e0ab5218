"""What we write, the other libraries load and compute alike. Needs a python that has the library, named by a variable:

INTERP_PEER_SAELENS=…/python INTERP_PEER_DICTIONARY_LEARNING=…/python INTERP_PEER_SPARSIFY=…/python pytest tests/sae/formats
"""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.sae import formats

READ = Path(__file__).parent.parent / "fixtures" / "read.py"


@pytest.fixture(params=["saelens", "dictionary_learning", "sparsify"])
def library(request):
    if f"INTERP_PEER_{request.param.upper()}" not in os.environ:
        pytest.skip(f"INTERP_PEER_{request.param.upper()} names no python that has {request.param}")
    return request.param


def read_by(library, folder):
    """Runs the library over all autoencoders in `folder`."""
    python = os.environ[f"INTERP_PEER_{library.upper()}"]
    done = subprocess.run([python, READ, library, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_library_loads_our_files_and_computes_the_same(library, every, elsewhere, loaded_by_saelens, x, tmp_path):
    kinds = set(every) if library == "saelens" else elsewhere[library]
    save_file({"x": x}, tmp_path / "x.safetensors")
    for kind in kinds:
        formats.save(every[kind](), tmp_path / kind, metadata={"hook_name": "blocks.0.hook_resid_post"}, layout=library)
    read_by(library, tmp_path)
    loaded = {path.stem for path in tmp_path.glob("*.safetensors")} - {"x"}
    assert loaded == (loaded_by_saelens if library == "saelens" else kinds), [
        (path.stem, path.read_text()) for path in tmp_path.glob("*.txt")
    ]
    for kind in loaded:
        theirs, ours = load_file(tmp_path / f"{kind}.safetensors"), every[kind]()
        torch.testing.assert_close(theirs["codes"], ours.encode(x), rtol=1e-4, atol=1e-5, msg=f"codes of {kind}")
        torch.testing.assert_close(theirs["output"], ours(x), rtol=1e-4, atol=1e-5, msg=f"outputs of {kind}")
