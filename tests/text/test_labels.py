"""Labels against snippets marked by hand, and against `tokenize` and `ast` asked independently on real modules."""

import ast
import io
import keyword
import sys
import tokenize
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from interp.text.labels import DESCRIPTIONS, INTEGERS, token_labels
from interp.text.stdlib import Document, shipped_held_out
from interp.text.tokenizer import FastTokenizer

MODULES = [document for document in shipped_held_out() if document.name.endswith(".py") and len(document.text) < 40_000]


def by_character(text: str) -> dict[str, np.ndarray]:
    """Labels with every character its own token."""
    return token_labels(text, [(i, i + 1) for i in range(len(text))])


def marked(text: str, label: str) -> list[str]:
    """The stretches of characters that have a label."""
    has = by_character(text)[label]
    edges = np.flatnonzero(np.diff(has, prepend=False, append=False))
    return [text[start:end] for start, end in edges.reshape(-1, 2).tolist()]


CODE = '''"""Module doc."""
import os.path as p
from .a import b


@wrap(1)
class Foo(Base, meta=M):
    """Class doc."""

    LIMIT = 0x1F

    async def go(self, n: int = 3, *rest, key=None) -> "str":  # why
        try:
            for i, _x in enumerate(rest):
                self.total += f"{n}é" 'tail'[1:2]
        except (ValueError, KeyError) as e:
            raise RuntimeError("no") from e
        if n != 2 and not key:
            return [q.__len__() for q in self.items if q]
        else:
            y: list[int] = [1, 2]
        with open(n) as f:
            g = lambda v: {"k": v}
        while Foo(n):
            n.append(total, end="")
'''

EXPECTED = {
    "docstring": ['"""Module doc."""', '"""Class doc."""'],
    "comment": ["# why"],
    "fstring": ['f"{n}é"'],
    "string": ['"""Module doc."""', '"""Class doc."""', '"str"', 'f"{n}é"', "'tail'", '"no"', '"k"', '""'],
    "number": ["1", "0x1F", "3", "1", "2", "2", "1", "2"],
    "keyword_import": ["import", "import"],
    "keyword_not": ["not"],
    "keyword_with": ["with"],
    "function_name": ["go"],
    "class_name": ["Foo"],
    "parameter": ["self", "n", "rest", "key", "v"],
    "keyword_argument": ["meta", "end"],
    "annotation": ["int", '"str"', "list[int]"],
    "default_value": ["3", "None"],
    "base_class": ["Base"],
    "self": ["self", "self", "self"],
    "dunder": ["__len__"],
    "private": ["_x"],
    "constant": ["LIMIT"],
    "exception": ["ValueError", "KeyError", "RuntimeError"],
    "builtin": ["int", "enumerate", "list", "int", "open"],
    "attribute": ["total", "__len__", "items", "append"],
    "call_name": ["wrap", "enumerate", "RuntimeError", "__len__", "open", "Foo", "append"],
    "assignment_target": ["LIMIT", "self.total", "y", "g"],
    "line_import": ["import os.path as p", "from .a import b"],
    "line_decorator": ["@wrap(1)"],
    "line_class": ["class Foo(Base, meta=M):"],
    "line_def": ['async def go(self, n: int = 3, *rest, key=None) -> "str":  # why'],
    "in_return": ["return [q.__len__() for q in self.items if q]"],
    "in_raise": ['raise RuntimeError("no") from e'],
    "in_comprehension": ["[q.__len__() for q in self.items if q]"],
    "in_lambda": ['lambda v: {"k": v}'],
    "in_dict": ['{"k": v}'],
    "in_list": ["[1, 2]"],
    "in_subscript": ["1:2", "int"],
    "in_condition": ["n != 2 and not key", "Foo(n)"],
    "in_with": ['g = lambda v: {"k": v}'],
    "in_loop": ["self.total += f\"{n}é\" 'tail'[1:2]", 'n.append(total, end="")'],
    "in_branch": ["return [q.__len__() for q in self.items if q]", "y: list[int] = [1, 2]"],
    "in_try": [CODE[CODE.index("for i") : CODE.index("\n        except")]],
    "in_except": [CODE[CODE.index("except") : CODE.index("\n        if n")]],
    "in_function": [CODE[CODE.index("async") : -1]],
    "in_class": [CODE[CODE.index("@") : -1]],
    "in_call": ["(1)", "(rest)", '("no")', "()", "(n)", "(n)", '(total, end="")'],
    "comparison": ["!="],
    "arithmetic": ["@", "*"],
    "assignment": ["=", "=", "=", "=", "+=", "=", "=", "="],
}


@pytest.mark.parametrize("label", EXPECTED)
def test_a_hand_marked_module(label: str) -> None:
    assert marked(CODE, label) == EXPECTED[label]


def test_names_are_new_once() -> None:
    text = "a = b\nb.a(c, a)\nfor c in a: pass\n"
    assert marked(text, "name_first") == ["a", "b", "c"]
    assert marked(text, "name_seen") == ["b", "a", "a", "c", "a"]


def test_depths_count_what_is_around() -> None:
    text = "def f(a=(1, [2])):\n    # c\n    if a:\n        def g():\n            x\n    y\n\n\nz = {f()}"
    labels = by_character(text)

    def depth(label: str, place: str) -> int:
        return int(labels[label][text.index(place)])

    assert [depth("bracket_depth", mark) for mark in "fa(1[2]"] == [0, 1, 0, 2, 2, 3, 2]
    assert [depth("bracket_depth", mark) for mark in (")):", "):\n", "{", "f()", "}")] == [1, 0, 0, 1, 0]
    assert [depth("indent_depth", mark) for mark in ("def f", "if", "    if", "def g", "x", "    y", "y", "z", "f()}")] == [
        0,
        1,
        1,
        2,
        3,
        1,
        1,
        0,
        0,
    ]
    assert [depth("function_depth", mark) for mark in ("def f", "(1", "if", "def g", "x", "y", "z")] == [1, 1, 1, 2, 2, 1, 0]
    assert [depth("column", mark) for mark in ("def f", "if", "x", "z")] == [0, 4, 12, 0]


def test_a_last_line_without_end_keeps_its_depth() -> None:
    for text in ("if a:\n    b", "if a:\n    b\n", "if a:\n    b\n\n", "if a:\n    b\n# c"):
        labels = by_character(text)
        assert labels["indent_depth"][text.index("b")] == 1, text
        assert labels["indent_depth"][text.index("i")] == 0, text


def test_a_token_is_judged_by_its_first_character_that_is_no_space() -> None:
    text = "x = 1\n    \n# c\nreturned = '  '"
    offsets = [(0, 1), (1, 3), (3, 5), (5, 10), (10, 13), (13, 17), (17, 23), (23, 25), (25, 27), (27, 29), (29, 30), (30, 30)]
    labels = token_labels(text, offsets)
    tokens = [text[start:end] for start, end in offsets]
    named = {name: [token for token, has in zip(tokens, labels[name], strict=True) if has] for name in DESCRIPTIONS}
    assert tokens[3:6] == ["\n    ", "\n# ", "c\nre"]
    assert named["whitespace"] == ["\n    ", "  "]
    assert named["newline"] == ["\n    ", "\n# ", "c\nre"]
    assert named["comment"] == ["\n# ", "c\nre"]
    assert named["operator"] == [" =", " ="]
    assert named["space_before"] == [" =", " 1", "\n# ", " =", " '"]
    assert named["name"] == ["x", "turned"]
    assert named["lexeme_start"] == ["x", " =", " 1", "\n    ", "\n# ", " =", " '"]
    assert named["lexeme_end"] == ["x", " =", " 1", "\n    ", "c\nre", "turned", " =", "'"]
    assert named["string_start"] == [" '"]
    assert named["string_end"] == ["'"]
    assert named["line_start"] == ["x", "\n# "]
    assert not any(values[-1] for values in labels.values())


def test_lexical_labels_hold_for_any_text() -> None:
    text = "Hello, WORLD 42 naïve_x\n  next — end"
    assert not by_character(text)["python"].any()
    assert marked(text, "capitalised") == ["H", "WORLD"]
    assert marked(text, "digit") == ["42"]
    assert marked(text, "punctuation") == [",", "—"]
    assert marked(text, "non_ascii") == ["ï", "—"]
    assert marked(text, "indentation") == ["  "]
    assert marked(text, "line_start") == ["H", "n"]
    assert marked(text, "word_start") == ["H", "W", "4", "n", "n", "e"]
    assert marked(text, "letter") == ["Hello", "WORLD", "naïve_x", "next", "end"]
    whole = token_labels(text, [(0, 5), (6, 12), (12, 15)])
    assert whole["upper_case"].tolist() == [False, True, False]
    assert whole["space_before"].tolist() == [False, True, True]


@pytest.mark.parametrize(
    "text", ["def f(:\n", "x = '", "\x00", "a\ud800", "if x:\nreturn", "f(" * 300, "\ufeffnot python at all"]
)
def test_what_does_not_parse_gets_lexical_labels_alone(text: str) -> None:
    labels = by_character(text)
    lexical = list(DESCRIPTIONS)[: list(DESCRIPTIONS).index("python")] + ["column"]
    assert any(labels[name].any() for name in lexical)
    assert not any(labels[name].any() for name in DESCRIPTIONS if name not in lexical)


@pytest.mark.parametrize(
    "text", ["", "\n", "# only\n", "x=1\r\nif x:\r\n    y\r\n", "a\rb\n", "\f\nx = '\\d'\n", "é = 'ü'\nß = é\n"]
)
def test_every_text_gets_every_label(text: str) -> None:
    labels = by_character(text)
    assert list(labels) == list(DESCRIPTIONS)
    for name, values in labels.items():
        assert values.shape == (len(text),)
        assert values.dtype == (np.int32 if name in INTEGERS else np.bool_)


def test_odd_ends_of_line_and_wide_characters_do_not_shift_labels() -> None:
    assert marked("x = 1\r\ndef f(a):\r\n    return a\r\n", "in_return") == ["return a"]
    assert marked("x = 1\rdef f(a):\r    return a\r", "in_return") == ["return a"]
    assert marked("é = '😀'; return_ = [ß for ß in 'ü'] # ü\nf(é=2)\n", "in_comprehension") == ["[ß for ß in 'ü']"]
    assert marked("é = '😀'\nf(é=2, b=3)\n", "keyword_argument") == ["é", "b"]


def test_an_f_string_is_one_string_in_every_version_of_python() -> None:
    text = "def f(a):\n    return f'{a!r:>{max(3, len(a))}} {g(x=1)}' + rb'z'\n"
    assert marked(text, "fstring") == ["f'{a!r:>{max(3, len(a))}} {g(x=1)}'"]
    assert marked(text, "keyword_argument") == []
    assert marked(text, "call_name") == []
    assert marked(text, "parameter") == ["a"]


@pytest.fixture(scope="module")
def labelled(tokenizer: FastTokenizer) -> list[tuple[Document, np.ndarray, dict[str, np.ndarray]]]:
    return [
        (document, offsets, token_labels(document.text, offsets))
        for document in MODULES
        for offsets in [np.array(tokenizer.encode(document.text).offsets)]
    ]


def owners(document: Document, offsets: np.ndarray) -> list[tokenize.TokenInfo | None]:
    """The lexeme of each token's anchor, found the slow way: a table of characters."""
    lines = document.text.split("\n")
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    table: list[tokenize.TokenInfo | None] = [None] * (len(document.text) + 1)
    for token in tokenize.generate_tokens(io.StringIO(document.text).readline):
        for place in range(starts[token.start[0] - 1] + token.start[1], starts[min(token.end[0], len(lines)) - 1] + token.end[1]):
            table[place] = token
    anchors = [next((i for i in range(a, b) if not document.text[i].isspace()), a) for a, b in offsets]
    return [table[anchor] for anchor in anchors]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tokenize splits f-strings from 3.12 on")
def test_lexemes_agree_with_tokenize_on_real_modules(labelled: list) -> None:
    seen = 0
    for document, offsets, labels in labelled:
        for index, token in enumerate(owners(document, offsets)):
            kind = None if token is None else token.type
            string = "" if token is None else token.string
            word = kind == tokenize.NAME and keyword.iskeyword(string)
            assert labels["keyword"][index] == word
            assert labels["name"][index] == (kind == tokenize.NAME and not word)
            for name, expected in [("string", "STRING"), ("comment", "COMMENT"), ("number", "NUMBER"), ("operator", "OP")]:
                assert labels[name][index] == (kind == getattr(tokenize, expected))
            if word and f"keyword_{string}" in labels:
                assert labels[f"keyword_{string}"][index]
            seen += 1
    assert seen > 20_000


def nodes(document: Document, *kinds: type[ast.AST]) -> Iterator[tuple[Any, int, int]]:
    """Nodes of a kind with the characters they span, found the slow way: source segments, not inside f-strings."""
    lines = [line.encode() for line in document.text.split("\n")]

    def offset(line: int, column: int) -> int:
        return sum(len(each.decode()) + 1 for each in lines[: line - 1]) + len(lines[line - 1][:column].decode())

    stack: list[ast.AST] = [ast.parse(document.text)]
    while stack:
        node = stack.pop()
        if isinstance(node, kinds):
            yield node, offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)  # pyright: ignore
        stack.extend([] if isinstance(node, ast.JoinedStr) else ast.iter_child_nodes(node))


def anchors_in(document: Document, offsets: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    inside = np.zeros(len(document.text) + 1, dtype=bool)
    for start, end in spans:
        inside[start:end] = True
    anchors = [next((i for i in range(a, b) if not document.text[i].isspace()), a) for a, b in offsets]
    return inside[anchors]


@pytest.mark.parametrize(
    ("label", "kind"), [("in_return", ast.Return), ("in_raise", ast.Raise), ("in_lambda", ast.Lambda), ("in_dict", ast.Dict)]
)
def test_regions_agree_with_ast_on_real_modules(labelled: list, label: str, kind: type[ast.AST]) -> None:
    for document, offsets, labels in labelled:
        spans = [(start, end) for _, start, end in nodes(document, kind)]
        assert np.array_equal(labels[label], anchors_in(document, offsets, spans)), document.name


def test_roles_of_names_agree_with_ast_on_real_modules(labelled: list) -> None:
    found: dict[str, int] = dict.fromkeys(("attribute", "call_name", "function_name"), 0)
    for document, offsets, labels in labelled:
        spans: dict[str, list[tuple[int, int]]] = {name: [] for name in found}
        for node, _, end in nodes(document, ast.Attribute):
            spans["attribute"].append((end - len(node.attr), end))
        for node, start, _ in nodes(document, ast.FunctionDef, ast.AsyncFunctionDef):
            at = document.text.index(node.name, start + len("def"))
            spans["function_name"].append((at, at + len(node.name)))
        called = {(node.func.end_lineno, node.func.end_col_offset) for node, _, _ in nodes(document, ast.Call)}
        for node, _, end in nodes(document, ast.Name, ast.Attribute):
            if (node.end_lineno, node.end_col_offset) in called:
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                spans["call_name"].append((end - len(name), end))
        for name, expected in spans.items():
            assert np.array_equal(labels[name], anchors_in(document, offsets, expected)), (document.name, name)
            found[name] += int(labels[name].sum())
    assert min(found.values()) > 100


def test_docstrings_agree_with_ast_on_real_modules(labelled: list) -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for document, offsets, labels in labelled:
        tree = ast.parse(document.text)
        first = {id(node.body[0]) for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node) is not None}
        count = len(first)
        starts = labels["docstring"] & labels["string_start"]
        assert starts.sum() == count, document.name
        assert not (labels["docstring"] & ~labels["string"]).any()
        assert len(offsets) == len(starts)


def test_logic_of_labels_on_real_modules(labelled: list) -> None:
    exclusive = ["name", "keyword", "number", "string", "comment", "operator", "statement_end"]
    for document, _, labels in labelled:
        assert labels["python"].all()
        assert np.sum([labels[name] for name in exclusive], axis=0).max() == 1, document.name
        assert np.array_equal(labels["name"], labels["name_first"] | labels["name_seen"])
        assert np.array_equal(labels["in_function"], labels["function_depth"] > 0)
        assert min(labels[name].min() for name in INTEGERS) == 0
        for part, whole in [
            ("docstring", "string"),
            ("fstring", "string"),
            ("attribute", "name"),
            ("parameter", "name"),
            ("comma", "operator"),
        ]:
            assert not (labels[part] & ~labels[whole]).any(), (document.name, part)


def test_every_label_is_described_and_occurs() -> None:
    labels = by_character(CODE + "    pass\nassert x is None or True or False\nyield_ = 0\nelif_ = 1\n")
    missing = {name for name, values in labels.items() if not values.any()}
    assert missing <= {f"keyword_{word}" for word in ("elif", "yield", "def", "class")} | {
        "space_before",
        "upper_case",
    }  # need longer tokens
    assert all(text and not text.endswith(".") for text in DESCRIPTIONS.values())
    assert set(DESCRIPTIONS) >= INTEGERS
