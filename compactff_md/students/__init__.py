"""Students: compact networks from edges to energies of atoms."""

from compactff_md.students.base import StudentNetwork
from compactff_md.students.presets import ARCHITECTURES, BUDGETS, SIZES, VARIANTS, create, rebuild

__all__ = ["ARCHITECTURES", "BUDGETS", "SIZES", "VARIANTS", "StudentNetwork", "create", "rebuild"]
