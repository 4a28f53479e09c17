"""Relaxing the atoms of a context by ASE's L-BFGS.

OpenMM's own minimiser searches along a line for ever where an energy is not a number, and cannot be
interrupted; this one looks at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixBondLengths, FixConstraint
from ase.optimize import LBFGS

from compactff_md.engines.openmm_import import unit
from compactff_md.units import EV_PER_A_TO_KJ_PER_MOL_PER_NM, KJ_PER_MOL_TO_EV, NM_TO_A

MAX_FORCE_EV_PER_A = 0.05
MAX_STEPS = 500
MAX_MOVE_A = 0.1
# Relative, of bond lengths; of forces in eV/A. ASE's own is beyond the reach of coupled bonds.
CONSTRAINT_TOLERANCE = 1e-8


def minimise(context: Any, stop: Callable[[], bool] = lambda: False) -> bool:
    """Move the atoms of an ``openmm.Context`` to a nearby minimum of the energy; the box stays.

    Particles without mass stay, too, but for virtual sites, which go with their atoms; constraints hold. With
    thousands of them, as in rigid water, every step takes seconds.

    Parameters
    ----------
    context
        With positions; they are replaced.
    stop
        Asked after every step; True ends it early.

    Returns
    -------
    bool
        True where no force that moves an atom is above 0.05 eV/A at the end; False after 500 steps, or where
        energy or forces are not finite.
    """
    positions = context.getState(positions=True).getPositions(asNumpy=True)
    atoms = ase.Atoms(positions=positions.value_in_unit(unit.angstrom))
    atoms.calc = _ContextCalculator(context)
    atoms.set_constraint(_constraints(context.getSystem()))
    # Without masses and elements: only positions and forces matter here.
    optimiser = LBFGS(atoms, logfile=None, maxstep=MAX_MOVE_A)  # type: ignore[arg-type]  # None is silence
    for converged in optimiser.irun(fmax=MAX_FORCE_EV_PER_A, steps=MAX_STEPS):
        if not np.isfinite(atoms.get_forces()).all():
            return False
        if converged or stop():
            break
    return bool(np.linalg.norm(atoms.get_forces(), axis=1).max() <= MAX_FORCE_EV_PER_A)


def _constraints(system: Any) -> list[FixConstraint]:
    """What holds particles of a system, for ASE; empty where nothing does."""
    particles = range(system.getNumParticles())
    fixed = [k for k in particles if system.getParticleMass(k).value_in_unit(unit.dalton) == 0.0]
    found: list[FixConstraint] = [FixAtoms(fixed)] if fixed else []
    bonds = [system.getConstraintParameters(k) for k in range(system.getNumConstraints())]
    if bonds:
        pairs = [(i, j) for i, j, _ in bonds]
        lengths_A = [length.value_in_unit(unit.angstrom) for _, _, length in bonds]
        found.append(FixBondLengths(pairs, tolerance=CONSTRAINT_TOLERANCE, bondlengths=lengths_A))
    return found


class _ContextCalculator(Calculator):
    """Energy and forces of a context in ASE's units."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]  # type: ignore[misc]

    def __init__(self, context: Any) -> None:
        super().__init__()
        self.context = context

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        self.context.setPositions(atoms.positions / NM_TO_A)
        self.context.computeVirtualSites()
        state = self.context.getState(energy=True, forces=True)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        self.results = {
            "energy": energy * KJ_PER_MOL_TO_EV,
            "forces": forces / EV_PER_A_TO_KJ_PER_MOL_PER_NM,
        }
