"""Autoencoders go to the hub and come back, from a folder of a release too; here the hub is a directory on disk."""

import fnmatch
import shutil
import sys
from pathlib import Path

import pytest
import torch

from interp.errors import ConfigError, StoreError
from interp.sae import hub
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder

FIXTURES = Path(__file__).parent / "fixtures"


class Disk:
    """Does what `HfApi` does with what is used of it, in a directory."""

    def __init__(self, root):
        self.root, self.cache, self.calls = root / "hub", root / "cache", []

    def _files(self, repo):
        if not (self.root / repo).is_dir():
            raise OSError(f"404 Client Error: Repository {repo} Not Found\nmore about it")
        return [path for path in (self.root / repo).rglob("*") if path.is_file()]

    def list_repo_files(self, repo, *, revision):
        return [str(path.relative_to(self.root / repo)) for path in self._files(repo)]

    def snapshot_download(self, repo, *, revision, allow_patterns):
        self.calls.append(("download", revision))
        for path in self._files(repo):
            name = str(path.relative_to(self.root / repo))
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.cache / name)
        return str(self.cache)

    def create_repo(self, repo, *, private, exist_ok):
        self.calls.append(("create", private, exist_ok))
        (self.root / repo).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id, folder_path, path_in_repo, revision):
        shutil.copytree(folder_path, self.root / repo_id / path_in_repo, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"


@pytest.fixture
def api(tmp_path):
    return Disk(tmp_path)


@pytest.fixture
def sae():
    return SparseAutoencoder(6, 12, activation=TopK(3), seed=1)


@pytest.mark.parametrize("folder", ["", "layer_3/width_12"])
def test_what_is_pushed_comes_back_the_same(api, sae, folder):
    said = hub.push(sae, "me/mine", folder=folder, metadata={"model_name": "m"}, density=torch.full((12,), 0.25), api=api)
    assert said == "https://hub/me/mine/commit/1"
    assert api.calls == [("create", True, True)], "a repository is private unless said otherwise"
    (api.root / "me/mine/big.bin").write_bytes(b"other")
    saved = hub.pull("me/mine", folder=folder, revision="v1", api=api)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(saved.sae(x), sae(x)) and saved.metadata["model_name"] == "m"
    torch.testing.assert_close(saved.density, torch.full((12,), 0.25))
    assert api.calls[-1] == ("download", "v1") and not (api.cache / "big.bin").exists()


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("saelens", "unfolded_checkpoint"),
        ("saelens", "whitened_topk"),
        ("sparsify", "skip"),
        ("dictionary_learning", "AutoEncoder"),
    ],
)
def test_releases_of_other_libraries_are_pulled_in_their_own_layouts(api, layout, name):
    shutil.copytree(FIXTURES / layout, api.root / "they/theirs")
    assert hub.pull("they/theirs", folder=name, api=api).sae.d_sae == 12


def test_a_release_with_several_names_them_when_one_is_not_there(api):
    shutil.copytree(FIXTURES / "sparsify", api.root / "they/theirs")
    with pytest.raises(StoreError, match=r"they/theirs has no autoencoder in its root; it has them in groupmax, .* …$"):
        hub.pull("they/theirs", api=api)
    with pytest.raises(StoreError, match=r"no autoencoder in gruopmax \(did you mean groupmax\?\); it has"):
        hub.pull("they/theirs", folder="gruopmax", api=api)


def test_a_repository_without_autoencoders_says_no_more_than_that(api):
    (api.root / "they/none").mkdir(parents=True)
    with pytest.raises(StoreError, match="they/none has no autoencoder in its root$"):
        hub.pull("they/none", api=api)


@pytest.mark.parametrize("folder", ["../../etc", "/etc", "a/../../b", "a\\..\\b", "a\0b"])
def test_a_folder_that_leads_out_of_the_repository_is_refused(api, sae, folder):
    for act in (lambda: hub.pull("me/mine", folder=folder, api=api), lambda: hub.push(sae, "me/mine", folder=folder, api=api)):
        with pytest.raises(ConfigError, match="leads out of the repository; give a folder within it"):
            act()
    assert api.calls == []


def test_a_hostile_file_of_the_hub_is_refused(api):
    folder = shutil.copytree(FIXTURES / "dictionary_learning" / "AutoEncoder", api.root / "they/hostile")
    (folder / "ae.pt").write_bytes(b"\x80\x04K\x00.")
    with pytest.raises(StoreError, match="hostile, and nothing in it was run"):
        hub.pull("they/hostile", api=api)


def test_what_the_hub_says_comes_as_one_line(api):
    with pytest.raises(StoreError, match=r"^they/gone: 404 Client Error: Repository they/gone Not Found$"):
        hub.pull("they/gone", api=api)


def test_without_a_network_the_reason_and_the_way_out_are_given(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StoreError, match="^me/mine: the hub could not be reached; go online, or load from a folder"):
        hub.pull("me/mine")


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StoreError, match=r"pip install 'interp\[hub\]'"):
        hub.pull("me/mine")
