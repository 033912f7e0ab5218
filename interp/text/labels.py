"""What is known of every token of Python source: ground truth to score features, neurons, heads and probes against.

A token of a language model is judged by its **anchor**: the first of its characters that is not whitespace, or its first
character if all are whitespace. It has the properties of the lexeme (name, string, operator, …) and of the regions
(function, loop, brackets, …) that hold the anchor. A token that covers no character has no property.

Some labels need only characters and hold for any text. The others need Python: where a text does not parse they are all
False or 0 and so is the label `python`, which says of every token whether they mean anything. Every text gets every label.

Must not know: tokenizers, models.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Sequence

import numpy as np

from interp.text import python_source
from interp.text.python_source import BLANK, COMMENT, NAME, NEWLINE, NUMBER, OPERATOR, STRING, Source, Spans

KEYWORDS = (
    *("def", "class", "return", "if", "elif", "else", "for", "in", "while", "import", "from", "try", "except", "with", "as"),
    *("raise", "assert", "pass", "lambda", "yield", "not", "and", "or", "is", "None", "True", "False"),
)
"""Keywords common enough to have a label each, `keyword_<word>`."""

INTEGERS = frozenset({"column", "indent_depth", "bracket_depth", "function_depth"})
"""The labels that count; every other one is true or false."""

_LEXICAL = {
    "whitespace": "covers nothing but whitespace",
    "space_before": "begins with whitespace and goes on",
    "newline": "covers an end of line",
    "line_start": "covers the first character of a line that is not whitespace",
    "indentation": "nothing but the whitespace a line begins with",
    "word_start": "its anchor is the first character of a word: letters, digits, underscores",
    "letter": "its anchor is a letter or an underscore",
    "digit": "its anchor is a digit",
    "punctuation": "its anchor is neither letter, digit, underscore nor whitespace",
    "capitalised": "its anchor is an upper-case letter",
    "upper_case": "has upper-case letters and no lower-case ones",
    "non_ascii": "covers a character beyond ASCII",
    "column": "characters before the anchor in its line",
}
_LEXEMES = {
    "python": "the text parses as Python, so that the labels below mean something",
    "lexeme_start": "its anchor is the first character of a lexeme",
    "lexeme_end": "covers the last character of its anchor's lexeme",
    "name": "a name that is no keyword",
    "keyword": "a reserved word",
    "number": "a number",
    "string": "part of a string literal, docstrings and f-strings included",
    "docstring": "part of the docstring of a module, class or function",
    "fstring": "part of an f-string, replacement fields included",
    "string_start": "its anchor opens a string literal (prefix or quote)",
    "string_end": "covers the last character of a string literal",
    "comment": "part of a comment",
    "operator": "an operator, bracket or delimiter",
    "bracket_open": "( [ or {",
    "bracket_close": ") ] or }",
    "comma": "a comma",
    "colon": "a colon",
    "dot": "a dot",
    "assignment": "= (also of defaults and arguments given by name), := or an augmented assignment such as +=",
    "comparison": "== != < > <= or >=",
    "arithmetic": "+ - * / // % ** or @, unary or binary; also the stars of *args",
    "statement_start": "its anchor is the first character of a statement's line (the logical line)",
    "statement_end": "an end of line that ends a statement",
    "self": "the name self",
    "private": "a name that starts with an underscore and is no dunder",
    "dunder": "a name such as __init__",
    "constant": "a name in capitals, two or more characters",
    "builtin": "a name spelt like a built-in function, type or constant, not after a dot; exceptions excluded",
    "exception": "a name spelt like a built-in exception",
    "function_name": "the name a def gives",
    "class_name": "the name a class statement gives",
    "attribute": "a name after a dot, outside import statements",
    "call_name": "a name (or the last name of a dotted one) directly before an opening bracket of a call",
    "name_first": "a name that has not stood earlier in the text",
    "name_seen": "a name that has stood earlier in the text",
}
_REGIONS = {
    "parameter": "the name of a parameter where it is declared",
    "keyword_argument": "the name of an argument given by name",
    "annotation": "inside a type annotation",
    "default_value": "inside a parameter's default value",
    "base_class": "inside a base class of a class statement",
    "assignment_target": "inside what an assignment assigns to",
    "line_def": "in the logical line of a def",
    "line_class": "in the logical line of a class statement",
    "line_import": "in the logical line of an import",
    "line_decorator": "in the logical line of a decorator",
    "in_function": "inside a def, decorators and header included",
    "in_class": "inside a class statement, decorators and header included",
    "in_loop": "in the body of a for or while",
    "in_branch": "in a branch of an if statement",
    "in_condition": "inside the condition of an if, elif, while, assert or conditional expression",
    "in_try": "in the body of a try",
    "in_except": "inside an except clause",
    "in_with": "in the body of a with",
    "in_return": "inside a return statement",
    "in_raise": "inside a raise statement",
    "in_call": "inside the brackets of a call, or one of them",
    "in_subscript": "inside the square brackets of a subscript",
    "in_list": "inside a list display, or one of its brackets",
    "in_dict": "inside a dict display, or one of its brackets",
    "in_comprehension": "inside a comprehension or generator expression",
    "in_lambda": "inside a lambda",
    "indent_depth": "indented blocks around the anchor",
    "bracket_depth": "brackets open around the anchor; a bracket itself counts as outside",
    "function_depth": "defs around the anchor",
}
DESCRIPTIONS: dict[str, str] = {
    **_LEXICAL,
    **_LEXEMES,
    **{f"keyword_{word}": f"the keyword {word}" for word in KEYWORDS},
    **_REGIONS,
}
"""Every label there is and what it says of a token. Regions reach from the first to the last character of their code, so a
comment after a block's last statement is outside."""


def token_labels(text: str, offsets: Sequence[tuple[int, int]] | np.ndarray) -> dict[str, np.ndarray]:
    """Every label of `DESCRIPTIONS` for every token of `text`: arrays of bool, int32 for those in `INTEGERS`.

    offsets: the characters [start, end) each token covers, as `Encoding.offsets`.
    """
    table = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    start, end = table[:, 0], table[:, 1]
    found = np.zeros(len(table), dtype=bool)
    labels = {name: np.zeros(len(table), dtype=np.int32) if name in INTEGERS else found.copy() for name in DESCRIPTIONS}
    covered = np.flatnonzero(end > start)
    if len(covered):
        classes = _Characters(text)
        anchor = classes.anchors(start[covered], end[covered])
        known = _lexical(classes, start[covered], end[covered], anchor)
        source = python_source.parse(text)
        if source is not None:
            known |= _python(source, start[covered], end[covered], anchor)
        for name, values in known.items():
            labels[name][covered] = values
    return labels


class _Characters:
    """The class of each character of a text, and counts of them over stretches."""

    def __init__(self, text: str) -> None:
        codes = python_source.codepoints(text)
        self._codes = codes
        self._present = [chr(code) for code in np.flatnonzero(np.bincount(codes))]
        self.space = self._where(str.isspace)
        self.letter = self._where(lambda c: c.isalpha() or c == "_")
        self.digit = self._where(lambda c: c.isalnum() and not c.isalpha())
        self.upper = self._where(str.isupper)
        self.lower = self._where(str.islower)
        self.newline = codes == ord("\n")
        self.non_ascii = codes >= 0x80

    def _where(self, holds: Callable[[str], bool]) -> np.ndarray:
        table = np.zeros(ord(self._present[-1]) + 1, dtype=bool)
        table[[ord(character) for character in self._present if holds(character)]] = True
        return table[self._codes]

    def anchors(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        solid = np.append(np.flatnonzero(~self.space), len(self.space))
        first = solid[np.searchsorted(solid, start)]
        return np.where(first < end, first, start)

    @staticmethod
    def count(which: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """How many characters in [start, end) are of a class."""
        places = np.flatnonzero(which)
        return np.searchsorted(places, end) - np.searchsorted(places, start)


def _lexical(text: _Characters, start: np.ndarray, end: np.ndarray, anchor: np.ndarray) -> dict[str, np.ndarray]:
    line_starts = np.append(0, np.flatnonzero(text.newline) + 1)
    line = line_starts[np.searchsorted(line_starts, anchor, "right") - 1]
    column = anchor - line
    blank = text.space[anchor]
    only_blank_before = text.count(~text.space, line, anchor) == 0
    word = text.letter | text.digit
    starts_word = word & ~np.append(False, word[:-1])
    return {
        "whitespace": blank,
        "space_before": text.space[start] & ~blank,
        "newline": text.count(text.newline, start, end) > 0,
        "line_start": ~blank & only_blank_before,
        "indentation": blank & only_blank_before & (text.count(text.newline, start, end) == 0),
        "word_start": starts_word[anchor],
        "letter": text.letter[anchor],
        "digit": text.digit[anchor],
        "punctuation": ~word[anchor] & ~blank,
        "capitalised": text.upper[anchor],
        "upper_case": (text.count(text.upper, start, end) > 0) & (text.count(text.lower, start, end) == 0),
        "non_ascii": text.count(text.non_ascii, start, end) > 0,
        "column": column,
    }


def _python(source: Source, start: np.ndarray, end: np.ndarray, anchor: np.ndarray) -> dict[str, np.ndarray]:
    index = source.lexeme_at(anchor)
    inside = index >= 0
    of_lexeme, lines = _lexeme_labels(source)
    labels = {name: inside & values[index] for name, values in of_lexeme.items()}
    starts_lexeme, ends_lexeme = inside & (source.start[index] == anchor), inside & (source.end[index] <= end)
    labels |= {
        "python": np.ones(len(anchor), dtype=bool),
        "lexeme_start": starts_lexeme,
        "lexeme_end": ends_lexeme,
        "string_start": labels["string"] & starts_lexeme,
        "string_end": labels["string"] & ends_lexeme,
        "statement_start": labels["statement_start"] & starts_lexeme,
        "indent_depth": source.indents.depth(anchor),
        "bracket_depth": _brackets(source, of_lexeme).depth(anchor),
    }
    for name, spans in (source.regions | lines).items():
        depth = spans.depth(anchor)
        labels[name] = depth > 0
        if name == "in_function":
            labels["function_depth"] = depth
    labels["docstring"] = labels.get("docstring", np.False_) & labels["string"]
    return labels


def _brackets(source: Source, of_lexeme: dict[str, np.ndarray]) -> Spans:
    """The insides of pairs of brackets."""
    return Spans(source.end[of_lexeme["bracket_open"]], source.start[of_lexeme["bracket_close"]])


_ASSIGNMENTS = {"=", ":="} | {f"{sign}=" for sign in ("+", "-", "*", "/", "//", "%", "**", "@", "&", "|", "^", ">>", "<<")}
_OPERATORS = {
    "bracket_open": set("([{"),
    "bracket_close": set(")]}"),
    "comma": {","},
    "colon": {":"},
    "dot": {"."},
    "assignment": _ASSIGNMENTS,
    "comparison": {"==", "!=", "<", ">", "<=", ">="},
    "arithmetic": {"+", "-", "*", "/", "//", "%", "**", "@"},
}
_BUILT_IN = {name: getattr(builtins, name) for name in dir(builtins) if not name.startswith("_")}
_EXCEPTIONS = {name for name, value in _BUILT_IN.items() if isinstance(value, type) and issubclass(value, BaseException)}


def _is_dunder(word: str) -> bool:
    return len(word) > 4 and word.startswith("__") and word.endswith("__")


_NAMES: dict[str, Callable[[str], bool]] = {
    "self": lambda word: word == "self",
    "private": lambda word: word.startswith("_") and not _is_dunder(word),
    "dunder": _is_dunder,
    "constant": lambda word: len(word) > 1 and word.isupper(),
    "builtin": lambda word: word in _BUILT_IN and word not in _EXCEPTIONS,
    "exception": lambda word: word in _EXCEPTIONS,
}


def _lexeme_labels(source: Source) -> tuple[dict[str, np.ndarray], dict[str, Spans]]:
    """Labels that hold for whole lexemes, and the logical lines that have one."""
    words: dict[str, int] = {}
    word = np.array([words.setdefault(text, len(words)) for text in source.text])

    def spelt(holds: Callable[[str], bool]) -> np.ndarray:
        return np.array([holds(text) for text in words])[word]

    kind = source.kind
    is_keyword = (kind == NAME) & spelt(keyword.iskeyword)
    name = (kind == NAME) & ~is_keyword
    operator = kind == OPERATOR
    labels = {
        "name": name,
        "keyword": is_keyword,
        "number": kind == NUMBER,
        "string": kind == STRING,
        "fstring": (kind == STRING) & spelt(lambda text: "f" in text[: min(3, *_quotes(text))].lower()),
        "comment": kind == COMMENT,
        "operator": operator,
        "statement_end": kind == NEWLINE,
    }
    labels |= {label: operator & spelt(signs.__contains__) for label, signs in _OPERATORS.items()}
    labels |= {label: name & spelt(holds) for label, holds in _NAMES.items()}
    labels |= {f"keyword_{one}": is_keyword & spelt(one.__eq__) for one in KEYWORDS}
    lines, starts_line = _logical_lines(source, spelt)
    labels["statement_start"] = starts_line

    before, after = _neighbours(kind)
    follows_dot = before(labels["dot"])
    labels["function_name"] = name & before(labels["keyword_def"])
    labels["class_name"] = name & before(labels["keyword_class"])
    labels["attribute"] = name & follows_dot & (lines["line_import"].depth(source.start) == 0)
    labels["builtin"] &= ~follows_dot
    labels["call_name"] = name & after(operator & spelt("(".__eq__)) & ~labels["function_name"] & ~labels["class_name"]
    first = np.zeros(len(kind), dtype=bool)
    places = np.flatnonzero(name)
    first[places[np.unique(word[places], return_index=True)[1]]] = True
    labels["name_first"] = first
    labels["name_seen"] = name & ~first
    return labels, lines


def _quotes(text: str) -> tuple[int, int]:
    """Where the first quote of each sort stands in `text`, 3 (no prefix is longer) for none."""
    double, single = text.find('"'), text.find("'")
    return (double if double >= 0 else 3, single if single >= 0 else 3)


def _neighbours(kind: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Functions from a property to that of the lexeme before and of the one after, comments and blank ends of line left out."""
    solid = np.flatnonzero((kind != COMMENT) & (kind != BLANK))

    def shifted(by: int) -> Callable[[np.ndarray], np.ndarray]:
        def shift(values: np.ndarray) -> np.ndarray:
            result = np.zeros(len(kind), dtype=bool)
            if by > 0:
                result[solid[by:]] = values[solid[:-by]]
            else:
                result[solid[:by]] = values[solid[-by:]]
            return result

        return shift

    return shifted(1), shifted(-1)


def _logical_lines(source: Source, spelt: Callable[[Callable[[str], bool]], np.ndarray]) -> tuple[dict[str, Spans], np.ndarray]:
    """Spans of the logical lines that start with def, class, import or @, and which lexemes start a logical line."""
    kind = source.kind
    solid = np.flatnonzero((kind != COMMENT) & (kind != BLANK))
    number = np.cumsum(kind == NEWLINE) - (kind == NEWLINE)
    heads = solid[np.unique(number[solid], return_index=True)[1]]
    ends = np.append(source.start[kind == NEWLINE], source.end[-1])[number[heads]]
    starts_line = np.zeros(len(kind), dtype=bool)
    starts_line[heads] = True
    second = solid[np.minimum(np.searchsorted(solid, heads) + 1, len(solid) - 1)]
    telling = np.where(spelt("async".__eq__)[heads], second, heads)

    def led_by(*signs: str) -> Spans:
        chosen = spelt(lambda text: text in signs)[telling]
        return Spans(source.start[heads[chosen]], ends[chosen])

    return {
        "line_def": led_by("def"),
        "line_class": led_by("class"),
        "line_import": led_by("import", "from"),
        "line_decorator": led_by("@"),
    }, starts_line
