import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.data import covalent_radii
from pydantic import ValidationError

from compactff_md.errors import CompactFFError
from compactff_md.training.makers import bonds, make_structures, turnable
from compactff_md.training.sampling import separation_A
from compactff_md.training.steps import (
    ClustersStep,
    ConformersStep,
    ContactsStep,
    DimersStep,
    LiquidStep,
    StrainStep,
    SubstitutionStep,
    TorsionsStep,
    VolumesStep,
)


def made(step, *sources):
    return make_structures(step, "it", list(sources), 0.5, (0, 1))


def salt():
    return bulk("NaCl", "rocksalt", a=5.64, cubic=True)


def test_the_same_seed_makes_the_same():
    step = StrainStep(kind="strain", count=4)
    assert made(step, salt()) == made(step, salt())
    other = make_structures(step, "it", [salt()], 0.5, (0, 2))
    assert made(step, salt()) != other


def test_volumes_are_spread_evenly_and_strain_is_bounded():
    start = salt()
    volumes = [a.get_volume() / start.get_volume() for a in made(VolumesStep(kind="volumes", count=3), start)]
    assert volumes == pytest.approx([0.85, 1.0, 1.15])
    for atoms in made(StrainStep(kind="strain", count=5, max_strain=0.04), start):
        deform = np.linalg.solve(start.cell.array, atoms.cell.array) - np.eye(3)
        assert 0 < np.abs(deform).max() <= 0.04
        assert np.allclose(atoms.get_scaled_positions(), start.get_scaled_positions())
    with pytest.raises(
        CompactFFError, match="step 'it' can make nothing of the 1 structures: expected periodic"
    ):
        made(StrainStep(kind="strain"), molecule("H2O"))


def test_torsions_change_dihedrals_and_no_bond():
    butane = molecule("trans-butane")
    before = butane.get_all_distances()
    pairs = bonds(butane)
    assert len(pairs) == 13
    inner = {tuple(sorted((i, j))) for i, j, _ in turnable(butane)}
    assert len(inner) == 3
    for atoms in made(TorsionsStep(kind="torsions", count=4, bonds=1), butane):
        after = atoms.get_all_distances()
        assert after[tuple(pairs.T)] == pytest.approx(before[tuple(pairs.T)])
        assert np.abs(after - before).max() > 0.01
    assert turnable(molecule("C6H6")) == []


def test_a_source_that_cannot_be_used_is_passed_over():
    step = TorsionsStep(kind="torsions", count=3)
    made_of_both = made(step, molecule("C6H6"), molecule("trans-butane"), molecule("H2O"))
    assert [str(atoms.symbols) for atoms in made_of_both] == ["C4H10"] * 3


def test_fewer_structures_than_sources_come_from_all_of_them():
    sources = [bulk("NaCl", "rocksalt", a=5.0 + 0.01 * k, cubic=True) for k in range(20)]
    step = StrainStep(kind="strain", count=5, max_strain=1e-6)
    picked = [atoms.cell.array[0, 0] for atoms in made(step, *sources)]
    assert max(picked) > 5.1


def test_contacts_bring_two_neighbours_closer_also_across_the_boundary():
    for start in (molecule("CH3OH"), salt()):
        for atoms in made(ContactsStep(kind="contacts", count=6), start):
            assert separation_A(atoms) < separation_A(start) + 1e-9 or not np.allclose(
                atoms.positions, start.positions
            )
            assert (np.abs(atoms.positions - start.positions).max(1) > 1e-6).sum() == 2


def test_dimers_of_every_pair_of_elements_at_evenly_spread_distances():
    step = DimersStep(kind="dimers", elements=("H", "C", "O"), count=60, closeness=(0.8, 1.2))
    found: dict[str, list[float]] = {}
    for atoms in made(step):
        one, other = atoms.numbers
        share = atoms.get_distance(0, 1) / (covalent_radii[one] + covalent_radii[other])
        found.setdefault(atoms.get_chemical_formula(), []).append((share - 0.8) / 0.4)
    assert {*found} == {"H2", "CH", "HO", "C2", "CO", "O2"}
    for shares in found.values():
        assert [int(10 * share) for share in shares] == list(range(10))
    own = made(DimersStep(kind="dimers", count=6), molecule("H2O"), molecule("CH4"))
    assert {a.get_chemical_formula() for a in own} == {*found}


def test_dimers_of_no_element():
    with pytest.raises(ValidationError, match="there is no element Xy"):
        DimersStep(kind="dimers", elements=("H", "Xy"))


def test_substitution_keeps_the_composition_where_it_exchanges_and_counts_what_it_removes():
    start = salt()
    for atoms in made(SubstitutionStep(kind="substitution", count=4, exchange=(("Na", "Cl"),)), start):
        assert sorted(atoms.get_chemical_symbols()) == sorted(start.get_chemical_symbols())
        assert atoms.get_chemical_symbols() != start.get_chemical_symbols()
    for atoms in made(SubstitutionStep(kind="substitution", count=6, remove={"Na": 2}), start):
        assert 2 <= atoms.get_chemical_symbols().count("Na") <= 4
    for atoms in made(SubstitutionStep(kind="substitution", count=3, replace={"Cl": "F"}, most=2), start):
        assert 1 <= atoms.get_chemical_symbols().count("F") <= 2
    with pytest.raises(CompactFFError, match="none of the elements"):
        made(SubstitutionStep(kind="substitution", remove={"Li": 1}), start)


def test_clusters_take_the_sizes_in_turn():
    step = ClustersStep(kind="clusters", count=4, sizes=(2, 3), water_share=1.0)
    assert [len(atoms) for atoms in made(step, molecule("CH4"))] == [8, 11, 8, 11]
    with pytest.raises(CompactFFError, match="expected free molecules"):
        made(step, salt())


def test_boxes_of_a_liquid_take_the_shares_of_water_in_turn():
    step = LiquidStep(kind="liquid", count=4, water_shares=(1.0, 0.0), kinds=1, max_atoms=40)
    wet, dry, *_ = boxes = made(step, molecule("CH4"))
    assert all(box.pbc.all() for box in boxes)
    assert wet.symbols.formula.count() == {"O": 13, "H": 26}
    assert dry.symbols.formula.count() == {"C": 8, "H": 32}
    with pytest.raises(CompactFFError, match="expected free molecules"):
        made(step, salt())


def test_conformers_of_a_list(tmp_path):
    pytest.importorskip("rdkit")
    (tmp_path / "a.smi").write_text("CCO ethanol\nO\n")
    step = ConformersStep(kind="conformers", smiles=str(tmp_path / "a.smi"), each=2)
    assert sorted({len(atoms) for atoms in made(step)}) == [3, 9]
