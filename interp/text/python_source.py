"""What `tokenize` and `ast` know about a piece of Python source, as arrays over its lexemes and as spans of characters.

A lexeme is one token of Python's own tokenizer (a name, a number, a whole string literal, an operator, a comment, the end
of a line); the word token is kept for the pieces a language model reads. An f-string is one lexeme and its replacement
fields are not looked into, because only some versions of Python can say where their parts lie.

Must not know: a language model's tokens.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

NAME, NUMBER, STRING, COMMENT, OPERATOR, NEWLINE, BLANK = range(7)
"""Kinds of lexeme. NEWLINE ends a statement; BLANK is any other end of line."""

_KINDS = {
    tokenize.NAME: NAME,
    tokenize.NUMBER: NUMBER,
    tokenize.STRING: STRING,
    tokenize.COMMENT: COMMENT,
    tokenize.OP: OPERATOR,
    tokenize.NEWLINE: NEWLINE,
    tokenize.NL: BLANK,
}
_OPENERS = {getattr(tokenize, name, None) for name in ("FSTRING_START", "TSTRING_START")} - {None}
_CLOSERS = {getattr(tokenize, name, None) for name in ("FSTRING_END", "TSTRING_END")} - {None}
_OPAQUE = tuple(getattr(ast, name) for name in ("JoinedStr", "TemplateStr") if hasattr(ast, name))

Place = tuple[int, int, int, int]
"""First line, column, last line, column, as `ast` gives them: lines from 1, columns in bytes of UTF-8."""


@dataclass(frozen=True)
class Spans:
    """Stretches of characters, which may nest. `starts` and `ends` are sorted apart from each other."""

    starts: np.ndarray
    ends: np.ndarray

    def depth(self, places: np.ndarray) -> np.ndarray:
        """How many of the spans hold each character."""
        return np.searchsorted(self.starts, places, "right") - np.searchsorted(self.ends, places, "right")


@dataclass(frozen=True)
class Source:
    """Parsed source. `kind`, `start`, `end` and `text` have one entry per lexeme, in order; `end` is exclusive."""

    kind: np.ndarray
    start: np.ndarray
    end: np.ndarray
    text: list[str]
    indents: Spans
    regions: dict[str, Spans]

    def lexeme_at(self, places: np.ndarray) -> np.ndarray:
        """The index of the lexeme that holds each character, -1 for characters between lexemes."""
        index = np.searchsorted(self.start, places, "right") - 1
        return np.where((index >= 0) & (places < self.end[np.maximum(index, 0)]), index, -1)


def parse(text: str) -> Source | None:
    """`text` as Python source; None if it does not parse under the running Python."""
    text = re.sub(r"\r(?!\n)", "\n", text)  # ast ends a line there and tokenize does not; the length stays
    lines = np.append(0, np.flatnonzero(codepoints(text) == ord("\n")) + 1)
    try:
        kind, start, end, indents = _lexemes(text, lines)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dubious escapes in somebody else's text are no concern of the caller
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    if not len(kind):
        return None
    words = [text[a:b] for a, b in zip(start.tolist(), end.tolist(), strict=True)]
    return Source(kind, start, end, words, indents, _regions(tree, text, lines))


def codepoints(text: str) -> np.ndarray:
    """The code of each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _lexemes(text: str, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Spans]:
    """Kind, start and end of each lexeme, and the indented blocks, each from the start of its first line to the start of
    the line after its last."""
    found: list[tuple[int, int, int, int, int]] = []
    indents, dedents = [], []
    depth, opened = 0, (0, 0)
    for kind, string, first, last, _ in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind in _OPENERS:
            opened = first if depth == 0 else opened
            depth += 1
        elif kind in _CLOSERS:
            depth -= 1
            if depth == 0:
                found.append((STRING, *opened, *last))
        elif depth == 0 and string and kind in _KINDS:
            found.append((_KINDS[kind], *first, *last))
        elif kind == tokenize.INDENT:
            indents.append(first[0])
        elif kind == tokenize.DEDENT:
            dedents.append(first[0])
    table = np.array(found, dtype=np.int64).reshape(-1, 5)
    bounds = np.append(lines, len(text))  # the last blocks end on the line after the last one
    starts, ends = (bounds[np.minimum(np.array(rows, dtype=int) - 1, len(lines))] for rows in (indents, dedents))
    return table[:, 0], lines[table[:, 1] - 1] + table[:, 2], lines[table[:, 3] - 1] + table[:, 4], Spans(starts, ends)


def _regions(tree: ast.AST, text: str, lines: np.ndarray) -> dict[str, Spans]:
    places: dict[str, list[Place]] = defaultdict(list)
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, _OPAQUE):
            continue
        visit = _VISITS.get(type(node))
        if visit is not None:
            for label, place in visit(node):
                places[label].append(place)
        stack.extend(ast.iter_child_nodes(node))
    to_offset = _byte_positions(text, lines)
    regions = {}
    for label, found in places.items():
        table = np.array(found, dtype=np.int64)
        regions[label] = Spans(np.sort(to_offset(table[:, 0], table[:, 1])), np.sort(to_offset(table[:, 2], table[:, 3])))
    return regions


def _byte_positions(text: str, lines: np.ndarray):
    """The function from `ast`'s lines and byte columns to characters."""
    if text.isascii():
        return lambda line, column: lines[line - 1] + column
    codes = codepoints(text)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    first_byte = np.concatenate([[0], np.cumsum(widths)])
    return lambda line, column: np.searchsorted(first_byte, first_byte[lines[line - 1]] + column)


def _place(first: ast.AST, last: ast.AST | None = None) -> Place:
    """From the start of one node (with its decorators) to the end of it or of another."""
    last = first if last is None else last
    line, column = first.lineno, first.col_offset  # pyright: ignore[reportAttributeAccessIssue]
    for decorator in getattr(first, "decorator_list", [])[:1]:
        line, column = decorator.lineno, decorator.col_offset - 1
    return line, column, last.end_lineno, last.end_col_offset  # pyright: ignore[reportAttributeAccessIssue]


def _body(statements: Sequence[ast.stmt]) -> Place:
    return _place(statements[0], statements[-1])


def _named(node: ast.arg | ast.keyword, name: str) -> Place:
    return node.lineno, node.col_offset, node.lineno, node.col_offset + len(name.encode())


Found = Iterator[tuple[str, Place]]


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Found:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        yield "docstring", _place(first)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Found:
    yield "in_function", _place(node)
    yield from _docstring(node)
    if node.returns is not None:
        yield "annotation", _place(node.returns)


def _class(node: ast.ClassDef) -> Found:
    yield "in_class", _place(node)
    yield from _docstring(node)
    for base in node.bases:
        yield "base_class", _place(base)


def _argument(node: ast.arg) -> Found:
    yield "parameter", _named(node, node.arg)
    if node.annotation is not None:
        yield "annotation", _place(node.annotation)


def _arguments(node: ast.arguments) -> Found:
    for default in (*node.defaults, *node.kw_defaults):
        if default is not None:
            yield "default_value", _place(default)


def _keyword(node: ast.keyword) -> Found:
    if node.arg is not None:
        yield "keyword_argument", _named(node, node.arg)


def _call(node: ast.Call) -> Found:
    _, _, line, column = _place(node.func)
    _, _, last_line, last_column = _place(node)
    yield "in_call", (line, column, last_line, last_column)


def _loop(node: ast.For | ast.AsyncFor | ast.While) -> Found:
    yield "in_loop", _body(node.body)
    if isinstance(node, ast.While):
        yield "in_condition", _place(node.test)


def _if(node: ast.If) -> Found:
    yield "in_condition", _place(node.test)
    yield "in_branch", _body(node.body)
    if node.orelse:
        yield "in_branch", _body(node.orelse)


def _test(node: ast.IfExp | ast.Assert) -> Found:
    yield "in_condition", _place(node.test)


def _try(node: ast.Try) -> Found:
    yield "in_try", _body(node.body)


def _with(node: ast.With | ast.AsyncWith) -> Found:
    yield "in_with", _body(node.body)


def _assign(node: ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr) -> Found:
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        yield "assignment_target", _place(target)
    if isinstance(node, ast.AnnAssign):
        yield "annotation", _place(node.annotation)


def _subscript(node: ast.Subscript) -> Found:
    yield "in_subscript", _place(node.slice)


def _whole(label: str):
    def visit(node: ast.AST) -> Found:
        yield label, _place(node)

    return visit


_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_VISITS = {
    ast.Module: _docstring,
    ast.ClassDef: _class,
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef), _function),
    ast.arg: _argument,
    ast.arguments: _arguments,
    ast.keyword: _keyword,
    ast.Call: _call,
    **dict.fromkeys((ast.For, ast.AsyncFor, ast.While), _loop),
    ast.If: _if,
    **dict.fromkeys((ast.IfExp, ast.Assert), _test),
    **{getattr(ast, name): _try for name in ("Try", "TryStar") if hasattr(ast, name)},
    **dict.fromkeys((ast.With, ast.AsyncWith), _with),
    **dict.fromkeys((ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr), _assign),
    ast.Subscript: _subscript,
    **dict.fromkeys(_COMPREHENSIONS, _whole("in_comprehension")),
    ast.ExceptHandler: _whole("in_except"),
    ast.Lambda: _whole("in_lambda"),
    ast.Return: _whole("in_return"),
    ast.Raise: _whole("in_raise"),
    ast.Dict: _whole("in_dict"),
    ast.List: _whole("in_list"),
}
