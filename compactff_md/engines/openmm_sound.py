"""Whether a simulation still makes sense: what its energies may be, and what its engine's failures mean."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

from compactff_md.engines.md_velocities import runaway_rise_eV, runaway_temperature_K, temperature_of
from compactff_md.units import KJ_PER_MOL_TO_EV

ADVICE = "try a smaller timestep, minimise first, or train the student on structures like these"
MEMORY_ADVICE = "the memory does not suffice: take fewer atoms, a smaller skin, or another platform or device"
# Of the messages of OpenMM, PyTorch and the exported student.
_NUMBERS = re.compile(r"\bnan\b|infinite|not finite|flown apart|cell is (singular|thinner)", re.IGNORECASE)
_MEMORY = re.compile(r"out.of.memory|allocate|bad_alloc", re.IGNORECASE)


class Unsound(Exception):  # noqa: N818  (caught inside the package; what leaves it is MDStopped)
    """A simulation cannot go on: its numbers make no sense any more, or the engine failed.

    Attributes
    ----------
    advice
        What may help; empty where nothing is known.
    """

    def __init__(self, message: str, advice: str = ADVICE) -> None:
        super().__init__(message)
        self.advice = advice


class Watch:
    """Looks at the energies of a simulation, all in kJ/mol.

    A thermostat cools within a few hundred steps what has flown apart, but its potential energy stays up:
    it is that of free atoms, some eV an atom above a molecule's. The limit is 0.39 eV an atom at 300 K;
    a structure that relaxes goes down. Work of a barostat is added.

    Parameters
    ----------
    temperature_K
        That the run asks for.
    dof, num_atoms
        Degrees of freedom of the temperature, and atoms.
    work
        That a barostat can do; 0 for none.
    slack
        What both limits are multiplied by.
    """

    def __init__(
        self, temperature_K: float, dof: int, num_atoms: int, work: float = 0.0, slack: float = 1.0
    ) -> None:
        self.temperature_K, self.dof = temperature_K, dof
        self.hottest_K = slack * runaway_temperature_K(temperature_K, dof)
        rise_eV = slack * num_atoms * runaway_rise_eV(temperature_K, dof)
        self.highest_rise = rise_eV / KJ_PER_MOL_TO_EV + work
        self._first: float | None = None

    def check(self, potential: float, kinetic: float, when: str = "") -> None:
        """Compare with the limits; the first potential energy is what later ones are measured from.

        Raises
        ------
        Unsound
            If an energy is not finite, or temperature or potential energy have run away.
        """
        for name, energy in (("potential", potential), ("kinetic", kinetic)):
            if not math.isfinite(energy):
                raise Unsound(
                    f"{name} energy is {energy * KJ_PER_MOL_TO_EV}{when}: energy or forces are not finite"
                )
        now_K = temperature_of(kinetic, self.dof)
        if now_K > self.hottest_K:
            raise Unsound(
                f"temperature is {now_K:.0f} K{when}, above the limit of {self.hottest_K:.0f} K for a run at "
                f"{self.temperature_K:.0f} K"
            )
        self._first = potential if self._first is None else self._first
        if potential - self._first > self.highest_rise:
            raise Unsound(
                f"potential energy has risen by {(potential - self._first) * KJ_PER_MOL_TO_EV:.1f} eV{when}, "
                f"above the limit of {self.highest_rise * KJ_PER_MOL_TO_EV:.1f} eV for a run at "
                f"{self.temperature_K:.0f} K: the atoms have flown apart, or collided"
            )


@contextmanager
def failing_as_unsound() -> Iterator[None]:
    """Turn what OpenMM raises, and through it whatever PyTorch does, into :class:`Unsound`."""
    try:
        yield
    except Unsound:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        advice = ADVICE if _NUMBERS.search(lines[-1]) else ""
        if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
            advice = MEMORY_ADVICE
        raise Unsound(f"the engine failed: {lines[-1]}", advice) from error
