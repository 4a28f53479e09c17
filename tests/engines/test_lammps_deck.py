"""What compactff deck writes: boxes of slabs, parts of a run, and what is there before."""

import json
import re

import ase
import numpy as np
import pytest
from ase.build import fcc111, graphene, molecule
from ase.constraints import FixAtoms

from compactff_md.artifact import describe
from compactff_md.engines import lammps_deck as module
from compactff_md.engines.lammps_deck import lammps_frame, lammps_rotation, write_deck
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.errors import CompactFFError
from lammps_builders import network, run_input

ELEMENTS = ["H", "O"]
RESTARTS = ("final.restart", "restart.a", "restart.b")


def deck(folder, atoms=None, overwrite=False, **settings):
    atoms = molecule("H2O2") if atoms is None else atoms
    made = network(sorted(set(atoms.get_chemical_symbols())))
    chosen = DeckSettings(**{"steps": 10, **settings})
    return write_deck(atoms, made, describe(made), chosen, folder, overwrite=overwrite)


def slab(low, high, side):
    positions = [[1.0, 1.0, low], [2.0, 2.5, high]]
    return ase.Atoms("OH", positions, cell=[4.0, 5.0, side], pbc=(True, True, False))


@pytest.mark.parametrize(
    ("low", "high", "side", "expected"),
    [
        (0.0, 8.9, 9.0, 9.0),
        (-1.0, 2.0, 30.0, 30.0),
        (1.0, 9.0, 9.0, 18.0),
        (-3.0, 40.0, 9.0, 53.0),
        (1.0, 2.0, 0.0, 11.0),
    ],
)
def test_the_side_of_an_open_axis_holds_the_atoms(low, high, side, expected):
    atoms = slab(low, high, side)
    framed = lammps_frame(atoms)
    assert framed.cell.cellpar()[:3] == pytest.approx([4.0, 5.0, expected])
    assert (framed.positions[:, 2] >= 0.0).all() and (framed.positions[:, 2] < expected).all()
    moved = framed.positions - atoms.positions
    np.testing.assert_allclose(moved - moved[0], 0.0, atol=1e-12)
    if expected == side == 9.0:
        assert not moved.any()
    assert "xy xz yz" not in module.data_text(atoms, ELEMENTS, "metal")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "atoms", [fcc111("Cu", (2, 2, 3), vacuum=8.0), graphene()], ids=["fcc111", "graphene"]
)
def test_a_tilted_slab_has_a_box_along_every_open_axis(atoms, axis, tmp_path):
    turn = np.roll(np.arange(3), axis - 2)
    atoms = ase.Atoms(
        atoms.numbers, atoms.positions[:, turn], cell=atoms.cell.array[turn][:, turn], pbc=atoms.pbc[turn]
    )
    assert not atoms.pbc[axis]
    framed = lammps_frame(atoms)
    lower = np.tril(framed.cell.array, -1)
    assert np.count_nonzero(abs(lower) > 1e-9) == 1 and not lower[axis].any() and not lower[:, axis].any()
    want, got = atoms.get_all_distances(mic=True), framed.get_all_distances(mic=True)
    np.testing.assert_allclose(got, want, atol=1e-9)
    turned = (atoms.positions - atoms.positions[0]) @ lammps_rotation(atoms)
    np.testing.assert_allclose(framed.positions - framed.positions[0], turned, atol=1e-9)
    assert "xy xz yz" in deck(tmp_path / "deck", atoms).data.read_text()


def test_free_vectors_in_any_direction_leave_the_slab_as_it_is(tmp_path):
    """Tilted ones, one in the plane of the slab, and a slab that stands upright."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=4.0)
    want, plain = atoms.get_all_distances(mic=True), lammps_frame(atoms)
    np.testing.assert_allclose(plain.cell, atoms.cell, atol=1e-12)
    for free in ([3.0, 1.0, 12.0], [0.0, 0.0, -12.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]):
        changed = atoms.copy()
        changed.cell[2] = free
        changed.rotate(50, (1, 2, 3), rotate_cell=True)
        framed = lammps_frame(changed)
        assert np.abs(framed.cell.array[2, :2]).max() < 1e-9
        np.testing.assert_allclose(framed.get_all_distances(mic=True), want, atol=1e-9)
        deck(tmp_path / "deck", changed, overwrite=True)
    wire = ase.Atoms("HO", [[1.0, 0.2, 0.1], [2.0, 0.0, 0.0]], cell=[0.0, 0.0, 3.0], pbc=(False, False, True))
    assert lammps_frame(wire).cell.cellpar() == pytest.approx([11.0, 10.2, 3.0, 90, 90, 90])


def test_no_atoms(tmp_path):
    made = network(ELEMENTS)
    with pytest.raises(CompactFFError, match="the structure has no atoms"):
        write_deck(ase.Atoms(), made, describe(made), DeckSettings(steps=1), tmp_path)


def test_masses_of_the_structure_are_those_of_the_deck_or_refused(tmp_path):
    atoms = molecule("H2O2")
    masses = atoms.get_masses()
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    masses[hydrogens] = 2.014
    atoms.set_masses(masses)
    text = deck(tmp_path / "all", atoms).data.read_text()
    given = [line.split() for line in text[text.index("Masses") : text.index("Atoms")].splitlines()[2:4]]
    assert [float(words[1]) for words in given] == pytest.approx([2.014, 15.999], abs=1e-3)
    for index in hydrogens:  # the first of them is no exception
        mixed = molecule("H2O2")
        masses = mixed.get_masses()
        masses[index] = 2.014
        mixed.set_masses(masses)
        with pytest.raises(CompactFFError, match=r"atoms of H have masses from 1\.008 to 2\.014"):
            deck(tmp_path / "one", mixed)
    assert not (tmp_path / "one").exists()


def test_constraints_of_the_structure_are_refused(tmp_path):
    atoms = molecule("H2O2")
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(CompactFFError, match=r"constraints \(FixAtoms\).*take them off"):
        deck(tmp_path, atoms)
    assert not any(tmp_path.iterdir())


def test_overwriting_removes_what_runs_left_and_leaves_no_mixture(tmp_path, monkeypatch):
    written = deck(tmp_path)
    left = (*RESTARTS, "log.lammps", "log.2.lammps", "trajectory.lammpstrj", "trajectory.12.lammpstrj")
    others = ("log.mine.lammps", "notes.txt", "settings.json")
    for name in (*left, *others):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CompactFFError, match="holds a deck already"):
        deck(tmp_path)
    assert all((tmp_path / name).is_file() for name in left)
    deck(tmp_path, overwrite=True)
    assert not any((tmp_path / name).exists() for name in left) and written.deck.is_file()
    assert all((tmp_path / name).read_text() == "{}" for name in others)

    def full(*_, **__):
        raise CompactFFError("no space left")

    monkeypatch.setattr(module, "export_mliap", full)
    with pytest.raises(CompactFFError, match="no space"):
        deck(tmp_path, overwrite=True, temperature_K=900.0)
    assert not written.deck.exists() and not written.continuation.exists()


@pytest.mark.parametrize(
    "name", ["system.data", "student.mliap.pt", "deck.json", "continue.lammps", "log.lammps", "restart.a"]
)
def test_files_of_others_are_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        CompactFFError, match=rf"holds files of the names.*\({re.escape(name)}\).*--overwrite"
    ):
        deck(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_settings_of_a_run_in_openmm_stay_and_those_of_an_old_deck_go(tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text('{"settings": {"report_interval": 100}}')
    made = deck(tmp_path)
    assert json.loads((tmp_path / "deck.json").read_text())["steps"] == 10
    assert "report_interval" in settings.read_text()
    settings.write_text((tmp_path / "deck.json").read_text())  # where decks had them before
    with pytest.raises(CompactFFError, match=r"holds a deck already \(in\.lammps.*settings\.json\)"):
        deck(tmp_path)
    deck(tmp_path, overwrite=True)
    assert not settings.exists() and made.deck.is_file()


def test_the_trajectory_and_the_restart_files_begin_after_the_minimisation(tmp_path):
    lines = deck(tmp_path, minimise=True).deck.read_text().splitlines()
    first = [line.split()[0] for line in lines if line and line[0] not in "# "]
    for name in ("dump", "dump_modify", "restart"):
        assert first.index("reset_timestep") < first.index(name) < first.index("run")
    assert first.index("thermo_style") < first.index("minimize")


@pytest.mark.parametrize(
    ("there", "ranks", "words", "part"),
    [
        ((), 1, (), 2),
        ((2, 3), 2, (), 4),
        ((2, 4), 1, (), 3),
        ((2,), 1, ("-var", "part", "7"), 7),
        ((2,), 1, ("-var", "part", "2"), None),
    ],
)
def test_a_part_that_is_there_is_not_run_again(tmp_path, there, ranks, words, part):
    """The head of the deck alone, by LAMMPS."""
    text = deck(tmp_path, ensemble="nvt", thermostat="langevin", seed=30).continuation.read_text()
    bath = next(line for line in text.splitlines() if " langevin " in line)
    for number in there:
        (tmp_path / f"trajectory.{number}.lammpstrj").write_text("old")
    head = text[: text.index("# ---- atoms")] + f'print "part ${{part}}, seed {bath.split()[7]}"\n'
    ran = run_input(head, tmp_path, ranks, *words, check=part is not None)
    if part is None:
        assert ran.code != 0 and "trajectory.2.lammpstrj is there" in ran.out
        assert not (tmp_path / "log.2.lammps").exists()
    else:
        assert f"\npart {part}, seed {29 + part}\n" in ran.out
        assert [p.name for p in tmp_path.glob("log.?.lammps")] == [f"log.{part}.lammps"]
