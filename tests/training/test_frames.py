import numpy as np
from ase.build import molecule

from compactff_md.structure import Structure
from compactff_md.training.frames import Frame, LabelledSet, composition, fit_energy_shifts

ENERGIES = {"H": -13.0, "C": -1030.0, "O": -2040.0}


def frame(name: str, energy: float | None = None) -> Frame:
    atoms = molecule(name)
    total = sum(ENERGIES[s] for s in atoms.get_chemical_symbols()) if energy is None else energy
    return Frame(Structure.from_ase(atoms), total, np.zeros((len(atoms), 3)))


def test_elements_and_composition():
    data = LabelledSet((frame("CH3OH"), frame("H2O")))
    assert data.elements == ["H", "C", "O"]
    assert np.array_equal(composition(data.frames, ["O", "H", "C"]), [[1, 4, 1], [1, 2, 0]])


def test_shifts_are_exact_where_the_data_tell_elements_apart():
    frames = [frame(name) for name in ("CH3OH", "H2O", "CH4", "H2")]
    assert np.allclose(fit_energy_shifts(frames, ["H", "C", "O"]), list(ENERGIES.values()))


def test_one_molecule_shares_its_energy_evenly():
    shifts = fit_energy_shifts([frame("CH3OH", -60.0), frame("CH3OH", -66.0)], ["H", "C", "O", "N"])
    assert np.allclose(shifts, -63.0 / 6)


def test_digest_follows_structures_and_labels():
    one, same, other = (LabelledSet((frame("H2O", e),)) for e in (-14.0, -14.0, -14.1))
    assert one.digest == same.digest != other.digest
    assert one.digest != LabelledSet(one.frames, {"H": -13.6}).digest
