import ase.io
import pytest

pytest.importorskip("rdkit")

from compactff_md.errors import CompactFFError
from compactff_md.training.chemistry import (
    canonical,
    count_atoms,
    environments,
    parse,
    split_key,
    why_not,
)
from compactff_md.training.molecules import (
    FRAGMENTS,
    Fragments,
    apart_from,
    build_molecules,
    main,
    mutate_molecules,
    read_fragments,
    read_smiles,
    split_molecules,
    write_structures,
)

FEW = Fragments(
    rings=("c1ccccc1", "C1CCOC1", "c1ccsc1", "C1CCPC1"),
    chains=("C", "CC", "COC", "C=C"),
    linkers=("*C*", "*C(=O)N*", "*S(=O)(=O)*"),
    groups=("*C", "*O", "*F", "*Cl", "*P(C)C"),
    molecules=("O", "C#N"),
)


@pytest.fixture(scope="module")
def built() -> list[str]:
    return build_molecules(150, seed=3, max_atoms=24, fragments=FEW)


def test_molecules_are_distinct_neutral_closed_shells(built):
    assert len(set(built)) == len(built) == 150
    for smiles in built:
        assert canonical(parse(smiles)) == smiles
        assert why_not(parse(smiles), 24) == ""
    assert {"O", "C#N", "c1ccccc1"} <= set(built)
    for element in ("P", "S", "Cl", "F", "N"):
        assert any(element in {a.GetSymbol() for a in parse(s).GetAtoms()} for s in built), element


def test_the_same_seed_gives_the_same_list(built):
    assert build_molecules(150, seed=3, max_atoms=24, fragments=FEW) == built
    assert build_molecules(150, seed=4, max_atoms=24, fragments=FEW) != built


def test_no_scaffold_is_on_both_sides(built):
    train, test = split_molecules(built, 15, seed=0)
    assert sorted(train + test) == built and 15 <= len(test) <= 18
    assert {split_key(parse(s)) for s in train}.isdisjoint(split_key(parse(s)) for s in test)
    assert split_molecules(built[::-1], 15, seed=0) == (train, test)


def test_what_the_fragments_cannot_give_is_told(built):
    few = FEW.model_copy(update={"rings": ("c1ccccc1",), "groups": ("*F",), "linkers": ("*O*",)})
    with pytest.raises(CompactFFError, match=r"gave \d+ molecules of at most 4 atoms, 50 were asked for"):
        build_molecules(50, 0, max_atoms=4, fragments=few)
    with pytest.raises(CompactFFError, match="1000 were asked for"):
        split_molecules(built, 1000, seed=0)


@pytest.mark.parametrize("path", [FRAGMENTS, FRAGMENTS.with_name("nitrogen.yaml")])
def test_the_fragments_of_the_package_are_sound(path):
    known = read_fragments(path)
    for smiles in (*known.rings, *known.chains, *known.molecules):
        assert why_not(parse(smiles), 40) == "", smiles
    assert all(smiles.count("*") == 2 for smiles in known.linkers)
    assert all(smiles.count("*") == 1 for smiles in known.groups)
    for smiles in (*known.linkers, *known.groups):
        parse(smiles)


def test_lists_are_made_of_given_fragments(tmp_path):
    fragments = FRAGMENTS.with_name("nitrogen.yaml")
    main(["--out", str(tmp_path), "--count", "200", "--test", "1", "--fragments", str(fragments)])
    made = read_smiles(tmp_path / "train.smi")
    assert sum("NN" in smiles or "N=N" in smiles or "nn" in smiles for smiles in made) > 0.3 * len(made)


def test_a_list_of_fragments_that_is_none_is_told(tmp_path):
    with pytest.raises(CompactFFError, match="no such recipe"):
        read_fragments(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("rings: [C1CC1]\nchains: [C]\nlinkers: ['*C*']\n")
    with pytest.raises(CompactFFError, match="the field 'groups' is missing"):
        read_fragments(tmp_path / "bad.yaml")


def test_lists_are_written_and_read(tmp_path):
    main(["--out", str(tmp_path), "--count", "300", "--test", "12", "--max-atoms", "28"])
    train, test = (read_smiles(tmp_path / f"{name}.smi") for name in ("train", "test"))
    assert len(train) + len(test) == 300 and len(test) >= 12
    with pytest.raises(CompactFFError, match="no such file of SMILES"):
        read_smiles(tmp_path / "no.smi")
    assert not (tmp_path / "test.xyz").exists()
    (tmp_path / "empty.smi").write_text("# nothing\n\n")
    with pytest.raises(CompactFFError, match="holds no SMILES"):
        read_smiles(tmp_path / "empty.smi")


def test_structures_of_the_test(tmp_path, built):
    write_structures(tmp_path / "test.xyz", built, 4, seed=0)
    found = ase.io.read(tmp_path / "test.xyz", ":")
    assert len({atoms.info["smiles"] for atoms in found}) == 4
    for atoms in found:
        assert len(atoms) == count_atoms(parse(atoms.info["smiles"]))
    with pytest.raises(CompactFFError, match="151 structures were asked for"):
        write_structures(tmp_path / "more.xyz", built, 151, seed=0)
    assert not (tmp_path / "more.xyz").exists()


def test_more_molecules_share_no_scaffold_with_a_test(tmp_path, built):
    _, test = split_molecules(built, 15, seed=0)
    more = apart_from(built, test)
    keys = {split_key(parse(s)) for s in test}
    assert more and keys.isdisjoint(split_key(parse(s)) for s in more) and len(more) <= len(built) - 15


def test_mutants_are_new_molecules_with_bonds_that_are_known(built):
    found = mutate_molecules(built, 120, seed=5, max_atoms=24)
    assert len(set(found)) == 120 and found == sorted(found) and not set(found) & set(built)
    known = set().union(*(environments(parse(smiles)) for smiles in built))
    rings = {split_key(parse(smiles)) for smiles in built}
    for smiles in found:
        assert canonical(parse(smiles)) == smiles and why_not(parse(smiles), 24) == ""
        assert environments(parse(smiles)) <= known, smiles
    assert sum(split_key(parse(smiles)) not in rings for smiles in found) > 20
    assert mutate_molecules(built, 120, seed=5, max_atoms=24) == found
    assert mutate_molecules(built, 120, seed=6, max_atoms=24) != found


def test_mutants_that_cannot_be_are_told():
    with pytest.raises(CompactFFError, match=r"1 molecules gave \d+ mutants of at most 28 atoms, 50 were"):
        mutate_molecules(["CC"], 50, seed=0)


def test_a_list_of_mutants(tmp_path, built):
    (tmp_path / "parents.smi").write_text("\n".join(built))
    (tmp_path / "test.smi").write_text("c1ccccc1\n")
    words = ["--mutants-of", tmp_path / "parents.smi", "--apart-from", tmp_path / "test.smi"]
    main([*map(str, words), "--out", str(tmp_path / "out"), "--count", "80", "--test", "4"])
    train = read_smiles(tmp_path / "out" / "train.smi")
    assert 30 < len(train) < 80 and split_key(parse("c1ccccc1")) not in {split_key(parse(s)) for s in train}
    with pytest.raises(CompactFFError, match="no such file of SMILES"):
        main(["--mutants-of", str(tmp_path / "no.smi"), "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
