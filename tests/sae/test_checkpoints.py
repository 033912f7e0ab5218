"""The last good checkpoint survives kills, signals, full disks and damage; what is damaged is said to be."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from interp.activations.files import WriterDirectory
from interp.errors import StoreError, TrainingError
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.checkpoints import TrainingFolder
from interp.sae.training import train

SETTINGS = {"steps": 9, "runs": {"a": {"k": 2}}}
STATE = {"weights": torch.arange(6.0).view(2, 3).T, "moments": {0: [torch.ones(2), 3]}, "rows": [{"loss": 0.1}], "none": None}


def folder(path, *, resume=True, settings=SETTINGS):
    return TrainingFolder(path, settings, resume=resume)


@pytest.fixture
def two(tmp_path) -> Path:
    """A folder with checkpoints of steps 3 and 5."""
    with folder(tmp_path) as training:
        for step in (2, 3, 5):
            training.save(step, STATE)
    return tmp_path


def test_a_state_comes_back_as_it_was(two):
    with folder(two) as training:
        checkpoint = training.load()
    assert checkpoint is not None and checkpoint.step == 5
    state = checkpoint.state
    assert torch.equal(state["weights"], STATE["weights"])
    assert torch.equal(state["moments"][0][0], torch.ones(2))
    assert state["moments"][0][1] == 3 and state["rows"] == [{"loss": 0.1}] and state["none"] is None


def test_the_last_two_checkpoints_stay(two):
    names = {f"checkpoint-0000000{step}.{kind}" for step in (3, 5) for kind in ("json", "safetensors")}
    assert {file.name for file in two.iterdir()} == names | {"log.jsonl"}


def test_an_empty_folder_holds_nothing(tmp_path):
    with folder(tmp_path / "new" / "folder") as training:
        assert training.load() is None


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("cut", [0.0, 0.5, 0.99])
def test_a_cut_off_file_is_named_with_the_way_back(two, kind, cut):
    file = two / f"checkpoint-00000005.{kind}"
    data = file.read_bytes()
    file.write_bytes(data[: int(cut * len(data))])
    with (
        folder(two) as training,
        pytest.raises(
            StoreError, match=rf"00000005\.{kind} is damaged .*; delete checkpoint-00000005\.json, which falls back to step 3"
        ),
    ):
        training.load()
    (two / "checkpoint-00000005.json").unlink()
    with folder(two) as training:
        checkpoint = training.load()
    assert checkpoint is not None and checkpoint.step == 3


def test_one_flipped_bit_anywhere_is_noticed(two):
    generator = torch.Generator().manual_seed(0)
    for kind in ("json", "safetensors"):
        file = two / f"checkpoint-00000005.{kind}"
        data = file.read_bytes()
        for place in torch.randint(len(data), (40,), generator=generator).tolist():
            broken = bytearray(data)
            broken[place] ^= 1
            file.write_bytes(broken)
            with folder(two) as training, pytest.raises(StoreError, match="is damaged"):
                training.load()
        file.write_bytes(data)


@pytest.mark.parametrize(
    "content", [b"[]", b'{"sha256": "0"}', b'{"checkpoint": 1, "sha256": 2}', b"[" * 100_000, b"\xff\x00", b"7"]
)
def test_a_hostile_checkpoint_is_a_clear_error(two, content):
    (two / "checkpoint-00000005.json").write_bytes(content)
    with folder(two) as training, pytest.raises(StoreError, match="is damaged"):
        training.load()


def test_a_pickle_in_the_place_of_weights_is_not_run(two, tmp_path):
    mark = tmp_path / "ran"
    (two / "checkpoint-00000005.safetensors").write_bytes(b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    with folder(two) as training, pytest.raises(StoreError, match="its checksum does not fit"):
        training.load()
    assert not mark.exists()


def test_a_folder_has_one_writer(two):
    with folder(two), pytest.raises(StoreError, match="is being written by another process"):
        folder(two)


def test_an_unwritable_folder_is_found_before_a_batch_is_read(tmp_path):
    (tmp_path / "file").write_text("")

    def batches():
        raise AssertionError("a batch was read")
        yield

    with pytest.raises(StoreError, match="the folder cannot be written .*; mend it, or choose another directory"):
        train(SparseAutoencoder(4, 8, activation=TopK(2)), batches(), steps=1, directory=tmp_path / "file" / "below")


def test_a_full_disk_keeps_the_last_good_checkpoint(two, monkeypatch):
    with folder(two) as training:
        training.load()

        def full(self, name, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(WriterDirectory, "put", full)
        with pytest.raises(
            StoreError, match=r"step 7 cannot be written \(No space left on device\); the checkpoint of step 5 is safe"
        ):
            training.save(7, STATE)
    monkeypatch.undo()
    with folder(two) as training:
        checkpoint = training.load()
    assert checkpoint is not None and checkpoint.step == 5


TRAINING = """
import sys, torch
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.training import train

def batches(start):
    for index in range(start, 10**6):
        yield torch.randn(64, 16, generator=torch.Generator().manual_seed(index))

train(
    SparseAutoencoder(16, 32, activation=TopK(2)), batches, steps=10**6, directory=sys.argv[1], checkpoint_every=1, log_every=5,
    resume=True,
)
"""


def started(path):
    """A process that trains into `path` and has written a checkpoint."""
    before = {file.name for file in path.glob("checkpoint-*.json")}
    process = subprocess.Popen([sys.executable, "-c", TRAINING, str(path)], stderr=subprocess.PIPE, text=True)
    while not {file.name for file in path.glob("checkpoint-*.json")} - before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return process


def newest(path):
    return max(path.glob("checkpoint-*.json")).stem


@pytest.mark.slow
def test_a_killed_training_leaves_a_checkpoint_that_goes_on(tmp_path):
    reached = []
    for delay in (0.0, 0.013, 0.05):
        process = started(tmp_path)
        time.sleep(delay)
        process.kill()
        process.communicate()
        reached.append(newest(tmp_path))
    assert reached == sorted(set(reached))
    for line in (tmp_path / "log.jsonl").read_bytes().splitlines():
        assert json.loads(line)["run"] == "sae"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGTERM, "TrainingError: SIGTERM: stopped after step"),
        (signal.SIGINT, "KeyboardInterrupt: stopped after step"),
    ],
)
def test_a_signal_ends_the_step_and_saves_it(tmp_path, number, message):
    process = started(tmp_path)
    process.send_signal(number)
    error = process.communicate()[1]
    assert message in error and f"which {tmp_path} holds; pass resume=True to go on" in error
    assert process.returncode != 0
    assert int(newest(tmp_path).split("-")[1]) == int(error.rsplit("after step ", 1)[1].split()[0])


def test_signals_are_handled_as_before_once_training_is_over(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def batches():
        yield torch.randn(8, 4)
        os.kill(os.getpid(), signal.SIGTERM)
        yield torch.randn(8, 4)

    sae = SparseAutoencoder(4, 8, activation=TopK(2))
    with pytest.raises(TrainingError, match="SIGTERM: stopped after step 1 of 2"):
        train(sae, batches(), steps=2, directory=tmp_path / "stopped")
    train(sae, [torch.randn(8, 4)], steps=1, directory=tmp_path / "finished")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
