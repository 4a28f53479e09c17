"""A trained student, and everything that can be made of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactff_md.artifact import StudentMetadata, load_student, load_uncertainty, save_student
from compactff_md.engines.ase import StudentCalculator
from compactff_md.errors import CompactFFError
from compactff_md.export import export_student
from compactff_md.students.base import StudentNetwork
from compactff_md.students.uncertainty import Uncertainty

# What `distill` and `train` call the student in their folder.
STUDENT_FILE = "student.safetensors"
# Name -> file of the students that come with the package; a card in Markdown lies beside each.
SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "shipped").glob("*.safetensors"))}


@dataclass(frozen=True)
class Student:
    """A network with what is known about it; made by :func:`load`.

    Parameters
    ----------
    network
        On the CPU, in evaluation mode.
    metadata
        As written in the student's file.
    path
        The file it came from; None where it was never saved.
    uncertainty
        Tells force errors to expect; None where the file has none.
    """

    network: StudentNetwork
    metadata: StudentMetadata
    path: Path | None = None
    uncertainty: Uncertainty | None = None

    @property
    def num_parameters(self) -> int:
        """Everything that is learned."""
        return self.network.num_parameters

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that the student knows."""
        return list(self.network.elements)

    @property
    def cutoff_A(self) -> float:
        """Length beyond which two atoms have no direct influence on each other."""
        return self.network.cutoff_A

    @property
    def receptive_field_A(self) -> float:
        """How far an atom can influence another's energy: cutoff times interactions."""
        return self.network.receptive_field_A

    def ase_calculator(self, **options: Any) -> StudentCalculator:
        """Make an ASE calculator: energy, free_energy, energies, forces, stress.

        Where the student has an uncertainty, ``results["uncertainties"]`` has the force error to expect of
        each atom in eV/A; ``uncertainty=None`` leaves it out.

        Parameters
        ----------
        options
            Of :class:`compactff_md.engines.ase.StudentCalculator`: device, dtype, skin_A.

        Raises
        ------
        CompactFFError
            For any other option.
        """
        return StudentCalculator(self.network, **{"uncertainty": self.uncertainty, **options})

    def openmm_force(
        self, atoms: Any, force: str = "torchforce", *, particles: Iterable[int] | None = None, **options: Any
    ) -> Any:
        """Make an ``openmm.Force`` to add to a system.

        Take ``force="python"`` for a system that is copied, read from XML, or scaled in a ``CustomCVForce``:
        OpenMM 8.6 crashes when it reads or copies the TorchForce of openmm-torch 1.10.

        Parameters
        ----------
        atoms
            ``openmm.app.Topology``, ``ase.Atoms`` or ``Structure`` of the whole system; periodic where it
            has box vectors. Give them to the system, too, by ``setDefaultPeriodicBoxVectors``: the box of
            one that has none is a cube of 2 nm. (``engines.openmm_system.create_system`` makes the system.)
        force
            ``torchforce`` or ``python``.
        particles
            Indices of the atoms that the student works on; None means all.
        options
            Of :func:`compactff_md.engines.openmm_force.openmm_force`: device, dtype, skin_A, force_group.

        Raises
        ------
        CompactFFError
            If an atom has no element or one that the student does not know, or OpenMM or its plugin is
            missing, with what to install.
        """
        # Only here: a plugin wheel that does not fit PyTorch must not be met by those who do without it.
        from compactff_md.engines.openmm_force import indices_of, openmm_force
        from compactff_md.engines.openmm_system import atoms_of

        particles = None if particles is None else indices_of(particles)
        numbers, periodic = atoms_of(atoms, particles)
        return openmm_force(self, numbers, pbc=periodic, force=force, particles=particles, **options)

    def export(self, path: str | Path, format: str = "torchscript", **options: Any) -> Path:
        """Write the student for another program; return the path.

        Parameters
        ----------
        path
            File to write.
        format
            A key of ``compactff_md.export.FORMATS``.
        options
            Of that format.

        Raises
        ------
        CompactFFError
            If ``path`` is the student's own file, or as :func:`compactff_md.export.export_student` says.
        """
        path = Path(path)
        if self.path is not None and path.exists() and path.samefile(self.path):
            raise CompactFFError(f"{path} is the student itself, which would be lost; choose another file")
        export_student(self.network, self.metadata, path, format=format, **options)
        return path

    def save(self, path: str | Path) -> Path:
        """Write the student file; return the path."""
        save_student(path, self.network, self.metadata, self.uncertainty)
        return Path(path)


def load(name_or_path: str | Path) -> Student:
    """Load a student from its file, the folder that training wrote, or by the name of a shipped one.

    Raises
    ------
    CompactFFError
        If there is none of these, or the file is damaged, foreign or from a newer version.
    """
    path = student_file(name_or_path)
    network, metadata = load_student(path)
    return Student(network, metadata, path, load_uncertainty(path))


def student_file(name_or_path: str | Path) -> Path:
    """Path of the file that :func:`load` would read.

    Raises
    ------
    CompactFFError
        If there is none; the message lists the shipped students.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / STUDENT_FILE).is_file():
            return path / STUDENT_FILE
        raise CompactFFError(
            f"the folder {path} holds no {STUDENT_FILE}; expected the --out of a finished training"
        )
    if str(name_or_path) in SHIPPED:
        return SHIPPED[str(name_or_path)]
    raise CompactFFError(
        f"no student {str(name_or_path)!r}: there is no such file, and the students that come with the "
        f"package are: {', '.join(SHIPPED) or 'none yet'}. Make one with: compactff distill FILE --out DIR"
    )
