"""The house keeps its order: rooms import downwards, TransformerLens stops at one door, and what is unsafe or noisy stays out."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "interp"
FLOORS = [
    {"errors", "names", "__init__"},
    {"stats", "streaming", "measurement", "association", "rules", "process"},
    {"text", "tasks"},
    {"models"},
    {"activations"},
    {"heads", "mlp", "sae", "probes", "comparison", "superposition"},
    {"figures", "report", "pages", "neuron_pages", "head_pages"},
    {"experiment", "commands", "cli", "__main__"},
]
SHARED = {1, 6, 7}
"""Floors whose rooms may import each other; on all others a room imports only from lower floors and from itself."""
DOOR = "interp/models/lens.py"
MODULES = sorted(PACKAGE.rglob("*.py"))
UNSAFE = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(room):
    """The number of a room's floor; for what is no room, one above all others."""
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def imports(tree):
    """Dotted names of all that a module imports, wherever the statement stands; `from interp import stats` is `interp.stats`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def upward(path, tree):
    """The imports of a module that break the order."""
    room = room_of(path)
    floor = floor_of(room)
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] != "interp" or len(parts) < 2 or parts[1] in (room, "__version__"):
            continue
        other = floor_of(parts[1])
        if other > floor or (other == floor and floor not in SHARED):
            yield f"{name_of(path)} (floor {floor}) imports {name} (floor {other})"


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_room_has_a_floor():
    assert {room_of(path) for path in MODULES} <= set().union(*FLOORS)


def test_rooms_import_only_from_lower_floors():
    assert [fault for path in MODULES for fault in upward(path, tree_of(path))] == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("stats.py", "from interp.models import Model"),
        ("heads/patterns.py", "from interp.sae import autoencoder"),
        ("report/html.py", "from interp import cli"),
        ("models/hooked.py", "from interp import nowhere"),
    ],
)
def test_an_upward_or_sideways_import_is_found(module, line):
    assert list(upward(PACKAGE / module, ast.parse(line)))


def test_transformer_lens_is_imported_at_one_door():
    everywhere = [*MODULES, *sorted((ROOT / "experiments").glob("*.py"))]
    users = [
        name_of(path) for path in everywhere if any(name.split(".")[0] == "transformer_lens" for name in imports(tree_of(path)))
    ]
    assert users == [DOOR]


def test_imports_are_absolute():
    assert [
        name_of(path) for path in MODULES for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom) and node.level
    ] == []


def test_every_module_says_what_it_holds():
    assert [name_of(path) for path in MODULES if not ast.get_docstring(tree_of(path))] == []


def test_nothing_reads_pickles():
    for path in MODULES:
        tree = tree_of(path)
        assert not UNSAFE & {name.split(".")[0] for name in imports(tree)}, name_of(path)
        for called, node in calls(tree):
            if called == "torch.load":
                assert any(each.arg == "weights_only" and ast.unparse(each.value) == "True" for each in node.keywords), name_of(
                    path
                )


def test_only_the_command_line_prints():
    assert [
        name_of(path) for path in MODULES for called, _ in calls(tree_of(path)) if called == "print" and room_of(path) != "cli"
    ] == []


def test_no_module_seeds_a_global_generator():
    seeds = {"torch.manual_seed", "random.seed", "np.random.seed", "torch.cuda.manual_seed_all", "np.random.set_state"}
    for path in MODULES:
        tree = tree_of(path)
        forked = [node for node in ast.walk(tree) if isinstance(node, ast.With) and "fork_rng(" in ast.unparse(node.items[0])]
        restored = {id(node) for block in forked for _, node in calls(block)}
        assert [called for called, node in calls(tree) if called in seeds and id(node) not in restored] == [], name_of(path)
