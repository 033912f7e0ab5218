"""`interp doctor`: what is installed here, what the machine has, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from interp import __version__
from interp.cli import Answer
from interp.experiment import discovery, flags, manifest


@dataclass(frozen=True)
class Check:
    """One line: what was looked for, what is there. `mend` is None when all is well, `needed` when nothing works without it."""

    name: str
    found: str
    mend: str | None = None
    needed: bool = False


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and looks."""
    return flags.call(doctor, argv, prog=prog)


def doctor(*, out: Path = flags.REPORTS) -> Answer:
    """Versions, devices, threads, Chromium, caches, the shipped model, disk space. Exit code 1 when something needed is missing.

    Args:
        out: the folder that holds the runs
    """
    checks = [_python(), *_packages(), _device(), _kernels(), _shipped(), _experiments(), _chromium(), _cache(), _disk(out)]
    width = max(len(check.name) for check in checks)
    lines = [f"{'ok ' if check.mend is None else '!! '} {check.name:<{width}}  {check.found}" for check in checks]
    faults = [f"{check.name}: {check.mend}" for check in checks if check.mend is not None]
    code = int(any(check.needed and check.mend is not None for check in checks))
    return Answer("\n".join([*lines, *([""] if faults else []), *faults]), code)


def _python() -> Check:
    return Check("python", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors")


def _packages() -> list[Check]:
    versions = {"interp": __version__, **manifest.packages()}
    wanted = [manifest.requirement_name(each) for each in metadata.requires("interp") or [] if "extra ==" not in each]
    missing = [name for name in wanted if name not in versions]
    main = ", ".join(
        f"{name} {versions[name]}" for name in ("interp", "torch", "transformer-lens", "transformers") if name in versions
    )
    mend = f"missing: {', '.join(missing)}; pip install them" if missing else None
    return [Check("packages", main, mend, needed=True)]


def _device() -> Check:
    import torch

    device = flags.resolve_device("auto")
    name = f" ({torch.cuda.get_device_name()})" if device == "cuda" else ""
    return Check("device", f"{device}{name}, {torch.get_num_threads()} threads")


def _kernels() -> Check:
    import torch

    from interp.sae import kernels

    device = flags.resolve_device("auto")
    chosen = kernels.backend(torch.zeros(1, device=device))
    slow = (device, chosen) == ("cpu", "torch")
    mend = "install a C++ compiler (apt-get install g++): autoencoders train more slowly without one" if slow else None
    return Check("kernels", f"{chosen} for autoencoders on {device}", mend)


def _shipped() -> Check:
    folder = resources.files("interp.models") / "shipped"
    files = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    there = any(name.endswith(".safetensors") for name in files)
    return Check(
        "shipped model", ", ".join(sorted(files)) or "none", None if there else "reinstall interp: its model is not here", True
    )


def _experiments() -> Check:
    found = discovery.discover()
    mend = None if found else "reinstall interp: its experiments are not here"
    return Check("experiments", f"{len(found)} in {discovery.folder()}", mend, needed=True)


def _chromium() -> Check:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Check("chromium", path or "none", None if path else "apt-get install chromium: only the tests of the reports need it")


def _cache() -> Check:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    offline = " (offline)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    return Check("hub cache", f"{home}{'' if home.is_dir() else ', empty'}{offline}")


def _disk(out: Path) -> Check:
    place = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free / 2**30
    return Check(
        "disk", f"{free:.1f} GiB free in {place}", None if free >= 2 else "make room: a store of activations takes gigabytes"
    )
