"""Claims about writing a store: commits survive, faults are named, an interrupted harvest goes on where it stopped."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from fake_activations import HEADS, HOOK, SHARD, batches_of, rows_of

from interp.activations import ActivationStore, StoreWriter, files
from interp.activations.log import HEADER_FILE, LOG_FILE
from interp.errors import StoreError


def written(path, header, batches, **options):
    with StoreWriter(path, header, shard_bytes=SHARD, **options) as writer:
        for batch in batches[writer.batches_committed :]:
            writer.append(batch)
    return ActivationStore.open(path)


def indices(store):
    return torch.cat([b.activations[HOOK][:, 0] for b in store.sequential(HOOK)]).long().tolist()


@pytest.mark.parametrize("stop", [0, 1, 5, 9])
def test_an_interrupted_harvest_goes_on_at_the_next_uncommitted_batch(tmp_path, header, stop):
    batches = batches_of(1000)

    def interrupt():
        with StoreWriter(tmp_path / "s", header, shard_bytes=3 * SHARD) as writer:
            for batch in batches[:stop]:
                writer.append(batch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    if stop:
        assert ActivationStore.open(tmp_path / "s", unfinished=True).rows == stop * 100  # whole batches that had come are kept
    store = written(tmp_path / "s", header, batches, resume=True)
    assert indices(store) == list(range(1000))


def test_a_resumed_store_drops_a_torn_line_and_leftovers(tmp_path, header):
    path = tmp_path / "s"
    store = written(path, header, batches_of(300))
    lines = (path / LOG_FILE).read_bytes().splitlines(keepends=True)
    (path / LOG_FILE).write_bytes(lines[0] + lines[1][:30])
    (path / "shard-000007.safetensors.tmp").write_bytes(b"half a shard")
    store = written(path, header, batches_of(500), resume=True)
    assert indices(store) == list(range(500))
    names = {file.name for file in path.iterdir()}
    assert names == {HEADER_FILE, LOG_FILE, *(f"shard-00000{i}.safetensors" for i in range(5))}


class Killed(Exception):
    """Stands for the end of the process: nothing after it is written."""


class FaultyDisk:
    """Lets `good` calls through, and fails the next one; a write that fails has written half."""

    def __init__(self, monkeypatch, good: int, error: Exception) -> None:
        self.left, self.error = good, error
        for name in ("write", "fsync", "rename", "open"):
            monkeypatch.setattr(files.os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, real):
        def call(*arguments):
            self.left -= 1
            if self.left == -1:
                if name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise self.error
            return real(*arguments)

        return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_at_any_call_gives_one_clear_error_and_loses_nothing_committed(tmp_path, header, monkeypatch, code):
    batches = batches_of(200)
    for good in range(200):
        path = tmp_path / str(good)
        with monkeypatch.context() as patch:
            FaultyDisk(patch, good, OSError(code, os.strerror(code)))
            committed = 0
            try:
                with StoreWriter(path, header, shard_bytes=SHARD) as writer:
                    for batch in batches:
                        committed = writer.rows_committed
                        writer.append(batch)
                break
            except StoreError as error:
                assert os.strerror(code) in str(error)
                assert "rows in" in str(error)
        if (path / HEADER_FILE).exists():
            store = ActivationStore.open(path, unfinished=True)
            assert store.rows >= committed
            assert store.verify() == store.bytes
        assert indices(written(path, header, batches, resume=True)) == list(range(200))
    assert good > 15  # the loop ended because the harvest got through, not because nothing was injected


def test_a_full_disk_says_what_is_safe(tmp_path, header, monkeypatch):
    expected = r"shard-000002.safetensors cannot be written \(No space left on device\); 200 rows in 2 shards are safe; mend it"
    with pytest.raises(StoreError, match=expected), StoreWriter(tmp_path / "s", header, shard_bytes=SHARD) as writer:
        for number, batch in enumerate(batches_of(400)):
            if number == 2:
                FaultyDisk(monkeypatch, 1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            writer.append(batch)


def test_a_process_that_ends_at_any_call_leaves_every_commit_and_no_torn_row(tmp_path, header, monkeypatch):
    batches = batches_of(200)
    for good in range(200):
        path = tmp_path / str(good)
        with monkeypatch.context() as patch:
            FaultyDisk(patch, good, Killed())
            committed = 0
            try:
                with StoreWriter(path, header, shard_bytes=SHARD) as writer:
                    for batch in batches:
                        committed = writer.rows_committed
                        writer.append(batch)
                break
            except Killed:
                pass
        if (path / HEADER_FILE).exists():
            store = ActivationStore.open(path, unfinished=True)
            assert store.rows >= committed
            if store.finished:  # it ended after the last line was written
                assert indices(store) == list(range(200))
                continue
        assert indices(written(path, header, batches, resume=True)) == list(range(200))


KILLED = """
import sys
sys.path[:0] = {path!r}
from fake_activations import HEADER, batches_of
from interp.activations import StoreWriter
with StoreWriter({store!r}, HEADER, shard_bytes=1) as writer:
    for batch in batches_of(100_000):
        writer.append(batch)
        print(writer.rows_committed, flush=True)
"""


def test_kill_9_loses_no_committed_row(tmp_path):
    path = tmp_path / "s"
    script = KILLED.format(path=sys.path, store=str(path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    said = [int(line) for line in process.communicate()[0].splitlines() if line.strip()]
    store = ActivationStore.open(path, unfinished=True)
    assert store.rows >= max(said)
    assert store.verify() == store.bytes
    assert indices(store) == list(range(store.rows))


def test_a_second_writer_is_refused(tmp_path, header):
    with StoreWriter(tmp_path / "s", header) as writer:
        writer.append(rows_of(10))
        with pytest.raises(StoreError, match="is being written by another process; wait for it to end, or write elsewhere"):
            StoreWriter(tmp_path / "s", header, resume=True)


def test_a_store_is_never_overwritten(tmp_path, header):
    written(tmp_path / "s", header, batches_of(100))
    with pytest.raises(
        StoreError, match="holds an activation store already; resume it, delete it, or write to another directory"
    ):
        StoreWriter(tmp_path / "s", header)
    with pytest.raises(StoreError, match="is finished, with 100 rows; write to another directory"):
        StoreWriter(tmp_path / "s", header, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"is not empty and not an activation store \(thesis.tex …\)"):
        StoreWriter(tmp_path / "mine", header)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_resuming_another_harvest_names_every_difference(tmp_path, header):
    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path / "s", header) as writer:
        writer.append(rows_of(10))
        raise KeyboardInterrupt
    other = replace(header, model="gpt2", dtype="float16")
    with pytest.raises(
        StoreError, match="cannot be resumed: model 'fake' in the store, 'gpt2' now; dtype 'float32' in the store, 'float16' now"
    ):
        StoreWriter(tmp_path / "s", other, resume=True)


def test_an_unwritable_place_is_named(tmp_path, header):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: open cannot be written \(File exists\)"):
        StoreWriter(tmp_path / "file", header)


def test_no_rows_is_an_error(tmp_path, header):
    with pytest.raises(StoreError, match="no rows came, so there is nothing to store; the corpus is empty"):
        ActivationStore.write(tmp_path / "s", [], header)


def test_values_that_do_not_fit_are_refused(tmp_path, header):
    half = replace(header, dtype="float16")
    with pytest.raises(
        StoreError, match="batch 1, blocks.0.hook_resid_post: values that are not finite as float16; store float32 or bfloat16"
    ):
        ActivationStore.write(tmp_path / "h", [rows_of(5), rows_of(5, first=70_000)], half)
    broken = rows_of(5)
    broken = replace(broken, activations={**broken.activations, HEADS: torch.full((5, 12), float("nan"))})
    with pytest.raises(StoreError, match="batch 0, blocks.0.attn.hook_z: values that are not finite as float32; check the model"):
        ActivationStore.write(tmp_path / "n", [broken], header)


def test_batches_that_do_not_belong_are_refused(tmp_path, header):
    with pytest.raises(StoreError, match=r"shapes .*\(6,\).* in the store, .*\(7,\).* in the batch"):
        ActivationStore.write(tmp_path / "d", [rows_of(5), rows_of(5, d=7)], header)
    with pytest.raises(StoreError, match=r"the batch lacks ln_final; it has blocks.0.hook_resid_post, blocks.0.attn.hook_z"):
        ActivationStore.write(tmp_path / "l", [rows_of(5)], replace(header, hooks=("ln_final",)))


def test_a_header_that_makes_no_sense_is_refused(header):
    with pytest.raises(StoreError, match="dtype 'int8' cannot be stored; use one of float32, float16, bfloat16"):
        replace(header, dtype="int8")
    with pytest.raises(StoreError, match="one or more different hooks"):
        replace(header, hooks=(HOOK, HOOK))
