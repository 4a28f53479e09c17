"""Imports go down only, and optional packages stay where they are expected."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / folder for folder in ("compactff_md", "training", "validation")]

# A module belongs to the longest name here that it starts with. It may import from its own layer and below.
LAYERS = {
    "compactff_md.errors": 0,
    "compactff_md.files": 0,
    "compactff_md.locks": 0,
    "compactff_md.memory": 0,
    "compactff_md.recorded": 0,
    "compactff_md.units": 0,
    "compactff_md.structure": 0,
    "compactff_md.neighbours": 1,
    "compactff_md.contacts": 1,
    "compactff_md.students": 2,
    "compactff_md.gradients": 2,
    "compactff_md.artifact": 3,
    "compactff_md.export": 4,
    "compactff_md.mliap": 4,
    "compactff_md.engines": 4,
    "compactff_md.student": 4,
    "compactff_md.teachers": 4,  # a student can teach a student
    "compactff_md": 4,  # the names at the top of the package
    "compactff_md.training": 5,
    "compactff_md.validation": 5,
    "compactff_md.cli": 6,
    "compactff_md.__main__": 6,
}
# Within a layer: who never imports whom.
FORBIDDEN = [
    ("compactff_md.training", "compactff_md.validation"),
    ("compactff_md.validation", "compactff_md.training"),
    ("compactff_md.teachers", "compactff_md.students"),
    ("compactff_md.students", "compactff_md.teachers"),
    ("compactff_md.students", "compactff_md.gradients"),
    ("compactff_md.export", "compactff_md.engines"),
    ("compactff_md.export", "compactff_md.student"),
    ("compactff_md.engines", "compactff_md.student"),
]
# Third-party packages that a user may lack, and the only modules that import them.
OPTIONAL: dict[str, set[str]] = {
    "openmm": {"compactff_md.engines.openmm_import"},
    "openmmtorch": {"compactff_md.engines.openmm_import"},
    "openmmml": {"compactff_md.engines.openmmml_plugin"},
    "tblite": {"compactff_md.teachers"},
    "sevenn": {"compactff_md.teachers"},
    "chgnet": {"compactff_md.teachers"},
    "mace": {"compactff_md.teachers"},
    "orb_models": {"compactff_md.teachers"},
    "rdkit": {"compactff_md.training.chemistry"},
    "dask": set(),
    "distributed": {"compactff_md.training.cluster"},
    "MDAnalysis": {"compactff_md.validation.mda"},
    "lammps": {"compactff_md.training.bench_lammps"},
    "cupy": set(),
}
# `compactff doctor` runs this file alone, a process for each thing that it tries to import.
PROBES = "compactff_md.cli.probes"
# Imports inside functions: (module, what is imported) -> the reason.
LAZY = {
    (
        "compactff_md",
        "compactff_md.student",
    ): "openmm-ml imports the package everywhere; PyTorch can wait",
    ("compactff_md.student", "compactff_md.engines.openmm_force"): "a plugin wheel that does not fit PyTorch",
    ("compactff_md.student", "compactff_md.engines.openmm_system"): "must not be met by those who do without",
    ("compactff_md.cli.md", "compactff_md.engines.openmm_md"): "the same",
    ("compactff_md.validation.subject", "compactff_md.validation.engine_openmm"): "the same",
    ("compactff_md.validation.subject", "compactff_md.engines.openmm_system"): "the same",
    ("compactff_md.validation.subject", "compactff_md.engines.openmm_import"): "the same",
    ("compactff_md.engines.openmmml_plugin", "compactff_md.engines.openmm_force"): "PyTorch, as above",
    ("compactff_md.engines.openmmml_plugin", "compactff_md.engines.openmm_system"): "PyTorch, as above",
}


@dataclass(frozen=True)
class Import:
    module: str
    target: str
    line: int
    lazy: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "compactff_md":
        parts.insert(0, "compactff_md")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for folder in SOURCES for path in sorted(folder.rglob("*.py"))}


def targets(node: ast.AST, module: str) -> Iterator[str]:
    """Full names that an import statement, or ``import_module("...")``, asks for."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield full if full in FILES else base
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("import_module", "__import__"):
            yield str(node.args[0].value)


def imports_of(module: str, source: str) -> list[Import]:
    found = []

    def visit(node: ast.AST, lazy: bool) -> None:
        found.extend(Import(module, target, node.lineno, lazy) for target in targets(node, module))
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


IMPORTS = [found for module, path in FILES.items() for found in imports_of(module, path.read_text())]
OURS = [found for found in IMPORTS if found.target.split(".")[0] == "compactff_md"]


def within(module: str, group: str) -> bool:
    return module == group or module.startswith(f"{group}.")


def group_of(module: str) -> str:
    if module == "compactff_md":
        return module
    groups = [name for name in LAYERS if name != "compactff_md" and within(module, name)]
    assert groups, f"{module} has no layer: add it to LAYERS"
    return max(groups, key=len)


def test_every_module_has_a_layer():
    assert len(FILES) > 10
    for module in FILES:
        group_of(module)


def test_imports_go_down_only():
    upward = [str(i) for i in OURS if LAYERS[group_of(i.target)] > LAYERS[group_of(i.module)]]
    assert not upward, "\n".join(upward)


def test_neighbours_in_a_layer_that_must_not_know_each_other():
    wrong = [str(i) for i in OURS for a, b in FORBIDDEN if within(i.module, a) and within(i.target, b)]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_circles():
    graph = {module: {i.target for i in OURS if i.module == module and i.target in FILES} for module in FILES}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "a circle: " + " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for target in sorted(graph[module]):
            walk(target, (*path, module))
        done.add(module)

    for module in graph:
        walk(module, ())


@pytest.mark.parametrize("package", OPTIONAL)
def test_optional_packages_are_imported_where_expected(package):
    users = [i for i in IMPORTS if within(i.target, package) and i.module != PROBES]
    wrong = [str(i) for i in users if not any(within(i.module, m) for m in OPTIONAL[package])]
    assert not wrong, "\n".join(wrong)


def test_what_is_imported_at_the_top_is_a_declared_dependency():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=~ ]", line)[0].lower() for line in declared} | {"yaml", "compactff_md"}
    known = names | sys.stdlib_module_names | OPTIONAL.keys()
    undeclared = [str(i) for i in IMPORTS if i.target.split(".")[0] not in known and i.module != PROBES]
    assert not undeclared, "\n".join(undeclared)


def test_nothing_is_imported_inside_functions_without_a_reason():
    ours = [i for i in IMPORTS if i.lazy and i.target.split(".")[0] not in OPTIONAL and i.module != PROBES]
    lazy = {(i.module, i.target): str(i) for i in ours}
    unexplained = [text for key, text in lazy.items() if key not in LAZY]
    assert not unexplained, "\n".join(unexplained)
    assert lazy.keys() >= LAZY.keys(), "LAZY explains what is no longer there"


def test_mapped_packages_are_imported_by_their_full_names():
    bare = [str(i) for i in IMPORTS if i.target.split(".")[0] in ("training", "validation")]
    for folder in ("tests", "openmm", "lammps"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                bare += [f"{path}: {n}" for n in names if n.split(".")[0] in ("training", "validation")]
    assert not bare, "\n".join(bare)


def test_script_folders_do_not_shadow_packages():
    """From the repository's root they would hide the real openmm and lammps."""
    for folder in ("openmm", "lammps"):
        assert (ROOT / folder).is_dir()
        assert not list((ROOT / folder).rglob("__init__.py"))
        assert not list(ROOT.glob(f"{folder}.py"))
        assert not [p for p in (ROOT / folder).rglob("*.py") if p.stem in ("openmm", "lammps")]


def test_files_stay_readable():
    long = {
        str(p.relative_to(ROOT)): n for p in FILES.values() if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long, f"more than 400 lines: {long}"


def test_the_check_itself_sees_what_it_should():
    source = """
import compactff_md.cli
from compactff_md import training
def f():
    from compactff_md.students import create
    importlib.import_module("openmm.app")
"""
    seen = [(i.target, i.lazy) for i in imports_of("compactff_md.units", source)]
    assert ("compactff_md.cli", False) in seen
    assert ("compactff_md.training", False) in seen
    assert ("compactff_md.students", True) in seen
    assert ("openmm.app", True) in seen
