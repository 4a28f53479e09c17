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
