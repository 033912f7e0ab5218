"""The compiled kernels are built once, by several processes at a time if need be, and missed without harm."""

import os
import stat
import subprocess
import sys

import pytest
import torch

from interp.sae import kernels, native
from interp.sae.native import library

HERE = library.load() is not None
needs_compiler = pytest.mark.skipif(not HERE, reason="no C++ compiler here")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, and no library loaded."""
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(kernels.FORCED, raising=False)
    library.load.cache_clear()
    yield tmp_path
    library.load.cache_clear()


def compiler(folder, script):
    """A program that stands for a compiler."""
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@needs_compiler
def test_a_build_is_kept_and_used_again(fresh, monkeypatch):
    assert native.available()
    (built,) = (fresh / "cache").iterdir()
    library.load.cache_clear()
    monkeypatch.setattr(library, "build", lambda compiler, path: pytest.fail("built twice"))
    assert native.available()
    assert built.is_file()


@needs_compiler
def test_two_processes_may_build_at_once(fresh):
    command = [sys.executable, "-c", f"import runpy; print(runpy.run_path({library.__file__!r})['load']() is not None)"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["True\n", "True\n"]
    assert len(list((fresh / "cache").iterdir())) == 1


@needs_compiler
def test_another_source_is_another_build(fresh, monkeypatch):
    before = library._key("/bin/sh")
    changed = fresh / "kernels.cpp"
    changed.write_text(library.SOURCE.read_text() + "\n")
    monkeypatch.setattr(library, "SOURCE", changed)
    assert library._key("/bin/sh") != before


def test_without_a_compiler_pytorch_computes_and_nothing_is_said(fresh, monkeypatch, recwarn):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    assert not native.available()
    assert kernels.backend(torch.zeros(1)) == "torch"
    assert not recwarn.list


def test_a_compiler_that_fails_is_named_once_and_pytorch_computes(fresh, monkeypatch):
    monkeypatch.setenv("CXX", compiler(fresh, "echo no such flag >&2; exit 1"))
    with pytest.warns(UserWarning, match=r"kernels are not used, PyTorch's are: .*c\+\+ failed: no such flag") as warned:
        assert not native.available()
        assert kernels.backend(torch.zeros(1)) == "torch"
    assert len(warned) == 1
    assert not list((fresh / "cache").iterdir())


def test_a_compiler_that_makes_rubbish_is_named_too(fresh, monkeypatch):
    monkeypatch.setenv("CXX", compiler(fresh, 'while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"'))
    with pytest.warns(UserWarning, match="kernels are not used, PyTorch's are"):
        assert not native.available()


@needs_compiler
def test_results_do_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(200, 32, generator=generator), torch.randn(3000, 32, generator=generator)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            values, latents = native.topk(rows, weight, torch.zeros(3000), 8)
            pointers = torch.arange(0, 8 * 200 + 1, 8)
            transposed = native.transpose(pointers, latents.flatten(), 3000)
            results.append([latents.sort().values, native.gather(torch.ones(1600), transposed, rows)])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


@needs_compiler
def test_nothing_is_built_or_loaded_by_an_import(fresh):
    code = "import interp.sae.training, interp.sae.native.library as library; print(library.load.cache_info().currsize)"
    environment = os.environ | {"INTERP_CACHE": str(fresh / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "0\n", done.stderr
    assert not (fresh / "cache").exists()
