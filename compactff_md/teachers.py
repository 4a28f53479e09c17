"""Teachers by name: slow potentials as ASE calculators. Their packages are imported here and nowhere else."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import ase
import torch
from ase.calculators.calculator import BaseCalculator
from ase.data import chemical_symbols

from compactff_md.engines.ase import StudentCalculator
from compactff_md.errors import CompactFFError
from compactff_md.structure import MAX_ATOMIC_NUMBER
from compactff_md.student import load, student_file

_PRINTING = threading.RLock()  # the standard output is that of all threads
_FOUND: dict[str, tuple[Any, str]] = {}  # of modules: their spec, which a reload makes anew, and version
MACE_OFF = ("off-small", "off-medium", "off-large")  # of organic molecules; others are of crystals
UP_TO_RADON = frozenset(chemical_symbols[1 : MAX_ATOMIC_NUMBER + 1])
# What TBLite takes beside the method; its printing and its cache are set here.
TBLITE_ARGUMENTS = (
    "charge",
    "multiplicity",
    "accuracy",
    "electronic_temperature",
    "max_iterations",
    "mixer_damping",
    "guess",
    "solvation",
    "electric_field",
    "spin_polarization",
)


@dataclass(frozen=True)
class TeacherKind:
    """One entry of the registry.

    Attributes
    ----------
    build
        ``build(target, settings)`` makes a calculator; ``target`` is what stands after the colon.
    module, install
        Module that must be importable, and the command that installs it.
    target
        What stands after the colon in the name, for messages; empty where nothing does.
    elements
        Symbols that it knows, where its calculator does not say so itself; None: not known beforehand.
    periodic_only
        True where it sees every structure as a crystal.
    """

    build: Callable[[str, dict[str, Any]], BaseCalculator]
    module: str
    install: str
    target: str = ""
    elements: frozenset[str] | None = None
    periodic_only: bool = False


@dataclass(frozen=True)
class Teacher:
    """A teacher that was found and tried; plain data, so it can be sent to another process.

    Attributes
    ----------
    name
        As given to :func:`create_teacher`.
    version
        Of the package, with the checksum of the model where that is a file of the user's.
    settings
        Arguments of the calculator.
    elements
        Symbols that it knows; None where it does not tell.
    periodic_only
        True where it can take only structures that are periodic in all directions.
    """

    name: str
    version: str
    settings: dict[str, Any] = field(default_factory=dict)
    elements: frozenset[str] | None = None
    periodic_only: bool = False

    def calculator(self) -> BaseCalculator:
        """Return a new ASE calculator.

        Raises
        ------
        CompactFFError
            If it is not of the teacher's version, because files were replaced or this is another process.
        """
        made = _build(self.name, self.settings)
        check_version(self.name, _version_of(self.name), self.version)
        return made

    def check(self, atoms: ase.Atoms, label: str = "structure") -> None:
        """Refuse, before any work, what the teacher cannot label.

        Raises
        ------
        CompactFFError
            If an element is unknown to it, or it needs a periodic cell and there is none.
        """
        unknown = unsupported(self.elements, atoms.get_chemical_symbols())
        if unknown:
            raise CompactFFError(
                f"{label}: the teacher {self.name} does not know {', '.join(unknown)}; "
                f"it knows {', '.join(_by_number(self.elements or ()))}"
            )
        if self.periodic_only and not atoms.pbc.all():
            raise CompactFFError(
                f"{label}: the teacher {self.name} is for crystals; expected a structure that is periodic in "
                f"all three directions, got pbc {atoms.pbc.tolist()}"
            )

    def caution(self, structures: Iterable[ase.Atoms]) -> str:
        """What to know before its labels of such structures are believed; empty where nothing is.

        GFN2-xTB of tblite with periodic boundaries is not that of free molecules: 64 molecules of water in a
        box are bound by half of what they should be, and their pressure is kilobars too high, from the
        Ewald sum of its multipoles (tblite 0.8; https://github.com/tblite/tblite/pull/284).
        """
        if self.name != "gfn2-xtb" or not any(atoms.pbc.any() for atoms in structures):
            return ""
        return (
            "warning: gfn2-xtb with periodic boundaries is not gfn2-xtb of free molecules: its energy is too "
            "high by a part that grows with the density, its pressure by kilobars. Take gfn1-xtb; a student "
            "of gfn2-xtb learns a liquid from free pieces of it (piece_atoms of a step md)"
        )

    def describe(self) -> dict[str, Any]:
        """Return name, version and settings as kept in student files."""
        return {"name": self.name, "version": self.version, "settings": dict(self.settings)}


def create_teacher(name: str, **arguments: Any) -> Teacher:
    """Find a teacher and make its calculator once, so that what is missing shows at once.

    Parameters
    ----------
    name
        A key of ``KINDS`` (``mace:FILE-or-NAME``, ``student:FILE`` and ``orb:NAME`` with what follows the
        colon), or ``module:callable``, where calling it with ``arguments`` returns an ASE calculator;
        modules of the current folder are found.
    arguments
        For the calculator: ``charge`` and ``multiplicity`` with xTB, ``device`` with networks.

    Raises
    ------
    CompactFFError
        For unknown names and arguments, and packages or models that are missing, with what to install.
    """
    calculator = _build(name, arguments)
    kind = KINDS.get(_split(name)[0])
    known = _elements_of(calculator) or (kind.elements if kind else None)
    return Teacher(name, _version_of(name), dict(arguments), known, bool(kind and kind.periodic_only))


def check_version(name: str, found: str, wanted: str) -> None:
    """Refuse a teacher that would make other labels than those that it is asked for.

    Raises
    ------
    CompactFFError
        If the version found in this process is not the one wanted.
    """
    if found != wanted:
        raise CompactFFError(
            f"the teacher {name} is {found} in a process on {socket.gethostname()}, wanted is {wanted}: its "
            "files were changed, or are others there. See that they are the same everywhere, and restart "
            "the dask workers, or the Python that began the run: they keep what they have imported"
        )


def available() -> dict[str, str | None]:
    """Every name of the registry with None where its package is installed, else the command to install it."""
    return {_usage(key): None if _installed(kind.module) else kind.install for key, kind in TEACHERS.items()}


def unsupported(elements: Iterable[str] | None, symbols: Iterable[str]) -> list[str]:
    """Symbols outside ``elements`` by atomic number; none where ``elements`` is None."""
    return [] if elements is None else _by_number(set(symbols) - set(elements))


def _tblite(method: str) -> Callable[[str, dict[str, Any]], BaseCalculator]:
    def build(target: str, settings: dict[str, Any]) -> BaseCalculator:
        unknown = sorted(set(settings) - set(TBLITE_ARGUMENTS))
        if unknown:
            allowed = ", ".join(TBLITE_ARGUMENTS)
            raise CompactFFError(f"{method} has no argument {', '.join(unknown)}; allowed are {allowed}")
        from tblite.ase import TBLite

        return TBLite(method=method, verbosity=0, **settings)

    return build


def _sevennet(model: str) -> Callable[[str, dict[str, Any]], BaseCalculator]:
    def build(target: str, settings: dict[str, Any]) -> BaseCalculator:
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(model, **_with_device(settings))

    return build


def _chgnet(target: str, settings: dict[str, Any]) -> BaseCalculator:
    from chgnet.model.dynamics import CHGNetCalculator

    settings = _with_device(settings)
    return CHGNetCalculator(use_device=settings.pop("device"), **settings)


def _mace(target: str, settings: dict[str, Any]) -> BaseCalculator:
    from mace import calculators as mace

    options = {"default_dtype": "float64", **_with_device(settings)}
    if Path(target).is_file():
        return mace.MACECalculator(model_paths=target, **options)
    if target in MACE_OFF:
        return mace.mace_off(model=target.removeprefix("off-"), **options)
    from mace.calculators.foundations_models import mace_mp_names

    if target not in mace_mp_names:
        names = ", ".join(filter(None, [*mace_mp_names, *MACE_OFF]))
        raise CompactFFError(f"no such MACE model: {target}; expected a file, or one of MACE's: {names}")
    return mace.mace_mp(model=target, **options)


def _orb(target: str, settings: dict[str, Any]) -> BaseCalculator:
    from orb_models.forcefield import pretrained

    place = "inference.calculator" if _installed("orb_models.forcefield.inference") else "calculator"
    calculator = importlib.import_module(f"orb_models.forcefield.{place}").ORBCalculator
    name = target.replace("-", "_")
    if not hasattr(pretrained, name):
        raise CompactFFError(f"orb_models has no model {target!r}; one is orb_v3_conservative_inf_omat")
    options = _with_device(settings)
    device = options.pop("device")
    model = getattr(pretrained, name)(device=device, **options)
    # Releases before 0.6 return the model alone, later ones the model and an adapter of atoms.
    return calculator(*(model if isinstance(model, tuple) else (model,)), device=device)


def _student(target: str, settings: dict[str, Any]) -> BaseCalculator:
    return load(target).ase_calculator(**settings)


def _callable(name: str, settings: dict[str, Any]) -> BaseCalculator:
    """Call ``module:callable``; the only teacher that runs the user's own code."""
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = importlib.import_module(module_name)
        for part in attribute.split("."):
            made = getattr(made, part)
        calculator = made(**settings)  # type: ignore[operator]
    except (ImportError, AttributeError, TypeError) as error:
        raise CompactFFError(
            f"teacher {name!r} cannot be made ({type(error).__name__}: {error}); expected a name from "
            f"{', '.join(map(_usage, KINDS))}, or module:callable that returns an ASE calculator"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(calculator, BaseCalculator):
        kind = type(calculator).__name__
        raise CompactFFError(f"teacher {name!r} returned a {kind}; expected an ASE calculator")
    return calculator


_XTB = 'pip install "compactff-md[xtb]"'
_SEVENNET = 'pip install "compactff-md[sevennet]"'
_CHGNET = 'pip install "compactff-md[chgnet]"'
TEACHERS = {
    "gfn2-xtb": TeacherKind(_tblite("GFN2-xTB"), "tblite", _XTB, elements=UP_TO_RADON),
    "gfn1-xtb": TeacherKind(_tblite("GFN1-xTB"), "tblite", _XTB, elements=UP_TO_RADON),
    "sevennet-0": TeacherKind(_sevennet("7net-0"), "sevenn", _SEVENNET),
    "sevennet-l3i5": TeacherKind(_sevennet("7net-l3i5"), "sevenn", _SEVENNET),
    "chgnet": TeacherKind(_chgnet, "chgnet", _CHGNET, elements=UP_TO_RADON, periodic_only=True),
    "mace": TeacherKind(_mace, "mace", "pip install mace-torch", target="FILE-or-NAME"),
    "orb": TeacherKind(_orb, "orb_models", "pip install orb-models", target="NAME"),
}

# With what needs no other package: a student of this one.
KINDS = {
    **TEACHERS,
    "student": TeacherKind(_student, "compactff_md", "pip install compactff-md", target="FILE"),
}


def _split(name: str) -> tuple[str, str]:
    """Registry key and target; the key is empty for ``module:callable``."""
    key, _, target = name.partition(":")
    kind = KINDS.get(key)
    return (key, target) if kind and bool(kind.target) == bool(target) else ("", name)


def _build(name: str, settings: dict[str, Any]) -> BaseCalculator:
    key, target = _split(name)
    if not key and all(name.partition(":")) and name.partition(":")[0] not in KINDS:
        return _callable(name, settings)
    if not key:
        raise CompactFFError(
            f"unknown teacher {name!r}; allowed are {', '.join(map(_usage, KINDS))}, "
            "and module:callable that returns an ASE calculator"
        )
    kind = KINDS[key]
    try:
        # Teachers print greetings and warn about accelerators.
        with _PRINTING, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return kind.build(target, settings)
    except ImportError as error:
        raise CompactFFError(
            f"the teacher {name} needs {kind.module}, which cannot be imported ({error}); run: {kind.install}"
        ) from error
    except TypeError as error:
        raise CompactFFError(f"the teacher {name} does not take the arguments {settings}: {error}") from error


def _with_device(settings: dict[str, Any]) -> dict[str, Any]:
    return {"device": "cuda" if torch.cuda.is_available() else "cpu", **settings}


def _elements_of(calculator: BaseCalculator) -> frozenset[str] | None:
    """Read what SevenNet and MACE calculators tell of their elements, and students."""
    if isinstance(calculator, StudentCalculator):
        return frozenset(calculator.network.elements)
    numbers = getattr(calculator, "type_map", None) or getattr(
        getattr(calculator, "z_table", None), "zs", None
    )
    return frozenset(chemical_symbols[int(z)] for z in numbers) if numbers else None


def _version_of(name: str) -> str:
    key, target = _split(name)
    found = _module_version(KINDS[key].module if key else name.partition(":")[0])
    is_file = key == "mace" and Path(target).is_file()
    own_file = str(student_file(target)) if key == "student" else target if is_file else ""
    return f"{found}, {_checksum(own_file)}" if own_file else found


def _module_version(module: str) -> str:
    """Of an imported module, as it was when first asked for: its files may be others by now.

    A module that is part of no package has the checksum of its file.
    """
    spec = getattr(sys.modules.get(module), "__spec__", None)
    known, version_then = _FOUND.get(module, (None, ""))
    if spec is not None and known is spec:
        return version_then
    found = _package_version(module.partition(".")[0])
    source = getattr(sys.modules.get(module), "__file__", None)
    if found == "unknown" and source and module not in {kind.module for kind in KINDS.values()}:
        found = f"{found}, {_checksum(source)}"
    _FOUND[module] = (spec, found)
    return found


def _checksum(file: str) -> str:
    return f"{Path(file).name} sha256 {hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}"


def _package_version(package: str) -> str:
    try:
        return version(packages_distributions().get(package, [package])[0])
    except PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _usage(key: str) -> str:
    target = KINDS[key].target
    return f"{key}:{target}" if target else key


def _by_number(symbols: Iterable[str]) -> list[str]:
    return sorted(symbols, key=chemical_symbols.index)
