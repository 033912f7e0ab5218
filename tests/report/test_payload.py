"""What travels in a page comes back as it was, as small and as harmless as promised."""

import base64
import gzip
import json
import re

import numpy as np
import pytest

from interp.errors import ReportError
from interp.report import AttentionView, Example, Feature, FeatureDashboard, Rule, TokenView, payload


def unpack(text):
    """A slow reader of the layout that payload.py states, as core.js reads it."""
    raw = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(raw[:4], "little")
    header = json.loads(raw[4 : 4 + length])
    arrays = {}
    for name, array in header.pop("arrays").items():
        start = 4 + length + array["offset"]
        assert start % 8 == 0
        arrays[name] = np.frombuffer(raw, np.dtype(array["type"]).newbyteorder("<"), array["length"], start)
    return header, arrays


def test_what_is_packed_is_what_is_read():
    given = {"a": np.arange(5, dtype=np.uint8), "b": np.array([1.5, -2], np.float32), "c": np.array([70000], np.uint32)}
    header, arrays = unpack(payload.pack({"x": [1, None, "é"]}, given))
    assert header == {"x": [1, None, "é"]}
    for name, array in given.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_equal_content_is_equal_bytes():
    assert payload.pack({"x": 1}, {"a": np.ones(9, np.uint8)}) == payload.pack({"x": 1}, {"a": np.ones(9, np.uint8)})


def test_strings_are_made_visible_at_any_depth_keys_too():
    header, _ = unpack(payload.pack({"x": [{"k\n": "\u202e"}]}, {}))
    assert header == {"x": [{"k↵": "‹U+202E›"}]}


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 9.0), (0.0, 1e-6)])
def test_quantised_values_are_within_half_a_step(low, high):
    values = np.random.default_rng(0).uniform(low, high, 1000)
    back = low + payload.quantise(values, low, high) / 255 * (high - low)
    assert np.abs(back - values).max() <= (high - low) / 510 * (1 + 1e-9)


def test_json_in_a_script_element_cannot_leave_it():
    hostile = "</script><script>alert(1)</script><!--\u2028\u2029&amp;"
    text = payload.script_json({"k": hostile})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"k": hostile}


def example(**changes):
    return Example(**{"token_ids": [4, 2, 4], "activations": [0.0, -1.0, 3.0], "document": "d.py", "position": 9} | changes)


def rule(**changes):
    return Rule(**{"text": "t", "precision": 0.9, "recall": 0.8, "null_precision": 0.1, "null_recall": 0.2} | changes)


def dashboard(features, **changes):
    vocabulary = ["a", "b", "c", "\n", "e"]
    return FeatureDashboard(**{"features": features, "vocabulary": vocabulary, "tokens_scanned": 10, "dead": 0} | changes)


def test_a_feature_s_examples_come_back_with_their_tokens_places_and_activations():
    first = Feature(id=3, density=0.5, examples=[example(), example(group="Random negatives", token_ids=[0], activations=[0.0])])
    header, arrays = unpack(dashboard([Feature(id=1, density=0.0), first]).payload())
    start, stop = arrays["featureStarts"][1:3]
    tokens = slice(*arrays["tokenStarts"][start : start + 2])
    assert [header["vocabulary"][token] for token in arrays["tokens"][tokens]] == ["e", "c", "e"]
    low, high = header["details"][1]["low"], header["features"][1]["high"]
    np.testing.assert_allclose(low + arrays["activations"][tokens] / 255 * (high - low), [0, -1, 3], atol=4 / 510)
    assert [header["groups"][group] for group in arrays["groups"][start:stop]] == ["Top activations", "Random negatives"]
    assert (header["documents"][arrays["documents"][start]], arrays["positions"][start]) == ("d.py", 9)
    assert arrays["focuses"][start] == 2, "the strongest, unless another is named"
    assert sorted(header["vocabulary"]) == ["a", "c", "e"], "only the tokens in use travel"


def test_up_to_4096_features_travel_in_the_page_and_more_beside_it():
    few, many = ([Feature(id=i, density=i / 9999, boosted=[(i % 5, 1.0)]) for i in range(n)] for n in (4096, 4097))
    assert dashboard(few).files() == {}
    header, arrays = unpack(dashboard(few).payload())
    assert len(header["details"]) == 4096 and header["shards"] == []
    large = dashboard(many)
    header, arrays = unpack(large.payload())
    files = large.files()
    assert "details" not in header and arrays == {} and len(header["features"]) == 4097
    assert header["shards"] == list(files) and list(files)[-1] == "shards/feature-016.js" and len(files) == 17
    assert [header["vocabulary"][word] for word in header["features"][4]["words"]] == ["e"], "search needs no file"


def test_a_file_beside_the_page_is_one_statement_that_holds_its_features():
    examples = [example(token_ids=[1, 3, 1])]
    large = dashboard([Feature(id=i, density=0.1, examples=examples if i == 300 else ()) for i in range(4097)])
    text = large.files()["shards/feature-001.js"]
    packed = re.fullmatch(r'document\.currentScript\.payload="([A-Za-z0-9+/=]*)";', text)
    assert packed is not None
    part, arrays = unpack(packed[1])
    assert len(part["details"]) == 256 and part["vocabulary"] == ["b", "↵"]
    assert arrays["featureStarts"][44:46].tolist() == [0, 1], "feature 300 is number 44 of its file"
    assert part["details"][44]["low"] == -1


@pytest.mark.parametrize(
    ("features", "error"),
    [
        ([], "0 features in one dashboard; give at least one"),
        ([Feature(id=2, density=0.0), Feature(id=2, density=0.1)], "feature 2 is in the dashboard twice"),
        ([Feature(id=2, density=float("nan"))], "feature 2 density: 1 of 1 values are not finite"),
        (
            [Feature(id=2, density=0.0, examples=[example(token_ids=[1, 5, 1])])],
            "feature 2 example: token id 5 is outside the vocabulary of 5",
        ),
        ([Feature(id=2, density=0.0, boosted=[(-1, 0.5)])], "feature 2: token id -1 is outside"),
        ([Feature(id=2, density=0.0, rule=rule(recall=float("inf")))], "feature 2 rule recall: 1 of 1 values are not finite"),
        (
            [Feature(id=2, density=0.0, examples=[example(activations=[1.0])])],
            "feature 2: an example has 3 tokens but activations (1,)",
        ),
        (
            [Feature(id=2, density=0.0, examples=[example(focus=3)])],
            "feature 2: focus 3 is none of an example's 3 tokens",
        ),
        ([Feature(id=2, density=0.0, examples=[example(position=-1)])], "feature 2: an example starts at position -1"),
        (
            [Feature(id=2, density=0.0, histogram=([1], [0.0]))],
            "feature 2: histogram of (1,) counts and (1,) edges; give one edge more",
        ),
    ],
)
def test_features_that_do_not_fit_are_refused_by_name(features, error):
    with pytest.raises(ReportError) as caught:
        dashboard(features).payload()
    assert str(caught.value).startswith(error)


def test_the_noun_names_errors_and_permalinks():
    neurons = dashboard([], noun="Neuron")
    assert (neurons.name, neurons.title) == ("neuron", "Neurons")
    with pytest.raises(ReportError, match="0 Neurons in one dashboard"):
        neurons.payload()


def test_attention_comes_back_within_a_step():
    patterns = np.random.default_rng(1).dirichlet(np.ones(4), (2, 3, 4))
    header, arrays = unpack(AttentionView(tokens=list("abcd"), patterns=patterns, scores={"s": np.eye(2, 3)}).payload())
    np.testing.assert_allclose(arrays["patterns"].reshape(2, 3, 4, 4) / 255 * header["scale"], patterns, atol=1 / 510)
    assert (header["layers"], header["heads"], header["scores"]) == (2, 3, {"s": [1, 0, 0, 0, 1, 0]})


@pytest.mark.parametrize(
    ("view", "error"),
    [
        (
            AttentionView(tokens=["a"], patterns=np.ones((1, 1, 2, 2))),
            "attention patterns have shape (1, 1, 2, 2); expected [layer, head, 1, 1]",
        ),
        (AttentionView(tokens=["a"], patterns=-np.ones((1, 1, 1, 1))), "attention patterns must be probabilities"),
        (AttentionView(tokens=["a"], patterns=np.full((1, 1, 1, 1), np.nan)), "attention patterns: 1 of 1 values are not finite"),
        (
            AttentionView(tokens=["a"], patterns=np.ones((1, 1, 1, 1)), scores={"s": [1]}),
            "head scores 's' have shape (1,); expected",
        ),
        (
            AttentionView(tokens=["a"] * 3000, patterns=np.zeros((1, 1, 3000, 3000))),
            "9,000,000 attention values, the limit is 8,000,000",
        ),
        (TokenView(tokens=["a"], values={}), "TokenView has no values"),
        (TokenView(tokens=["a"], values={"loss": [1, 2]}), "token values 'loss' have shape (2,); expected one per token, (1,)"),
    ],
)
def test_views_whose_data_do_not_fit_are_refused(view, error):
    with pytest.raises(ReportError) as caught:
        view.payload()
    assert str(caught.value).startswith(error)


def test_a_feature_costs_a_few_kilobytes():
    rng = np.random.default_rng(0)
    examples = [
        example(token_ids=rng.integers(0, 500, 32), activations=np.maximum(0, rng.normal(-1, 1, 32)), document=f"{i}.py")
        for i in range(30)
    ]
    features = [Feature(id=i, density=0.1, examples=examples) for i in range(20)]
    size = len(dashboard(features, vocabulary=[f"t{i}" for i in range(500)]).payload())
    assert size / 20 < 4096
