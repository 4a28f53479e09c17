"""Molecules from fragments, and their conformers: everything that is asked of RDKit, an optional package."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
from ase.data import covalent_radii

from compactff_md.errors import CompactFFError

try:
    from rdkit import Chem, RDLogger
    from rdkit.Chem import AllChem
    from rdkit.Chem.Scaffolds import MurckoScaffold
except ImportError:
    Chem = AllChem = MurckoScaffold = RDLogger = None
else:
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # what fails is dropped and counted here

ELEMENTS = frozenset({"H", "C", "N", "O", "F", "P", "S", "Cl"})
# Carbon takes any group; nitrogen takes one by these atoms, so that no chance bond is N-N, N-O or N-halogen.
PARTNERS_OF_NITROGEN = frozenset({"C", "P", "S"})
HEAVY_NUMBERS = (6, 7, 8, 9, 15, 16, 17)
# Of another element, another order of a bond, an atom more and one less.
MUTATION_WEIGHTS = (0.45, 0.25, 0.15, 0.15)
RELAX_STEPS = 500
EMBEDDING_TRIES = 30

Molecule = Any  # rdkit.Chem.Mol, which has no types where RDKit is missing


def check_rdkit() -> None:
    """Refuse to go on without RDKit.

    Raises
    ------
    CompactFFError
        With the command that installs it.
    """
    if Chem is None:
        raise CompactFFError(
            "molecules from SMILES need RDKit, which cannot be imported; run: "
            'pip install "compactff-md[distill]"'
        )


def parse(smiles: str) -> Molecule:
    """Molecule of a SMILES.

    Raises
    ------
    CompactFFError
        If RDKit cannot read it, or there is no RDKit.
    """
    check_rdkit()
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise CompactFFError(f"{smiles!r} is not a SMILES of a molecule with usual valences")
    return molecule


def canonical(molecule: Molecule) -> str:
    """The one SMILES of a molecule, without stereo."""
    return str(Chem.MolToSmiles(molecule, isomericSmiles=False))


def formal_charge(smiles: str) -> int:
    """Charge of a molecule in elementary charges; errors as in :func:`parse`."""
    molecule = parse(smiles)
    return int(Chem.GetFormalCharge(molecule))


def count_atoms(molecule: Molecule) -> int:
    """Atoms with all hydrogens."""
    return int(Chem.AddHs(molecule).GetNumAtoms())


def why_not(molecule: Molecule, max_atoms: int) -> str:
    """Reason against a molecule as one that a neutral closed-shell teacher may label; empty where none."""
    atoms = Chem.AddHs(molecule).GetAtoms()
    foreign = sorted({a.GetSymbol() for a in atoms} - ELEMENTS)
    if foreign:
        return f"it holds {', '.join(foreign)}; allowed are {', '.join(sorted(ELEMENTS))}"
    if len(Chem.GetMolFrags(molecule)) != 1:
        return "it is more than one molecule"
    if sum(a.GetFormalCharge() for a in atoms):
        return "it is charged"
    if any(a.GetNumRadicalElectrons() for a in atoms):
        return "it is a radical"
    if len(atoms) > max_atoms:
        return f"it has {len(atoms)} atoms; allowed are {max_atoms}"
    return ""


def split_key(molecule: Molecule) -> str:
    """What a molecule shares with those that must be on its side of a split.

    The Bemis-Murcko scaffold (J. Med. Chem. 39, 2887 (1996)). Molecules without a ring have none: they
    go by their skeleton, every atom a carbon and every bond single, below three atoms all together.
    """
    scaffold = MurckoScaffold.GetScaffoldForMol(molecule)
    if scaffold.GetNumAtoms():
        return canonical(scaffold)
    if molecule.GetNumAtoms() < 3:
        return "acyclic:small"
    skeleton = Chem.RWMol(Chem.RemoveAllHs(molecule))
    for atom in skeleton.GetAtoms():
        for change in (atom.SetFormalCharge, atom.SetNumExplicitHs, atom.SetNumRadicalElectrons):
            change(0)
        atom.SetNoImplicit(True)  # sulfur and phosphorus may have more neighbours than carbon
        atom.SetAtomicNum(6)
    for bond in skeleton.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
    return "acyclic:" + str(Chem.MolToSmiles(skeleton, isomericSmiles=False, allBondsExplicit=False))


def attach(molecule: Molecule, group: Molecule, rng: np.random.Generator) -> Molecule | None:
    """Put a group on a random atom that has a hydrogen; None where no atom takes it.

    The group has one ``*``, or is a linker with two, one of which stays.
    """
    stars = [a for a in group.GetAtoms() if a.GetAtomicNum() == 0]
    star = stars[int(rng.integers(len(stars)))]
    partner = star.GetNeighbors()[0]
    sites = [a.GetIdx() for a in molecule.GetAtoms() if _takes(a, partner.GetSymbol())]
    if not sites:
        return None
    site = sites[int(rng.integers(len(sites)))]
    return _bonded(molecule, site, group, partner.GetIdx(), star.GetIdx())


def close_star(molecule: Molecule, other: Molecule, rng: np.random.Generator) -> Molecule | None:
    """Put a fragment in the place of the ``*`` that a linker left."""
    star = next(a for a in molecule.GetAtoms() if a.GetAtomicNum() == 0)
    partner = star.GetNeighbors()[0]
    sites = [a.GetIdx() for a in other.GetAtoms() if _takes(a, partner.GetSymbol())]
    if not sites:
        return None
    site = sites[int(rng.integers(len(sites)))]
    return _bonded(other, site, molecule, partner.GetIdx(), star.GetIdx())


def _takes(atom: Any, partner: str) -> bool:
    if atom.GetTotalNumHs() == 0:
        return False
    return atom.GetSymbol() == "C" or (atom.GetSymbol() == "N" and partner in PARTNERS_OF_NITROGEN)


def _bonded(left: Molecule, site: int, right: Molecule, partner: int, drop: int) -> Molecule | None:
    """Bond atom ``site`` of one molecule to ``partner`` of another, without its atom ``drop``."""
    offset = left.GetNumAtoms()
    joined = Chem.RWMol(Chem.CombineMols(left, right))
    joined.AddBond(site, offset + partner, Chem.BondType.SINGLE)
    atom = joined.GetAtomWithIdx(site)
    if atom.GetNumExplicitHs():
        atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
    joined.RemoveAtom(offset + drop)
    return _sane(joined.GetMol())


def mutated(molecule: Molecule, rng: np.random.Generator) -> Molecule | None:
    """Change one thing: an atom's element, a bond's order, or an atom between two others more or less.

    Hydrogens follow the valences. None where nothing that can be came out.
    """
    changed = Chem.RWMol(molecule)
    Chem.Kekulize(changed, clearAromaticFlags=True)
    for atom in changed.GetAtoms():  # else hydrogens stay that the new valence has no room for
        if not atom.GetFormalCharge():
            atom.SetNumExplicitHs(0)
            atom.SetNoImplicit(False)
    change = (_other_element, _other_order, _inserted, _removed)[int(rng.choice(4, p=MUTATION_WEIGHTS))]
    return _sane(changed.GetMol()) if change(changed, rng) else None


def _other_element(molecule: Molecule, rng: np.random.Generator) -> bool:
    atom = _any_of([a for a in molecule.GetAtoms() if not a.GetFormalCharge()], rng)
    if atom is None:
        return False
    others = [number for number in HEAVY_NUMBERS if number != atom.GetAtomicNum()]
    atom.SetAtomicNum(others[int(rng.integers(len(others)))])
    return True


def _other_order(molecule: Molecule, rng: np.random.Generator) -> bool:
    bond = _any_of(list(molecule.GetBonds()), rng)
    if bond is None:
        return False
    orders = [Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
    others = [order for order in orders if order != bond.GetBondType()]
    bond.SetBondType(others[int(rng.integers(len(others)))])
    return True


def _inserted(molecule: Molecule, rng: np.random.Generator) -> bool:
    """Put an atom into a single bond, which makes a ring wider."""
    single = [b for b in molecule.GetBonds() if b.GetBondType() == Chem.BondType.SINGLE]
    bond = _any_of(single, rng)
    if bond is None:
        return False
    ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    molecule.RemoveBond(*ends)
    new = molecule.AddAtom(Chem.Atom(HEAVY_NUMBERS[int(rng.integers(len(HEAVY_NUMBERS)))]))
    for end in ends:
        molecule.AddBond(end, new, Chem.BondType.SINGLE)
    return True


def _removed(molecule: Molecule, rng: np.random.Generator) -> bool:
    """Take out an atom, and bond its two neighbours, which makes a ring narrower."""
    atom = _any_of([a for a in molecule.GetAtoms() if a.GetDegree() <= 2], rng)
    if atom is None:
        return False
    ends = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
    if len(ends) == 2:
        if molecule.GetBondBetweenAtoms(*ends) is not None:
            return False
        molecule.AddBond(*ends, Chem.BondType.SINGLE)
    molecule.RemoveAtom(atom.GetIdx())
    return bool(molecule.GetNumAtoms())


def _any_of(choices: list[Any], rng: np.random.Generator) -> Any | None:
    return choices[int(rng.integers(len(choices)))] if choices else None


def environments(molecule: Molecule) -> set[str]:
    """Every atom with its hydrogens, charge and bonds to what neighbours, each as text."""
    found = set()
    for atom in molecule.GetAtoms():
        bonds = sorted(f"{b.GetBondType()}{b.GetOtherAtom(atom).GetSymbol()}" for b in atom.GetBonds())
        ring = "" if not atom.IsInRing() else "aromatic" if atom.GetIsAromatic() else "ring"
        found.add(
            f"{atom.GetSymbol()}{atom.GetFormalCharge()}H{atom.GetTotalNumHs()}{ring}:{','.join(bonds)}"
        )
    return found


def _sane(molecule: Molecule) -> Molecule | None:
    failed = Chem.SanitizeMol(molecule, catchErrors=True)
    return None if failed else molecule


def conformers(smiles: str, count: int, seed: int) -> list[ase.Atoms]:
    """Embed a molecule in space by ETKDG and relax it by MMFF94, or UFF where MMFF lacks parameters.

    Returns
    -------
    list of ase.Atoms
        At most ``count``; none where that fails. ``info`` has the SMILES.

    Raises
    ------
    CompactFFError
        As in :func:`parse`.
    """
    molecule = Chem.AddHs(parse(smiles)) if Chem else parse(smiles)
    options = AllChem.ETKDGv3()
    options.randomSeed = seed % (2**31)
    options.maxIterations = EMBEDDING_TRIES
    ids = list(AllChem.EmbedMultipleConfs(molecule, count, options))
    if not ids:
        options.useRandomCoords = True
        ids = list(AllChem.EmbedMultipleConfs(molecule, count, options))
    relax = (
        AllChem.MMFFOptimizeMolecule
        if AllChem.MMFFHasAllMoleculeParams(molecule)
        else AllChem.UFFOptimizeMolecule
    )
    found = []
    for index in ids:
        embedded = _atoms_of(molecule, index)
        relax(molecule, confId=index, maxIters=RELAX_STEPS)
        # UFF, without parameters for five bonds and more, pulls PCl5 apart.
        sound = [atoms for atoms in (_atoms_of(molecule, index), embedded) if is_plausible(molecule, atoms)]
        for atoms in sound[:1]:
            atoms.info["smiles"] = smiles
            found.append(atoms)
    return found


def _atoms_of(molecule: Molecule, index: int) -> ase.Atoms:
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return ase.Atoms(numbers=numbers, positions=molecule.GetConformer(index).GetPositions().copy())


def is_plausible(molecule: Molecule, atoms: ase.Atoms) -> bool:
    """Whether bonds are within a third of the sum of covalent radii, and all other pairs farther."""
    radii = covalent_radii[atoms.numbers]
    ratio = atoms.get_all_distances() / (radii[:, None] + radii)
    bonded = Chem.GetAdjacencyMatrix(molecule).astype(bool)
    others = ~bonded & ~np.eye(len(atoms), dtype=bool)
    near, far = ratio[bonded], ratio[others]
    return bool(np.all((near > 0.67) & (near < 1.33)) and np.all(far > 1.1))
