"""The tables of docs/sae-formats.md are what the code does: each is made again here, and compared.

`INTERP_WRITE_DOCS=1 pytest tests/sae/formats/test_docs_table.py` writes them anew.
"""

import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import get_args

from safetensors import safe_open

from interp.errors import StoreError
from interp.sae import formats

PAGE = Path(__file__).parents[3] / "docs" / "sae-formats.md"
FIXTURES = Path(__file__).parent.parent / "fixtures"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compare(name, made):
    """The table between the marks of this name is the one given."""
    text = PAGE.read_text()
    marked = re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- /{name} -->)", re.S)
    if os.environ.get("INTERP_WRITE_DOCS") == "1":
        PAGE.write_text(marked.sub(lambda found: f"{found[1]}{made}\n{found[3]}", text))
    assert marked.search(PAGE.read_text())[2].rstrip("\n") == made  # pyright: ignore[reportOptionalSubscript]


def test_the_table_of_what_is_written(every, loaded_by_saelens, tmp_path):
    names = {
        "saelens": lambda folder: json.loads((folder / "cfg.json").read_text())["architecture"],
        "dictionary_learning": lambda folder: json.loads((folder / "config.json").read_text())["trainer"]["dict_class"],
        "sparsify": lambda folder: json.loads((folder / "cfg.json").read_text())["activation"],
    }
    rows = []
    for kind, make in every.items():
        cells = [kind]
        for layout in get_args(formats.Layout):
            try:
                written = f"`{names[layout](formats.save(make(), tmp_path / kind / layout, layout=layout))}`"
            except StoreError:
                written = "–"
            cells.append(f"({written})" if layout == "saelens" and kind not in loaded_by_saelens else written)
        rows.append(cells)
    compare("written", table(["autoencoder", *names], rows))


def test_the_table_of_what_is_read():
    found = defaultdict(list)
    for path in sorted(FIXTURES.glob("*/*.safetensors")):
        with safe_open(path, "pt") as file:
            found[file.metadata()["made_by"]].append(f"`{path.stem}`")
    compare(
        "read",
        table(["written by", "fixtures in `tests/sae/fixtures/`"], [[by, ", ".join(names)] for by, names in found.items()]),
    )
