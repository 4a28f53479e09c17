"""What texts of the repository name: commands, fields of their configurations, and paths."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "training" / "recipes"
CARDS = sorted((ROOT / "compactff_md" / "shipped").glob("*.md"))
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *CARDS,
    *sorted(RECIPES.glob("*.md")),
    ROOT / "lammps" / "README.md",
]
SCRIPTS = [*sorted(RECIPES.glob("*.yaml")), *sorted(RECIPES.glob("*.sh"))]

FENCE = re.compile(r"^```.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
FOLDERS = ("openmm", "lammps", "training", "validation", "compactff_md", "docs", "tests")
COMMAND = re.compile(
    r"(?:\w+=\S+ )*(?:compactff(?= |$)|(?:torchrun|python) (?:.*? )?-m (compactff_md[\w.]*))"
)
NAMED = re.compile(rf"(?<![\w./])(?:{'|'.join(FOLDERS)})/[\w./*-]*")


@dataclass(frozen=True)
class Command:
    """A command of the package: ``program`` is ``compactff`` or the module that Python runs."""

    program: str
    words: tuple[str, ...]
    text: str

    @property
    def options(self) -> list[str]:
        """Words that begin with a dash and a letter."""
        return [word.split("=")[0] for word in self.words if re.match(r"--?[a-z]", word)]

    @property
    def fields(self) -> list[str]:
        """What ``--set`` gives a value to."""
        pairs = zip(self.words, self.words[1:], strict=False)
        return [value.split("=")[0] for option, value in pairs if option == "--set"]


def code(path: Path) -> list[str]:
    """Every piece of code: lines of blocks and what is in backticks; in a script its usage lines."""
    text = path.read_text(encoding="utf-8")
    if path in SCRIPTS:
        return re.findall(r"^#   (.+)$", text, re.MULTILINE)
    blocks = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return blocks + SPAN.findall(FENCE.sub("", text))


def commands(path: Path) -> list[Command]:
    """Every command of the package in the code of a text."""
    parts = [part for piece in code(path) for part in re.split(r"; | && ", piece)]
    return [command for part in parts if (command := _command(part)) is not None]


def _command(text: str) -> Command | None:
    found = COMMAND.match(text)
    if found is None:
        return None
    program = found[1] if found[1] not in (None, "compactff_md") else "compactff"
    return Command(program, tuple(shlex.split(text[found.end() :], comments=True)), text)


def paths(path: Path) -> set[str]:
    """Files and folders of the repository that the code of a text names."""
    return {name.rstrip(".") for piece in code(path) for name in NAMED.findall(piece)}


def lies_there(name: str) -> bool:
    """Whether a path of the repository, or of an installation's package, or a pattern, leads somewhere."""
    if name.startswith(("compactff_md/training", "compactff_md/validation")):
        name = name.removeprefix("compactff_md/")
    return any(ROOT.glob(name.rstrip("/")))


def settings(path: Path) -> list[str]:
    """Fields that any ``--set`` of a text gives a value to, with or without its command."""
    return re.findall(r"--set \W?([a-z]\w*(?:\.\w+)*)=", path.read_text(encoding="utf-8"))
