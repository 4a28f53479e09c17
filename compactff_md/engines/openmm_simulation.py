"""A system with its integrator on a platform: built, started, advanced and looked at."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np

from compactff_md.engines.md_settings import MDSettings
from compactff_md.engines.md_velocities import (
    at_rest,
    at_temperature,
    degrees_of_freedom,
    maxwell_boltzmann,
    temperature_of,
)
from compactff_md.engines.openmm_import import openmm, unit
from compactff_md.engines.openmm_minimise import MAX_FORCE_EV_PER_A, MAX_STEPS, minimise
from compactff_md.engines.openmm_platforms import automatic_platforms, make_context
from compactff_md.engines.openmm_sound import Watch, failing_as_unsound
from compactff_md.engines.openmm_system import OpenMMSystem
from compactff_md.errors import CompactFFError
from compactff_md.units import EV_PER_A_TO_KJ_PER_MOL_PER_NM, KJ_PER_MOL_TO_EV, NM_TO_A

# Dalton/A^3 in g/cm^3 (CODATA 2014, as in ase.units).
DALTON_PER_A3 = 1.660539040
BAR_A3_TO_KJ_PER_MOL = 6.02214076e-5  # exact
# Steps between two looks at the equilibration: in its first steps, and later.
EARLY_STEPS, EARLY_CHUNK, EQUILIBRATION_CHUNK = 100, 10, 50
# Strong, so that a few tenths of a ps are enough; at least the friction of the settings.
EQUILIBRATION_FRICTION_PER_PS = 10.0
_EVERYTHING = {
    "positions": True,
    "velocities": True,
    "energy": True,
    "parameters": True,
    "integratorParameters": True,
}


class Simulation:
    """One context of OpenMM.

    Parameters
    ----------
    prepared
        The system; barostat and remover of drift are added to it.
    settings
        Of the run.
    start_step
        The step that this part begins at: thermostat and barostat draw other numbers than before.

    Attributes
    ----------
    platform
        Name of the platform that was chosen.
    dof
        Degrees of freedom that the temperature counts.

    Raises
    ------
    CompactFFError
        For an unknown platform or one that does not work here, npt without a box, an anisotropic
        barostat in a slanted box, particles without mass, constraints.
    """

    def __init__(self, prepared: OpenMMSystem, settings: MDSettings, start_step: int = 0) -> None:
        self.settings = settings
        self.prepared = prepared
        self.system = prepared.system
        self.periodic = bool(prepared.structure.pbc.all())
        self._start_step = start_step
        count = range(self.system.getNumParticles())
        self.masses_Da = np.array([self.system.getParticleMass(k).value_in_unit(unit.dalton) for k in count])
        free_rotation = settings.ensemble == "nve" and not self.periodic
        moving = degrees_of_freedom(prepared.positions_nm, stop_rotation=free_rotation)
        self.dof = moving or 3  # a single atom with a thermostat keeps its own motion
        self._check_free()
        self._watch = self._new_watch()
        self._add_helpers()
        self.context, self.platform = self._make_context(self._integrator)
        self.set_coordinates(prepared.positions_nm)

    @property
    def step(self) -> int:
        """Steps done since the run's beginning."""
        return self.context.getStepCount()

    def advance(self, steps: int) -> None:
        """Do some steps.

        Raises
        ------
        Unsound
            If OpenMM or the student fails, which they do on coordinates that make no sense.
        """
        with failing_as_unsound():
            self.context.getIntegrator().step(steps)

    def state(self) -> Any:
        """Everything that a restart and a row of the log need; costs an evaluation of the student.

        Raises
        ------
        Unsound
            As in :meth:`advance`.
        """
        with failing_as_unsound():
            return self.context.getState(**_EVERYTHING)

    def row(self, state: Any) -> dict[str, float]:
        """A row of the log: energies in eV, temperature in K, volume in A^3, density in g/cm^3.

        Raises
        ------
        Unsound
            If an energy is not finite, or temperature or potential energy have run away.
        """
        potential = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        row = {
            "step": state.getStepCount(),
            "time_ps": state.getStepCount() * self.settings.timestep_ps,
            "potential_eV": potential * KJ_PER_MOL_TO_EV,
            "kinetic_eV": kinetic * KJ_PER_MOL_TO_EV,
            "total_eV": (potential + kinetic) * KJ_PER_MOL_TO_EV,
            "temperature_K": temperature_of(kinetic, self.dof),
        }
        self._watch.check(potential, kinetic)
        if self.periodic:
            volume = state.getPeriodicBoxVolume().value_in_unit(unit.angstrom**3)
            row |= {"volume_A3": volume, "density_g_per_cm3": self.masses_Da.sum() / volume * DALTON_PER_A3}
        return row

    def positions_A(self) -> np.ndarray:
        """Positions as they are, not wrapped, shape (N, 3)."""
        state = self.context.getState(positions=True)
        return state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)

    def box_A(self) -> np.ndarray | None:
        """Box vectors, shape (3, 3); None for free atoms."""
        if not self.periodic:
            return None
        return self.context.getState().getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)

    def set_coordinates(
        self, positions_nm: np.ndarray, velocities_nm_per_ps: np.ndarray | None = None
    ) -> None:
        """Place the atoms; velocities are those at the same time as the positions."""
        self.context.setPositions(positions_nm)
        if velocities_nm_per_ps is None:
            return
        if self.settings.ensemble == "nve":  # leapfrog keeps velocities half a step earlier
            forces = self.context.getState(forces=True).getForces(asNumpy=True)._value
            kick = 0.5 * self.settings.timestep_ps / self.masses_Da[:, None]
            velocities_nm_per_ps = velocities_nm_per_ps - kick * forces
        self.context.setVelocities(velocities_nm_per_ps)

    def begin(self, stop: Callable[[], bool]) -> None:
        """Minimise and equilibrate where the settings say so, and give the atoms their velocities.

        Parameters
        ----------
        stop
            Asked now and then during equilibration; True ends it early.

        Raises
        ------
        Unsound
            As in :meth:`advance`, or where temperature or potential energy run away.
        """
        with failing_as_unsound():
            self._begin(stop)

    def _begin(self, stop: Callable[[], bool]) -> None:
        if self.settings.minimise and not minimise(self.context, stop) and not stop():
            self._warn_of_forces()
        positions_nm = self.positions_A() / NM_TO_A
        rotation = not self.periodic
        seed, temperature_K = self._seed("velocities"), self.settings.temperature_K
        velocities = maxwell_boltzmann(
            self.masses_Da, positions_nm, temperature_K, seed, stop_rotation=rotation
        )
        if self.settings.equilibration_ps > 0.0:
            positions_nm, velocities, excess = self._equilibrated(positions_nm, velocities, stop)
            velocities = at_rest(velocities, self.masses_Da, positions_nm, stop_rotation=rotation)
            if self.settings.ensemble == "nve":
                start_K = _start_temperature_K(temperature_K, excess, self.dof)
                velocities = at_temperature(velocities, self.masses_Da, start_K, self.dof)
        self.set_coordinates(positions_nm, velocities)
        self.context.setStepCount(0)
        self.context.setTime(0.0)

    def _warn_of_forces(self) -> None:
        """Tell that the minimisation did not end; forces that are not finite stop the run anyway."""
        forces = self.context.getState(forces=True).getForces(asNumpy=True)._value
        largest = float(np.linalg.norm(forces, axis=1).max()) / EV_PER_A_TO_KJ_PER_MOL_PER_NM
        if np.isfinite(largest):
            warnings.warn(
                f"the minimisation ended after {MAX_STEPS} steps with a force of {largest:.2g} eV/A, above "
                f"{MAX_FORCE_EV_PER_A} eV/A; the run goes on from there",
                stacklevel=2,
            )

    def _new_watch(self, slack: float = 1.0) -> Watch:
        work = 0.0
        if self.settings.ensemble == "npt" and self.periodic:
            volume_A3 = abs(float(np.linalg.det(self.prepared.structure.cell_A)))
            work = BAR_A3_TO_KJ_PER_MOL * abs(self.settings.pressure_bar or 0.0) * volume_A3
        return Watch(self.settings.temperature_K, self.dof, len(self.masses_Da), work, slack)

    def _equilibrated(
        self, positions_nm: np.ndarray, velocities: np.ndarray, stop: Callable[[], bool]
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Positions, velocities and excess after some time with the thermostat; the box goes to the context.

        The excess is the potential energy at the end beyond its mean over the second half, in kJ/mol.
        """
        context, _ = self._make_context(self._equilibrator, self.platform)
        context.setPositions(positions_nm)
        context.setVelocities(velocities)
        steps = max(1, round(self.settings.equilibration_ps / self.settings.timestep_ps))
        watch, done = self._new_watch(slack=1.5), 0  # all 3N degrees of freedom move here
        watch.check(context.getState(energy=True).getPotentialEnergy()._value, 0.0)
        settled: list[float] = []
        while done < steps and not stop():
            chunk = EARLY_CHUNK if done < EARLY_STEPS else EQUILIBRATION_CHUNK
            context.getIntegrator().step(min(steps - done, chunk))
            done += chunk
            now = context.getState(energy=True)
            potential = now.getPotentialEnergy()._value
            watch.check(potential, now.getKineticEnergy()._value, " during equilibration")
            if done > steps // 2:
                settled.append(potential)
        state = context.getState(positions=True, velocities=True)
        if self.periodic:
            self.context.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
        excess = settled[-1] - float(np.mean(settled)) if settled else 0.0
        return state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value, excess

    def _check_free(self) -> None:
        """Refuse what velocities and the temperature do not reckon with."""
        massless = np.flatnonzero(self.masses_Da <= 0.0)
        advice = "run such a system by openmm.app.Simulation"
        if len(massless):
            raise CompactFFError(
                f"particles {massless[:10].tolist()} have no mass; expected atoms that all move: {advice}"
            )
        if held := self.system.getNumConstraints():
            raise CompactFFError(f"the system has {held} constraints; expected none: {advice}")

    def _add_helpers(self) -> None:
        if self.settings.ensemble == "nve":
            return
        if len(self.masses_Da) > 1:
            self.system.addForce(openmm.CMMotionRemover())
        if self.settings.ensemble == "npt":
            self.system.addForce(self._barostat())

    def _barostat(self) -> Any:
        if not self.periodic:
            raise CompactFFError("npt needs a periodic box, and this structure has none")
        pressure = 1.0 if self.settings.pressure_bar is None else self.settings.pressure_bar
        temperature, interval = self.settings.temperature_K, self.settings.barostat_interval
        kind = self.settings.cell_changes
        if kind == "anisotropic":
            cell = self.prepared.structure.cell_A
            if np.abs(cell - np.diag(np.diag(cell))).max() > 1e-6:
                raise CompactFFError(
                    "an anisotropic barostat needs an upright box; use isotropic or flexible"
                )
            vector = openmm.Vec3(pressure, pressure, pressure)
            barostat = openmm.MonteCarloAnisotropicBarostat(vector, temperature, True, True, True, interval)
        elif kind == "flexible":
            barostat = openmm.MonteCarloFlexibleBarostat(pressure, temperature, interval)
        else:
            barostat = openmm.MonteCarloBarostat(pressure, temperature, interval)
        barostat.setRandomNumberSeed(self._seed("barostat"))
        return barostat

    def _integrator(self) -> Any:
        if self.settings.ensemble == "nve":
            return openmm.VerletIntegrator(self.settings.timestep_ps)
        return self._thermostat("thermostat", self.settings.friction_per_ps)

    def _equilibrator(self) -> Any:
        friction = max(EQUILIBRATION_FRICTION_PER_PS, self.settings.friction_per_ps)
        return self._thermostat("equilibration", friction)

    def _thermostat(self, stream: str, friction_per_ps: float) -> Any:
        temperature, step = self.settings.temperature_K, self.settings.timestep_ps
        integrator = openmm.LangevinMiddleIntegrator(temperature, friction_per_ps, step)
        integrator.setRandomNumberSeed(self._seed(stream))
        return integrator

    def _seed(self, stream: str) -> int:
        """A seed for one purpose and one part of the run; never 0, which is random to OpenMM."""
        streams = ("velocities", "thermostat", "barostat", "equilibration")
        sequence = np.random.SeedSequence([self.settings.seed, self._start_step, streams.index(stream)])
        return int(sequence.generate_state(1)[0] % (2**31 - 2)) + 1

    def _make_context(self, integrator: Callable[[], Any], platform: str | None = None) -> tuple[Any, str]:
        wanted = platform or self.settings.platform
        names = [wanted] if wanted else automatic_platforms()
        for name, other in zip_longest(names, names[1:]):
            try:
                return make_context(self.system, integrator(), name), name
            except openmm.OpenMMException as error:
                reason = str(error).strip().partition("\n")[0]  # PyTorch adds its stack
                failed = f"{name} does not work here ({reason}; compactff doctor says more)"
            if other:
                warnings.warn(f"{failed}: running on {other}", stacklevel=2)
        raise CompactFFError(f"platform {failed}")


def _start_temperature_K(wanted_K: float, excess: float, dof: int) -> float:
    """Temperature of the velocities with which a run of constant energy has the wanted one on average.

    What the potential energy has beyond its mean (kJ/mol) is taken off the kinetic energy, of which at least
    a quarter is left.
    """
    return max(0.25 * wanted_K, wanted_K - temperature_of(excess, dof))
