from collections import Counter

import numpy as np
import pytest
from ase.data import covalent_radii

pytest.importorskip("rdkit")

from compactff_md.errors import CompactFFError
from compactff_md.training import chemistry
from compactff_md.training.chemistry import (
    attach,
    canonical,
    close_star,
    conformers,
    count_atoms,
    parse,
    split_key,
    why_not,
)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("CCO", ""),
        ("C[N+](=O)[O-]", ""),
        ("CC(=O)[O-]", "charged"),
        ("C[CH2]", "radical"),
        ("[Na+].[Cl-]", "Na"),
        ("C.C", "more than one"),
        ("CCCCCCCC", "it has 26 atoms; allowed are 20"),
    ],
)
def test_only_neutral_closed_shells_pass(smiles, reason):
    found = why_not(parse(smiles), 20)
    assert reason in found if reason else found == ""


def test_what_is_no_smiles_is_told():
    with pytest.raises(CompactFFError, match=r"'C\(C' is not a SMILES"):
        parse("C(C")


def test_without_rdkit_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(chemistry, "Chem", None)
    with pytest.raises(CompactFFError, match=r'pip install "compactff-md\[distill\]"'):
        conformers("C", 1, 0)


def test_a_group_replaces_one_hydrogen():
    rng = np.random.default_rng(0)
    assert canonical(attach(parse("c1ccccc1"), parse("*Cl"), rng)) == canonical(parse("Clc1ccccc1"))
    assert count_atoms(attach(parse("C1CCNCC1"), parse("*C(C)=O"), rng)) == 17 + 6 - 1
    assert attach(parse("FC(F)(F)F"), parse("*C"), rng) is None


def test_nitrogen_takes_no_halogen_and_a_pyrrole_gives_its_hydrogen():
    rng = np.random.default_rng(0)
    assert attach(parse("N"), parse("*F"), rng) is None
    assert canonical(attach(parse("N"), parse("*C"), rng)) == "CN"
    made = {canonical(attach(parse("c1cc[nH]c1"), parse("*C"), rng)) for _ in range(30)}
    assert canonical(parse("Cn1cccc1")) in made


def test_a_linker_joins_two():
    rng = np.random.default_rng(0)
    half = attach(parse("C"), parse("*S(=O)(=O)*"), rng)
    assert canonical(close_star(half, parse("C"), rng)) == canonical(parse("CS(=O)(=O)C"))


def test_the_split_goes_by_scaffold_and_by_skeleton_without_rings():
    assert split_key(parse("Cc1ccccc1O")) == split_key(parse("OC(=O)c1ccccc1")) == "c1ccccc1"
    assert split_key(parse("CCO")) == split_key(parse("C=C=N")) != split_key(parse("CCOC"))
    assert split_key(parse("C")) == split_key(parse("O=C")) == "acyclic:small"
    assert split_key(parse("FS(F)(F)(F)(F)F")).startswith("acyclic:")


@pytest.mark.parametrize("smiles", ["CCO", "O=S(=O)(O)O", "CS(=O)(=O)Cl", "[H][H]", "COP(=S)(OC)SC"])
def test_conformers_have_their_atoms_at_bond_lengths(smiles):
    found = conformers(smiles, 2, seed=1)
    assert found
    expected = Counter(a.GetSymbol() for a in parse(smiles).GetAtoms())
    for atoms in found:
        assert len(atoms) == count_atoms(parse(smiles))
        assert all(atoms.get_chemical_symbols().count(s) >= n for s, n in expected.items())
        nearest = atoms.get_all_distances() + 10 * np.eye(len(atoms))
        partner = nearest.argmin(1)
        bonds = covalent_radii[atoms.numbers] + covalent_radii[atoms.numbers[partner]]
        assert np.all(np.abs(nearest.min(1) - bonds) < 0.3)
    again = conformers(smiles, 2, seed=1)
    assert np.allclose(found[0].positions, again[0].positions)


def test_what_the_force_field_pulls_apart_is_left_out():
    for atoms in conformers("ClP(Cl)(Cl)(Cl)Cl", 2, seed=1):
        assert atoms.get_all_distances()[np.triu_indices(6, 1)].min() > 1.6
