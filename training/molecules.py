"""A list of distinct molecules, recombined from fragments, and its split by scaffold.

``python -m compactff_md.training.molecules --out FOLDER`` writes ``train.smi`` and ``test.smi``; with
``--structures N`` also ``test.xyz``, a conformer each of N molecules of the test. ``--mutants-of FILE``
changes an atom or a bond here and there in the molecules of a list instead, for rings that the fragments
do not have.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import ase
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compactff_md.errors import CompactFFError
from compactff_md.files import write_text
from compactff_md.training.chemistry import (
    Molecule,
    attach,
    canonical,
    check_rdkit,
    close_star,
    conformers,
    environments,
    mutated,
    parse,
    split_key,
    why_not,
)
from compactff_md.training.labelling import write_frames
from compactff_md.training.recipe_files import read_config

FRAGMENTS = Path(__file__).parent / "recipes" / "fragments.yaml"
TRIES_PER_MOLECULE = 40
MOST_MUTATIONS = 4
LARGEST_TEST_GROUP = 0.02  # of all molecules: the scaffold of half of them makes no test
RING_SHARE, LINK_SHARE = 0.62, 0.35
GROUP_WEIGHTS = (0.12, 0.36, 0.34, 0.18)  # of none to three groups


class Fragments(BaseModel):
    """SMILES of what is recombined; see ``recipes/fragments.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rings: tuple[str, ...] = Field(min_length=1)
    chains: tuple[str, ...] = Field(min_length=1)
    linkers: tuple[str, ...] = Field(min_length=1)
    groups: tuple[str, ...] = Field(min_length=1)
    molecules: tuple[str, ...] = ()


def read_fragments(path: str | Path = FRAGMENTS) -> Fragments:
    """Read fragments from YAML.

    Raises
    ------
    CompactFFError
        If the file is missing or is not such a list.
    """
    return read_config(Fragments, path)


def build_molecules(
    count: int, seed: int, max_atoms: int = 28, fragments: Fragments | None = None
) -> list[str]:
    """Canonical SMILES of distinct neutral closed-shell molecules, sorted; the same for the same arguments.

    Those that the fragments give whole come first, then the fragments' rings and chains by themselves,
    then chance: a ring or a chain, with none to three groups, or two of these with a linker between.

    Raises
    ------
    CompactFFError
        If there is no RDKit, or the fragments do not give so many.
    """
    check_rdkit()
    known = fragments or read_fragments()
    found: dict[str, None] = {}
    for smiles in (*known.molecules, *known.rings, *known.chains):
        _keep(found, parse(smiles), max_atoms)
    maker = _Maker(known, np.random.default_rng([seed, 20]))
    for _ in range(TRIES_PER_MOLECULE * count):
        if len(found) >= count:
            return sorted(list(found)[:count])
        _keep(found, maker.make(), max_atoms)
    raise CompactFFError(
        f"the fragments gave {len(found)} molecules of at most {max_atoms} atoms, {count} were asked for; "
        "ask for fewer, raise max_atoms, or add fragments"
    )


def mutate_molecules(smiles: Sequence[str], count: int, seed: int, max_atoms: int = 28) -> list[str]:
    """Canonical SMILES of distinct molecules that are one to four small changes away from given ones, sorted.

    Every atom has bonds as some atom of the given molecules has them, so that no chance bond is one that
    nobody would make, such as O-O.

    Raises
    ------
    CompactFFError
        If there is no RDKit, or the molecules do not give so many.
    """
    given = [parse(entry) for entry in smiles]
    known = set().union(*(environments(molecule) for molecule in given))
    there = {canonical(molecule) for molecule in given}
    rng = np.random.default_rng([seed, 23])
    found: dict[str, None] = {}
    for _ in range(TRIES_PER_MOLECULE * count):
        if len(found) >= count:
            return sorted(found)
        molecule: Molecule | None = given[int(rng.integers(len(given)))]
        for _ in range(int(rng.integers(1, MOST_MUTATIONS + 1))):
            changed = mutated(molecule, rng)
            molecule = molecule if changed is None else changed
        if molecule is not None and environments(molecule) <= known and canonical(molecule) not in there:
            _keep(found, molecule, max_atoms)
    raise CompactFFError(
        f"{len(given)} molecules gave {len(found)} mutants of at most {max_atoms} atoms, {count} were asked "
        "for; ask for fewer, raise max_atoms, or give more molecules"
    )


def _keep(found: dict[str, None], molecule: Molecule | None, max_atoms: int) -> None:
    if molecule is not None and not why_not(molecule, max_atoms):
        found.setdefault(canonical(molecule))


class _Maker:
    """Draws molecules; the fragments are parsed once."""

    def __init__(self, fragments: Fragments, rng: np.random.Generator) -> None:
        self.rng = rng
        self.rings, self.chains, self.linkers, self.groups = (
            [parse(smiles) for smiles in part]
            for part in (fragments.rings, fragments.chains, fragments.linkers, fragments.groups)
        )

    def make(self) -> Molecule | None:
        """Draw a molecule; None where chance put together what cannot be."""
        core: Molecule | None = self._core()
        if self.rng.random() < LINK_SHARE:
            core = self._linked(core)
        for _ in range(int(self.rng.choice(len(GROUP_WEIGHTS), p=GROUP_WEIGHTS))):
            if core is not None:
                core = attach(core, self._draw(self.groups), self.rng)
        return core

    def _core(self) -> Molecule:
        return self._draw(self.rings if self.rng.random() < RING_SHARE else self.chains)

    def _linked(self, core: Molecule) -> Molecule | None:
        linked = attach(core, self._draw(self.linkers), self.rng)
        return None if linked is None else close_star(linked, self._core(), self.rng)

    def _draw(self, choices: list[Molecule]) -> Molecule:
        return choices[int(self.rng.integers(len(choices)))]


def split_molecules(smiles: Sequence[str], num_test: int, seed: int) -> tuple[list[str], list[str]]:
    """Split by scaffold (:func:`compactff_md.training.chemistry.split_key`) into training and test.

    Whole groups go to the test, in random order, until it has ``num_test`` molecules or a few more.
    Groups larger than a fiftieth of all are for training.

    Raises
    ------
    CompactFFError
        If the groups that are small enough do not hold so many.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in sorted(smiles):
        groups[split_key(parse(entry))].append(entry)
    most = max(1, round(LARGEST_TEST_GROUP * len(smiles)))
    names = sorted(name for name, members in groups.items() if len(members) <= most)
    test: list[str] = []
    for index in np.random.default_rng([seed, 21]).permutation(len(names)):
        if len(test) >= num_test:
            break
        test += groups[names[index]]
    if len(test) < num_test:
        raise CompactFFError(
            f"scaffolds with at most {most} molecules hold {len(test)}, {num_test} were asked for"
        )
    chosen = set(test)
    return [entry for entry in sorted(smiles) if entry not in chosen], sorted(test)


def read_smiles(path: str | Path) -> list[str]:
    """First word of every line that is neither empty nor a comment (``#``).

    Raises
    ------
    CompactFFError
        If the file is missing or holds none.
    """
    if not Path(path).is_file():
        raise CompactFFError(f"no such file of SMILES: {path}")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    found = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise CompactFFError(f"{path} holds no SMILES; expected one a line")
    return found


def apart_from(smiles: Sequence[str], others: Sequence[str]) -> list[str]:
    """Those of the molecules whose scaffold none of the others has."""
    keys = {split_key(parse(entry)) for entry in others}
    return [entry for entry in smiles if split_key(parse(entry)) not in keys]


def write_lists(
    folder: str | Path,
    count: int,
    num_test: int,
    seed: int,
    max_atoms: int,
    others: Sequence[str] = (),
    parents: Sequence[str] = (),
    fragments: Fragments | None = None,
) -> tuple[int, int]:
    """Write ``train.smi`` and ``test.smi`` without the scaffolds of ``others``; return how many each has.

    They are mutants of the ``parents`` where there are some, else of fragments (None: the package's own).
    """
    if parents:
        built = mutate_molecules(parents, count, seed, max_atoms)
    else:
        built = build_molecules(count, seed, max_atoms, fragments)
    Path(folder).mkdir(parents=True, exist_ok=True)
    built = apart_from(built, others)
    train, test = split_molecules(built, num_test, seed)
    for name, part in (("train", train), ("test", test)):
        head = f"# {name}: {len(part)} of {count} molecules, seed {seed}, at most {max_atoms} atoms\n"
        write_text(Path(folder) / f"{name}.smi", head + "".join(f"{entry}\n" for entry in part))
    return len(train), len(test)


def write_structures(path: str | Path, smiles: Sequence[str], count: int, seed: int) -> None:
    """Write a conformer each of ``count`` molecules, drawn at random, as extxyz with their SMILES.

    Raises
    ------
    CompactFFError
        If there are not so many of which RDKit makes a conformer.
    """
    rng = np.random.default_rng([seed, 22])
    found: list[ase.Atoms] = []
    for index in rng.permutation(len(smiles)).tolist():
        if len(found) == count:
            break
        for atoms in conformers(smiles[index], 1, int(rng.integers(2**31))):
            atoms.info["smiles"] = smiles[index]
            found.append(atoms)
    if len(found) < count:
        raise CompactFFError(f"{count} structures were asked for, {len(smiles)} molecules give {len(found)}")
    write_frames(Path(path), found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the lists; see the head of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m compactff_md.training.molecules", description="Molecules by recombination."
    )
    parser.add_argument("--out", required=True, help="folder for train.smi and test.smi")
    parser.add_argument("--count", type=int, default=3600)
    parser.add_argument("--test", type=int, default=360, help="molecules held out, by scaffold")
    parser.add_argument("--max-atoms", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--structures", type=int, default=0, help="of the test, in test.xyz")
    parser.add_argument("--apart-from", help="file of SMILES whose scaffolds are left out")
    parser.add_argument("--mutants-of", help="file of SMILES to change, in the place of fragments")
    parser.add_argument("--fragments", default=FRAGMENTS, help="file of fragments")
    given = parser.parse_args(arguments)
    fragments = read_fragments(given.fragments)
    others, parents = (read_smiles(path) if path else () for path in (given.apart_from, given.mutants_of))
    train, test = write_lists(
        given.out, given.count, given.test, given.seed, given.max_atoms, others, parents, fragments
    )
    if given.structures:
        unseen = read_smiles(Path(given.out) / "test.smi")
        write_structures(Path(given.out) / "test.xyz", unseen, given.structures, given.seed)
    print(f"{train} molecules to train on and {test} to test with are in {given.out}")


if __name__ == "__main__":
    main()
