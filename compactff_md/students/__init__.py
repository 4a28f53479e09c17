"""Students: compact networks from edges to energies of atoms."""

from compactff_md.students.base import DTYPES, StudentNetwork, cast, in_dtype
from compactff_md.students.presets import (
    ARCHITECTURES,
    BUDGETS,
    SIZES,
    VARIANTS,
    create,
    rebuild,
    variants_of,
)

__all__ = [
    "ARCHITECTURES",
    "BUDGETS",
    "DTYPES",
    "SIZES",
    "VARIANTS",
    "StudentNetwork",
    "cast",
    "create",
    "in_dtype",
    "rebuild",
    "variants_of",
]
