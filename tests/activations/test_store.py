"""Claims about reading a store: what was written comes back, once per epoch, in an order that one integer resumes."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from fake_activations import HEADS, HOOK, SHARD, FakeModel, batches_of

from interp.activations import ActivationStore, StoreWriter
from interp.activations.log import HEADER_FILE, LOG_FILE, ShardRecord, encode_header, read_log, shard_line
from interp.errors import StoreError


@pytest.fixture
def store(tmp_path, header):
    return ActivationStore.write(tmp_path / "store", batches_of(1050), header, shard_bytes=SHARD)


def test_sequential_gives_back_what_was_written(store):
    read = list(store.sequential([HOOK, HEADS], rows=64))
    for field in ("tokens", "document", "position"):
        assert torch.equal(torch.cat([getattr(b, field) for b in read]), torch.cat([getattr(b, field) for b in batches_of(1050)]))
    for hook in (HOOK, HEADS):
        assert torch.equal(
            torch.cat([b.activations[hook] for b in read]), torch.cat([b.activations[hook] for b in batches_of(1050)])
        )
        assert read[0].shapes[hook] == store.header.shapes[hook]


@pytest.mark.parametrize("rows", [1, 7, 100, 4096])
def test_every_row_comes_exactly_once_per_epoch_with_its_own_token(store, rows):
    read = list(store.batches(HOOK, rows=rows, seed=5))
    index = torch.cat([b.activations[HOOK][:, 0] for b in read]).long()
    assert torch.equal(index.sort().values, torch.arange(1050))
    assert torch.equal(torch.cat([b.tokens for b in read]), index % 251)
    assert torch.equal(torch.cat([b.document * 16 + b.position for b in read]), index)
    assert all(len(b) == rows for b in read[:-1])


@pytest.mark.parametrize("start", [0, 1, 500, 1049, 1050, 2100 + 17])
def test_one_integer_resumes_the_stream_with_any_batch_size(store, start):
    def stream(start, rows):
        while True:
            for batch in store.batches(HOOK, rows=rows, seed=1, start=start):
                yield from batch.activations[HOOK][:, 0].tolist()
                start += len(batch)

    whole, resumed = stream(0, 64), stream(start, 31)
    for _ in range(start):
        next(whole)
    assert [next(whole) for _ in range(1200)] == [next(resumed) for _ in range(1200)]


def test_epochs_and_seeds_have_their_own_orders(store):
    orders = [next(iter(store.batches(HOOK, rows=50, seed=s, start=p))).tokens.tolist() for s, p in ((0, 0), (1, 0), (0, 1050))]
    assert len({tuple(o) for o in orders}) == 3


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_each_dtype_comes_back_as_stored(tmp_path, header, dtype):
    store = ActivationStore.write(tmp_path / dtype, batches_of(60), replace(header, dtype=dtype))
    (batch,) = store.sequential(HOOK)
    assert batch.activations[HOOK].dtype == getattr(torch, dtype)
    assert torch.equal(batch.activations[HOOK][:, 0].float(), torch.arange(60.0))
    assert store.verify() == store.bytes


def test_shards_are_plain_safetensors(store):
    tensors = safetensors.torch.load_file(store.path / "shard-000003.safetensors")
    assert set(tensors) == {HOOK, HEADS, "rows/tokens", "rows/document", "rows/position"}
    assert tensors[HOOK][:, 0].tolist() == [float(i) for i in range(300, 400)]


def test_a_store_for_something_else_names_both_sides(store, model):
    other = FakeModel()
    other.name, other.fingerprint = "gpt2", "0" * 64
    with pytest.raises(StoreError, match=r"was harvested from fake \(ffffffffffff\), not from gpt2 \(000000000000\)"):
        ActivationStore.open(store.path, model=other)
    with pytest.raises(StoreError, match=r"was harvested with tokenizer aaaaaaaaaaaa, not with 000000000000"):
        ActivationStore.open(store.path, tokenizer=other)
    with pytest.raises(
        StoreError,
        match=rf"holds {HOOK}, {HEADS}, not blocks.0.hook_resid_pst \(did you mean {HOOK}.*\?\)",
    ):
        ActivationStore.open(store.path, hook="blocks.0.hook_resid_pst")
    with pytest.raises(StoreError, match="not blocks.9.hook_z"):
        store.batches("blocks.9.hook_z")
    assert ActivationStore.open(store.path, model=model, hook=HOOK).rows == 1050


def test_no_store_at_all_is_named(tmp_path):
    with pytest.raises(StoreError, match="is not an activation store: it has no header.json"):
        ActivationStore.open(tmp_path)


def test_a_missing_shard_is_named(store):
    (store.path / "shard-000002.safetensors").unlink()
    with pytest.raises(StoreError, match="shard-000002.safetensors is missing: the log commits it"):
        ActivationStore.open(store.path)


def test_a_cut_off_shard_is_named(store):
    file = store.path / "shard-000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"shard-000002.safetensors has \d+ bytes, the log says \d+"):
        ActivationStore.open(store.path)


def test_one_flipped_bit_anywhere_in_a_shard_is_found_by_reading_and_by_verify(store):
    file = store.path / "shard-000001.safetensors"
    good = file.read_bytes()
    for place in range(0, len(good), 211):
        file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        reopened = ActivationStore.open(store.path)
        with pytest.raises(StoreError, match="shard-000001.safetensors is damaged: its sha256"):
            reopened.verify()
        with pytest.raises(StoreError, match="shard-000001.safetensors is damaged: its xxh3"):
            list(reopened.sequential(HOOK))
    file.write_bytes(good)
    assert ActivationStore.open(store.path).verify() == store.bytes


def test_verify_lists_every_damaged_shard(store):
    for index in (1, 4):
        file = store.path / f"shard-00000{index}.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StoreError, match=r"shard-000001.*; .*shard-000004"):
        ActivationStore.open(store.path).verify()


@pytest.mark.parametrize("change", ["dtype", "shape", "extra key"])
def test_a_shard_with_other_tensors_than_the_log_says_is_refused(store, change):
    """The bytes and their hashes agree; only the log's own list of tensors can tell."""
    log = read_log(store.path)
    record = log.shards[0]
    tensors = dict(record.tensors)
    match change:
        case "dtype":
            tensors[HOOK] = ("I32", tensors[HOOK][1])
        case "shape":
            tensors[HOOK] = ("F32", (6, 100))
        case "extra key":
            del tensors[HEADS]
    forged = ShardRecord(**{**vars(record), "tensors": tensors})
    lines = (store.path / LOG_FILE).read_bytes().splitlines(keepends=True)
    (store.path / LOG_FILE).write_bytes(b"".join([shard_line(forged), *lines[1:]]))
    with pytest.raises(StoreError, match="shard-000000.safetensors does not hold what the log says: blocks.0"):
        list(ActivationStore.open(store.path).sequential(HOOK))


def test_a_damaged_log_line_is_named_and_a_lost_one_too(store):
    file = store.path / LOG_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], lines[2].replace(b"rows", b"rowz", 1), *lines[3:]]))
    with pytest.raises(StoreError, match="log.jsonl, line 3 is damaged"):
        ActivationStore.open(store.path)
    file.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(
        StoreError, match=r"line 3 is damaged \('shard-000003.safetensors' from row 300 does not follow 2 shards of 200 rows\)"
    ):
        ActivationStore.open(store.path)


def test_names_in_the_log_cannot_leave_the_directory(store):
    record = read_log(store.path).shards[0]
    (store.path / LOG_FILE).write_bytes(shard_line(ShardRecord(**{**vars(record), "name": "../../etc/passwd"})))
    with pytest.raises(StoreError, match="'../../etc/passwd' from row 0 does not follow 0 shards"):
        ActivationStore.open(store.path)


def test_a_torn_last_line_commits_nothing(store):
    file = store.path / LOG_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    for cut in (1, 20, len(lines[4]) - 1):
        file.write_bytes(b"".join(lines[:4]) + lines[4][:cut])
        assert ActivationStore.open(store.path, unfinished=True).rows == 400


def test_a_half_written_store_is_refused_unless_asked_for(store):
    file = store.path / LOG_FILE
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        StoreError, match="is half-written: 1050 rows in 11 shards are committed; resume its harvest, or open it as unfinished"
    ):
        ActivationStore.open(store.path)
    store = ActivationStore.open(store.path, unfinished=True)
    assert (store.rows, store.finished) == (1050, False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"header": {}, "sha256": ""}', "[" * 100_000, '{"header": 1}'])
def test_a_damaged_header_is_refused(store, text):
    (store.path / HEADER_FILE).write_text(text)
    with pytest.raises(StoreError, match="header.json is damaged"):
        ActivationStore.open(store.path)


def test_a_changed_header_and_a_newer_format_are_refused(store):
    file = store.path / HEADER_FILE
    content = json.loads(file.read_text())
    content["header"]["model"] = "another"
    file.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"header.json is damaged \(its checksum does not fit\)"):
        ActivationStore.open(store.path)
    file.write_bytes(encode_header(replace(store.header, format=99)))
    with pytest.raises(StoreError, match="has format 99; this version reads format 1"):
        ActivationStore.open(store.path)


def test_readers_never_see_uncommitted_rows(tmp_path, header):
    with StoreWriter(tmp_path / "live", header, shard_bytes=2 * SHARD) as writer:
        for number, batch in enumerate(batches_of(500), start=1):
            writer.append(batch)
            store = ActivationStore.open(tmp_path / "live", unfinished=True)
            assert store.rows == writer.rows_committed == number // 2 * 200
            if store.rows:
                assert sum(len(b) for b in store.batches(HOOK)) == store.rows
    assert ActivationStore.open(tmp_path / "live").rows == 500


def test_requests_that_make_no_sense_are_refused(store, tmp_path, header):
    with pytest.raises(StoreError, match="rows=0, start=0"):
        store.batches(HOOK, rows=0)
    with pytest.raises(StoreError, match="start=-1"):
        store.batches(HOOK, start=-1)
