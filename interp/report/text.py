"""Text as a reader may see it: numbers, invisible characters made visible, and the few marks of report paragraphs.

Must not know: claims, HTML, files.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_GLYPHS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x7f": "␡"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_MARKS = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|(?<![\w*])\*(?P<em>[^*\s][^*]*)\*(?!\w)")


def visible(text: str) -> str:
    """Text with every invisible or direction-changing character as a glyph: ↵ for a newline, ‹U+202E› for a bidi control."""
    if text.isprintable():  # the common case, and quick; printable excludes every category below
        return text
    return "".join(_glyph(char) for char in text)


def _glyph(char: str) -> str:
    if char in _GLYPHS:
        return _GLYPHS[char]
    if unicodedata.category(char) not in _HIDDEN:
        return char
    return chr(0x2400 + ord(char)) if ord(char) < 0x20 else f"‹U+{ord(char):04X}›"


def number(value: float) -> str:
    """A number to read: four significant digits, two decimals at least where there are any, thousands apart, − for minus."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "–")
    if value == int(value) and abs(value) < 1e9:
        text = f"{int(value):,}"
    elif 1e4 <= abs(value) < 1e9:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
        if re.fullmatch(r"-?\d+\.\d", text):
            text += "0"
    return text.replace("-", "−") if "e" not in text else text


def column(values: Sequence[object]) -> list[str]:
    """The cells of one table column to read: numbers of like size with the same decimals, None and NaN as an en dash."""
    sizes = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value) and value != 0]
    alike = bool(sizes) and 1e-3 <= max(sizes) < 1e4
    decimals = max(0, 2 - math.floor(math.log10(max(sizes)))) if alike else None
    return [_cell(value, decimals) for value in values]


def _cell(value: object, decimals: int | None) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if decimals is None or not isinstance(value, float) or not math.isfinite(value):
        return number(value)
    text = f"{value + 0.0:.{decimals}f}"  # −0 + 0 is 0
    return number(value) if value and not float(text) else text.replace("-", "−")


@dataclass(frozen=True)
class Paragraph:
    """One paragraph or one bullet list: `items` are lines of spans, a span is ("text" | "code" | "strong" | "em", words)."""

    bullets: bool
    items: tuple[tuple[tuple[str, str], ...], ...]


def paragraphs(text: str) -> list[Paragraph]:
    """Blank lines part paragraphs; lines that all start with "- " are a list; `code`, **strong** and *em* are the only marks."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text.strip())]
    return [_paragraph(block) for block in blocks if block]


def _paragraph(block: str) -> Paragraph:
    lines = [line.strip() for line in block.split("\n")]
    if all(line.startswith("- ") for line in lines):
        return Paragraph(True, tuple(_spans(line[2:]) for line in lines))
    return Paragraph(False, (_spans(" ".join(lines)),))


def _spans(line: str) -> tuple[tuple[str, str], ...]:
    spans: list[tuple[str, str]] = []
    end = 0
    for match in _MARKS.finditer(line):
        spans.append(("text", line[end : match.start()]))
        spans += [(kind, words) for kind, words in match.groupdict().items() if words]
        end = match.end()
    spans.append(("text", line[end:]))
    return tuple(span for span in spans if span[1])
