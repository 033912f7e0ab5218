"""Compiles `kernels.cpp` once per machine and loads it.

The file is plain C++ without PyTorch's or Python's headers: any compiler will do, in about two seconds, and no version of PyTorch
makes it stale. It is kept in the folder `INTERP_CACHE` (by default `~/.cache/interp`) under the hash of all that it depends on.

Must not know: tensors, what the kernels compute.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp-simd", "-std=c++17", "-shared", "-fPIC", "-pthread")
PATIENCE = 120
"""Seconds that a compiler may take."""


@cache
def load() -> ctypes.CDLL | None:
    """The compiled kernels, from the cache or compiled now; None where there is no compiler, or (with a warning) it fails."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "c++", "g++", "clang++"))), None)
    if compiler is None:
        return None
    path = _cache() / f"kernels-{_key(compiler)}.so"
    try:
        if not path.is_file():
            build(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            f"the compiled kernels are not used, PyTorch's are: {compiler} failed: {' '.join(said.split())[:300]}", stacklevel=2
        )
        return None


def build(compiler: str, path: Path) -> None:
    """Compiles into `path`, which is complete or absent whatever happens, also with several processes at it.

    Raises OSError or subprocess.SubprocessError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
        os.replace(made, path)


def _cache() -> Path:
    return Path(os.environ.get("INTERP_CACHE") or Path.home() / ".cache" / "interp")


def _key(compiler: str) -> str:
    """Whatever changes the code that comes out: source, flags, compiler, and the processor it is made for."""
    stat = os.stat(compiler)
    parts = (
        SOURCE.read_bytes(),
        FLAGS,
        os.path.realpath(compiler),
        stat.st_size,
        stat.st_mtime_ns,
        platform.machine(),
        _processor(),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What this processor can do, where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
