from dataclasses import replace

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.training.checks import check_labels
from compactff_md.training.config import CheckConfig
from compactff_md.training.frames import Frame, LabelledSet
from compactff_md.training.stress_check import check_stress, is_doubtful, stress_ratio


def frame(atoms: ase.Atoms) -> Frame:
    atoms.calc = EMT()
    labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    return Frame(Structure.from_ase(atoms), *labels)


def curve() -> tuple[Frame, ...]:
    """Eleven volumes of a cell with one atom."""
    return tuple(frame(bulk("Cu", a=a)) for a in np.linspace(3.45, 3.75, 11))


def rattled(strain: float, displacement_A: float, count: int = 30) -> tuple[Frame, ...]:
    """Strained and sheared cells of four atoms, wrapped into the cell, so that neighbours jump."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        deformed = np.eye(3) + rng.uniform(-strain, strain, (3, 3))
        atoms.set_cell(atoms.cell.array @ deformed, scale_atoms=True)
        atoms.positions += rng.normal(0, displacement_A, (4, 3))
        atoms.wrap()
        frames.append(frame(atoms))
    return tuple(frames)


def scaled(frames: tuple[Frame, ...], factor: float) -> tuple[Frame, ...]:
    return tuple(replace(f, stress_eV_per_A3=factor * f.stress_eV_per_A3) for f in frames)


def test_true_stresses_are_the_derivative_of_the_energies():
    assert stress_ratio(curve()) == pytest.approx(1, abs=0.01)
    assert stress_ratio(rattled(0.03, 0.02)) == pytest.approx(1, abs=0.1)
    assert stress_ratio(curve()[:5] + rattled(0.03, 0.02, 20)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("frames", [curve(), rattled(0.03, 0.02)], ids=["curve", "rattled"])
@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (-1.0, r"the other sign; multiply them by -1,"),
        (160.2, r"likely in GPa; divide"),
        (-160.2, r"in GPa with the other sign"),
        (1602.0, r"likely in kbar; divide"),
        (-1602.0, r"in kbar with the other sign, as VASP"),
    ],
)
def test_wrong_signs_and_units_are_refused(frames, factor, words):
    data = LabelledSet(scaled(frames, factor))
    with pytest.raises(CompactFFError, match=words):
        check_labels(data, CheckConfig())
    assert len(check_labels(data, CheckConfig(units=False))) == len(frames)
    check_labels(LabelledSet(frames), CheckConfig())


def test_nothing_is_said_where_nothing_is_clear():
    fixed, noisy = rattled(0.0, 0.1), rattled(0.002, 0.15)
    without = tuple(replace(f, stress_eV_per_A3=None) for f in curve())
    for frames in (
        (),
        curve()[:1],
        curve()[:4],
        (curve()[0],) * 30,
        without,
        scaled(curve(), 0.0),
        fixed,
        noisy,
    ):
        assert np.isnan(stress_ratio(frames))
        check_stress(scaled(frames, -1.0) if frames is not without else without)


def test_a_stress_far_worse_than_the_forces_is_doubtful():
    def errors(forces, stress):
        return {"forces": {"r2": forces}, "stress": {"r2": stress}}

    assert is_doubtful(errors(0.99, 0.7)) and is_doubtful(errors(0.95, -3.0))
    assert not is_doubtful(errors(0.99, 0.9)) and not is_doubtful(errors(0.9, 0.6))
    assert not is_doubtful(errors(0.99, None)) and not is_doubtful({"forces": {"r2": 0.99}})
