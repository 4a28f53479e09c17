"""Students as ASE calculators."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from compactff_md.errors import CompactFFError, NotFiniteError
from compactff_md.gradients import predict, predict_with_features
from compactff_md.neighbours import NeighbourTable, joined, neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import StudentNetwork, in_dtype
from compactff_md.students.uncertainty import OnAtoms, Uncertainty

DEFAULT_SKIN_A = 0.5
OPTIONS = ("device", "dtype", "skin_A", "uncertainty")
# Atoms of small structures that are asked for together.
ROWS_AT_ONCE = 4096


class StudentCalculator(Calculator):
    """Energy, forces and stress of a student in ASE's units (eV, eV/A, eV/A^3).

    There is a stress wherever the cell has a volume: that of a slab in a cell with vacuum is the derivative
    of its energy by strain, for the volume of the whole cell.

    Parameters
    ----------
    network
        Any student; it is copied, the original stays as it is.
    device
        ``auto`` takes a GPU where torch finds one; otherwise any torch device.
    dtype
        ``float32`` or ``float64`` of the network; energies are summed in float64 either way.
    skin_A
        Neighbours are searched this much beyond the cutoff and searched again when an atom has moved by
        half of it, or when cell, periodicity or elements change. Zero searches at every step.
    uncertainty
        What came with the student: ``results["uncertainties"]`` then has the force error to expect of each
        atom (eV/A, for each component), shape (N,). None leaves it out. ``**results`` and whatever else
        lists the results goes without: ASE knows no property of this name.

    Raises
    ------
    CompactFFError
        For an unknown device, dtype or option; when calculating, for elements that the student does not know,
        structures that :class:`Structure` refuses, and energies or forces that are not finite.
    """

    implemented_properties: ClassVar[list[str]] = [  # type: ignore[misc]  # ASE declares no ClassVar
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(
        self,
        network: StudentNetwork,
        *,
        device: str = "auto",
        dtype: str = "float32",
        skin_A: float = DEFAULT_SKIN_A,
        uncertainty: Uncertainty | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0.0 <= skin_A <= 5.0:
            raise CompactFFError(f"skin is {skin_A} A; allowed are 0 to 5 A")
        self.device = choose_device(device)
        self.network = in_dtype(network, dtype).to(self.device)
        weights = self.network.dtype_like()
        self.uncertainty = (
            None if uncertainty is None else copy.deepcopy(uncertainty).to(weights.device, weights.dtype)
        )
        self._tables = _TableKeeper(network.cutoff_A, skin_A, self.device)
        self._last: tuple[torch.Tensor, OnAtoms] | None = None

    def set(self, **options: Any) -> dict[str, Any]:
        """Refuse options; ASE hands over here what the constructor does not know, and would keep it.

        Raises
        ------
        CompactFFError
            For any.
        """
        if options:
            raise CompactFFError(
                f"a student's calculator has no option {', '.join(options)} to be set; allowed, when it is "
                f"made, are {', '.join(OPTIONS)}"
            )
        return {}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute everything at once; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        structure = Structure.from_ase(cast(Atoms, self.atoms))  # super() put a copy there
        table, species = self._tables.of(structure, self.network)
        positions = torch.tensor(structure.positions_A, device=self.device)
        energies, forces, virial, errors = self._predict(positions, table, species, self.uncertainty)
        _check_finite(energies, forces)
        self.results = _Results(
            energy=float(energies.sum()),
            free_energy=float(energies.sum()),
            energies=energies.cpu().numpy(),
            forces=forces.double().cpu().numpy(),
        )
        if errors is not None:
            self.results.unlisted["uncertainties"] = errors.double().cpu().numpy()
        if structure.volume_A3 > 0.0:
            stress = virial.double().cpu().numpy() / structure.volume_A3
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def energies_and_forces(self, structures: Sequence[Structure]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Ask for many structures at once, of any atoms and cells, which for small ones is much faster.

        Parameters
        ----------
        structures
            S of them, in A; at most ``ROWS_AT_ONCE`` atoms are evaluated together. None gives empty results.

        Returns
        -------
        energies_eV
            Shape (S,).
        forces_eV_per_A
            Of each structure, shape (N, 3).

        Raises
        ------
        CompactFFError
            Where an element is unknown to the student, or a result is not finite.
        """
        found = list(self._evaluations(structures, None))
        return np.array([energy for energy, _, _ in found]), [forces for _, forces, _ in found]

    def evaluate_all(
        self, structures: Sequence[Structure]
    ) -> list[tuple[float, np.ndarray, np.ndarray | None]]:
        """As :meth:`energies_and_forces`, with what ``results["uncertainties"]`` would be.

        Returns
        -------
        evaluations
            Of each structure its energy in eV, forces in eV/A, shape (N, 3), and the force errors to expect
            in eV/A, shape (N,), or None where nothing tells them.
        """
        return list(self._evaluations(structures, self.uncertainty))

    def _evaluations(
        self, structures: Sequence[Structure], uncertainty: Uncertainty | None
    ) -> Iterator[tuple[float, np.ndarray, np.ndarray | None]]:
        for few in _portions(structures, ROWS_AT_ONCE):
            table = joined([neighbour_table(structure, self.network.cutoff_A) for structure in few])
            table = NeighbourTable(table.neighbours.to(self.device), table.offsets_A.to(self.device))
            numbers = torch.from_numpy(np.concatenate([structure.numbers for structure in few]))
            positions = torch.from_numpy(np.concatenate([structure.positions_A for structure in few]))
            species = self.network.species_of(numbers.to(self.device))
            energies, forces, _, errors = self._predict(
                positions.to(self.device), table, species, uncertainty
            )
            _check_finite(energies, forces)
            ends = np.cumsum([len(structure) for structure in few])[:-1].tolist()
            totals = [float(part.sum()) for part in energies.cpu().tensor_split(ends)]
            on_atoms = np.split(forces.double().cpu().numpy(), ends)
            of_atoms: Sequence[np.ndarray | None] = [None] * len(few)
            if errors is not None:
                of_atoms = np.split(errors.double().cpu().numpy(), ends)
            yield from zip(totals, on_atoms, of_atoms, strict=True)

    def _predict(
        self,
        positions: torch.Tensor,
        table: NeighbourTable,
        species: torch.Tensor,
        uncertainty: Uncertainty | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if uncertainty is None:
            return (*predict(self.network, positions, table, species), None)
        energies, forces, virial, features = predict_with_features(self.network, positions, table, species)
        with torch.no_grad():
            if self._last is None or self._last[0] is not species:  # the keeper of tables gives the same
                self._last = (species, uncertainty.on_atoms(species))
            return energies, forces, virial, uncertainty.errors(features, self._last[1])


class _Results(dict[str, Any]):
    """ASE's properties, and by their names, but not listed, those that ASE does not know.

    ASE refuses results with names of others where it keeps them (``SinglePointCalculator(atoms, **results)``)
    or hands them on (``Atoms.get_properties``).
    """

    def __init__(self, **properties: Any) -> None:
        super().__init__(properties)
        self.unlisted: dict[str, Any] = {}

    def __missing__(self, name: str) -> Any:
        return self.unlisted[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.unlisted

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, self.unlisted.get(name, default))


def _check_finite(energies: torch.Tensor, forces: torch.Tensor) -> None:
    if not (torch.isfinite(energies).all() and torch.isfinite(forces).all()):
        raise NotFiniteError(
            "the student's energy or forces are not finite: atoms overlap, or the simulation ran away"
        )


def _portions(structures: Sequence[Structure], rows: int) -> Iterator[list[Structure]]:
    """Structures in their order, as many at a time as have at most so many atoms together, or one."""
    few: list[Structure] = []
    atoms = 0
    for structure in structures:
        if few and atoms + len(structure) > rows:
            yield few
            few, atoms = [], 0
        few.append(structure)
        atoms += len(structure)
    if few:
        yield few


def choose_device(device: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that exists here.

    Raises
    ------
    CompactFFError
        If it is none of these, or torch finds no such GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise CompactFFError(f"unknown device {device!r}; allowed are auto, cpu, cuda and cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise CompactFFError(
            f"device {device!r}: torch finds {torch.cuda.device_count()} GPUs; use cpu or auto"
        )
    return chosen


class _TableKeeper:
    """The neighbour table of the last structure, as long as it holds for the next."""

    def __init__(self, cutoff_A: float, skin_A: float, device: torch.device) -> None:
        self.reach_A = cutoff_A + skin_A
        self.half_skin_A = 0.5 * skin_A
        self.device = device
        self.builds = 0
        self._of: Structure | None = None

    def of(self, structure: Structure, network: StudentNetwork) -> tuple[NeighbourTable, torch.Tensor]:
        """Table and species of a structure, new where the old ones no longer hold."""
        if not self._holds_for(structure):
            species = network.species_of(torch.from_numpy(structure.numbers).to(self.device))
            table = neighbour_table(structure, self.reach_A)
            table = NeighbourTable(table.neighbours.to(self.device), table.offsets_A.to(self.device))
            # Together, after all that may fail; a copy, as the caller's arrays change in place.
            self._table, self._species, self._of = table, species, copy.deepcopy(structure)
            self.builds += 1
        return self._table, self._species

    def _holds_for(self, structure: Structure) -> bool:
        old = self._of
        if old is None or self.half_skin_A == 0.0 or len(old) != len(structure):
            return False
        if not (
            np.array_equal(old.numbers, structure.numbers)
            and np.array_equal(old.pbc, structure.pbc)
            and np.array_equal(old.cell_A, structure.cell_A)
        ):
            return False
        moved_A = np.linalg.norm(structure.positions_A - old.positions_A, axis=1).max()
        return bool(moved_A < self.half_skin_A)
