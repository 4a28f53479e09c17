"""A teacher's calculator, of which any failure is one that the suite expects."""

from __future__ import annotations

from typing import Any

import ase
from ase.calculators.calculator import BaseCalculator, Calculator

from compactff_md.errors import CompactFFError


class TeacherCalculator(Calculator):
    """Asks another calculator; whatever that raises becomes a :class:`CompactFFError` with its type and text.

    A property that it does not have stays a NotImplementedError, by which ASE finds out what there is.

    Attributes
    ----------
    failed
        Whether it ever did.
    """

    def __init__(self, calculator: BaseCalculator) -> None:
        super().__init__()
        self.calculator, self.failed = calculator, False
        self.implemented_properties = calculator.implemented_properties

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True) -> Any:
        """What every question of ASE comes down to."""
        try:
            return self.calculator.get_property(name, atoms, allow_calculation)
        except NotImplementedError:
            raise
        except Exception as error:  # whatever a third-party calculator raises
            self.failed = True
            if isinstance(error, CompactFFError):
                raise
            raise CompactFFError(f"the teacher failed ({type(error).__name__}: {error})") from error
