"""Provenance: what ran, where and with what, for `manifest.json`.

Must not know: what experiments compute, HTML.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = 1
NAME = "manifest.json"


def packages() -> dict[str, str]:
    """Versions of this package and of all it depends on directly; extras only where they are installed."""
    names = ["interp", *(requirement_name(each) for each in metadata.requires("interp") or [])]
    versions = {}
    for name in dict.fromkeys(names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return dict(sorted(versions.items()))


def machine(device: str) -> dict[str, Any]:
    """The computer: Python, system, processors, threads, and the accelerator if the run is on one."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "device": device,
    }
    torch = sys.modules.get("torch")  # a run that never imported it has no threads of its
    if torch is not None:
        facts["torch_threads"] = torch.get_num_threads()
        if device.startswith("cuda"):
            facts["accelerator"] = torch.cuda.get_device_name(device)
            facts["peak_accelerator_bytes"] = torch.cuda.max_memory_allocated(device)
    return facts


def peak_memory_bytes() -> int | None:
    """The most memory this process has held, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def git(where: Path) -> dict[str, Any] | None:
    """Commit of the clone that `where` lies in, and a hash of what differs from it; None outside a clone.

    `dirty` is the SHA-256 over the difference and over all untracked files, and None when the tree is as committed.
    """
    commit = _git(where, "rev-parse", "HEAD")
    root = _git(where, "rev-parse", "--show-toplevel")
    if commit is None or root is None:
        return None
    top = Path(root.decode().strip())
    changes = _git(top, "diff", "HEAD", "--binary") or b""
    untracked = (_git(top, "ls-files", "--others", "--exclude-standard", "-z") or b"").split(b"\0")[:-1]
    digest = hashlib.sha256(changes)
    for name in untracked:
        digest.update(name + b"\0" + file_sha256(top / os.fsdecode(name)).encode())
    return {"commit": commit.decode().strip(), "dirty": digest.hexdigest() if changes or untracked else None}


def rows(record: dict[str, Any]) -> dict[str, str]:
    """The part of a manifest that a reader of the report wants at its foot."""
    git_state, versions, device = record["git"], record["packages"], record["machine"]
    commit = "not from a clone" if git_state is None else git_state["commit"] + (" with changes" if git_state["dirty"] else "")
    memory = record["peak_memory_bytes"]
    stages = ", ".join(f"{each['stage']} {each['seconds']:.1f} s" for each in record["stages"])
    main_packages = [name for name in ("interp", "torch", "transformer-lens", "numpy") if name in versions]
    return {
        "run again": record["rerun"],
        "command": record["command"],
        "settings": ", ".join(f"{name}={value}" for name, value in record["config"].items()),
        "started": record["started"],
        "commit": commit,
        "versions": ", ".join(f"{name} {versions[name]}" for name in main_packages),
        "machine": f"{device['system']}, Python {device['python']}, {device['processors']} processors, {device['device']}",
        **({} if memory is None else {"peak memory": f"{memory / 2**20:.0f} MiB"}),
        **({"stages": stages} if stages else {}),
        **record["sources"],
    }


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its path there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; of its target's name for a link that leads nowhere."""
    if not path.is_file():
        return hashlib.sha256(os.fsencode(str(path))).hexdigest()
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest in one step: a folder has a whole one or none."""
    unfinished = folder / f"{NAME}.unfinished"
    unfinished.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / NAME)


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished run; None for a folder without one, or with one of another schema."""
    try:
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("schema") == SCHEMA else None


def _git(where: Path, *arguments: str) -> bytes | None:
    directory = where if where.is_dir() else where.parent
    try:
        return subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def requirement_name(requirement: str) -> str:
    """The name in a requirement such as `pyright[nodejs]>=1.1; extra == "dev"`."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
