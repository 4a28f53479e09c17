import json
from dataclasses import fields, replace

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.student import load
from compactff_md.validation import endurance
from compactff_md.validation.breaks import Break, Watch, breaks_of, watched_bonds
from compactff_md.validation.endurance import (
    Endurance,
    apart,
    endure,
    main,
    markdown,
    pieces_ps,
    read_row,
)
from compactff_md.validation.engine_ase import ASEEngine
from compactff_md.validation.stages import Stages
from compactff_md.validation.task import Task

STUDENT = "organic-ultra-tiny"
NAMES = ("CH3CH2OH", "H2O", "CH3SH")


class Nothing(Calculator):
    """No forces: everything flies apart."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


class Broken(Calculator):
    """A program that fails."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=None):
        raise ValueError("no SCF")


class Exploding(Nothing):
    """Forces of 1e6 eV/A."""

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] += 1e6


class Springs(Calculator):
    """Bonds so soft that they stretch by angstroms and come back, about where the atoms were at first."""

    implemented_properties = ("energy", "forces")

    def __init__(self, home_A):
        super().__init__()
        self.home_A = home_A

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        away = atoms.positions - self.home_A
        self.results = {"energy": 0.25 * float((away**2).sum()), "forces": -0.5 * away}


@pytest.fixture
def together() -> Structure:
    return Structure.from_ase(apart([molecule(name) for name in NAMES]))


@pytest.fixture
def calculator():
    return load(STUDENT).ase_calculator(uncertainty=None)


def task() -> Task:
    return Task("nvt", 300.0, 0.5, steps=1, every=20, seed=1, equilibration_steps=20, friction_per_ps=1.0)


def run(folder, structure, calculator, teacher=None, time_ps=0.1, **lengths):
    lengths |= {"time_ps": time_ps, "drift_ps": 0.2}
    with Stages(folder, {"student": "x"}) as stages:
        return endure(
            "x", structure, stages, task(), engine=ASEEngine(calculator), teacher=teacher, **lengths
        )


def test_molecules_on_the_lattice_do_not_feel_each_other(together, calculator):
    energies = [calculator.get_potential_energy(molecule(name)) for name in NAMES]
    assert calculator.get_potential_energy(together.to_ase()) == pytest.approx(sum(energies), abs=1e-4)
    with pytest.raises(CompactFFError, match="one of them"):
        apart([molecule("H2O"), bulk("Cu")])


def test_bonds_of_an_ionic_crystal_are_those_between_nonmetals():
    atoms = ase.io.read("validation/reports/argyrodite_unseen.xyz")
    bonds = watched_bonds(Structure.from_ase(atoms))
    assert len(bonds) == 4 * atoms.get_chemical_symbols().count("P")
    for i, j in bonds:
        assert sorted(atoms.symbols[[i, j]]) == ["P", "S"]


def test_a_sound_student_keeps_its_bonds_and_goes_on_where_it_was(tmp_path, together, calculator):
    row = run(tmp_path, together, calculator)
    assert (row.molecules, row.breaks, row.failure) == (3, (), "")
    assert row.time_ps == pytest.approx(0.1)
    assert 100 < row.mean_K < 500
    assert row.drift_low <= row.drift_meV_per_atom_ps <= row.drift_high
    assert abs(row.drift_meV_per_atom_ps) < 1.0
    # Whatever moves the atoms now: all that is asked for is there.
    assert run(tmp_path, together, Nothing()) == row


@pytest.mark.parametrize(("same", "breaks"), [(False, False), (True, True)])
def test_where_a_bond_breaks_the_teacher_is_asked(tmp_path, together, calculator, same, breaks):
    row = run(tmp_path, together, Nothing(), teacher=Nothing() if same else calculator, time_ps=0.2)
    assert [b.formula for b in sorted(row.breaks, key=lambda b: b.molecule)] == ["C2H6O", "H2O", "CH4S"]
    assert all(0.0 <= b.time_ps <= 0.2 for b in row.breaks)
    assert {b.teacher for b in row.breaks} == {breaks}
    assert f"{3 * breaks} of 3" in markdown([row])


def test_bonds_are_watched_in_parts_of_longer_pieces(tmp_path, together, calculator, monkeypatch):
    monkeypatch.setattr(endurance, "WATCHED_PS", 0.05)
    looked = []
    monkeypatch.setattr(endurance.Watch, "look", lambda _, part, before: looked.append((part, before)) or [])
    with Stages(tmp_path, {"student": "x"}) as stages:
        row = endure(
            "x",
            together,
            stages,
            replace(task(), every=10),
            engine=ASEEngine(calculator),
            time_ps=0.24,
            drift_ps=0.1,
            teacher=None,
            piece_ps=0.12,
        )
    assert row.time_ps == pytest.approx(0.24)
    assert [before for _, before in looked] == pytest.approx([0.0] * 3 + [0.12] * 3)
    first, second, rest, *_ = (part for part, _ in looked)
    assert (first.time_ps[0], first.time_ps[-1], second.time_ps[0]) == pytest.approx((0.0, 0.05, 0.055))
    assert rest.time_ps[-1] == pytest.approx(0.12) and len(rest.positions_A) == len(rest.time_ps) == 4
    np.testing.assert_array_equal(first.numbers, together.numbers)


def test_a_teacher_that_fails_tells_nothing(tmp_path, together):
    row = run(tmp_path, together, Nothing(), teacher=Broken(), time_ps=0.2)
    assert len(row.breaks) == 3 and {b.teacher for b in row.breaks} == {None}
    assert "| - |" in markdown([row])


def test_bonds_that_were_broken_for_a_moment_are_told(tmp_path):
    water = Structure.from_ase(molecule("H2O"))
    soft = Springs(np.array(water.positions_A))
    hot = replace(task(), temperature_K=3000.0, every=4, friction_per_ps=0.01, equilibration_steps=0)
    rows = {}
    # Two periods of the hydrogens' springs, half of one of the oxygen's.
    lengths = {"time_ps": 0.182, "drift_ps": 0.2}
    for name, calculator in (("soft", soft), ("nothing", Nothing())):
        with Stages(tmp_path / name, {"student": name}) as stages:
            rows[name] = endure(
                name, water, stages, hot, engine=ASEEngine(calculator), teacher=None, **lengths
            )
    (soft_break,), (break_,) = rows["soft"].breaks, rows["nothing"].breaks
    assert soft_break.back is True and break_.back is False
    stretched = f"0 of 1 (H2O {soft_break.bond} stretched at {soft_break.time_ps:.3g} ps)"
    assert stretched in markdown([rows["soft"]])
    assert "| 1 of 1 (H2O" in markdown([rows["nothing"]]) and "stretched" not in markdown([rows["nothing"]])


@pytest.mark.parametrize(
    ("time_ps", "lengths"), [(0.1, [0.1]), (5, [5]), (12, [5, 5, 2]), (15, [5] * 3), (100, [5] * 20)]
)
def test_pieces_of_a_longer_time_begin_with_those_of_a_shorter(time_ps, lengths):
    assert pieces_ps(time_ps) == pytest.approx(lengths)


def test_a_longer_time_goes_on_from_the_shorter(tmp_path, together):
    run(tmp_path, together, Nothing(), time_ps=0.12, piece_ps=0.05)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert sum("300K-00" in path.name for path in kept) == 3
    assert run(tmp_path, together, Nothing(), time_ps=0.2, piece_ps=0.05).time_ps == pytest.approx(0.2)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert sum("300K-00" in path.name for path in tmp_path.rglob("*.npz")) == 5  # two of them new


def test_rows_of_before_are_read(tmp_path):
    one = {"molecule": 0, "formula": "H2O", "bond": "O0-H1", "time_ps": 0.1, "teacher": True}
    row = {field.name: 1.0 for field in fields(Endurance)} | {"breaks": [one]}
    (tmp_path / "300K.json").write_text(json.dumps(row))
    assert read_row(tmp_path / "300K.json").breaks == (Break(0, "H2O", "O0-H1", 0.1, True, None),)


def stretched(water, *lengths_A):
    """A run in which the first O-H of water, of 0.97 A, has these lengths."""
    found = ASEEngine(Nothing()).run(water, Task("nve", 300.0, 0.5, len(lengths_A) - 1, 1, 1))
    i, j = watched_bonds(water)[0]
    positions = np.repeat(water.positions_A[None], len(lengths_A), axis=0)
    along = (positions[0, j] - positions[0, i]) / np.linalg.norm(positions[0, j] - positions[0, i])
    positions[:, j] = positions[:, i] + np.array(lengths_A)[:, None] * along
    return replace(found, positions_A=positions)


def test_the_moment_of_a_bond_that_stays_broken_is_that_after_which_it_was_never_whole():
    water = Structure.from_ase(molecule("H2O"))
    bonds = watched_bonds(water)
    initial = np.linalg.norm(np.diff(water.positions_A[bonds], axis=1)[:, 0], axis=1)
    for lengths, moments in {
        (1.0, 1.6, 1.0, 1.7, 2.0): {0: 3},
        (1.0, 1.4, 1.6, 1.7, 1.0): {0: 2},
        (1.6, 1.7, 1.8): {0: 0},
        (1.0, 0.8, 1.3): {},
    }.items():
        assert breaks_of(stretched(water, *lengths), bonds, initial) == moments


def test_a_bond_that_comes_back_is_no_broken_one_and_does_not_ask_the_teacher(calculator):
    water = Structure.from_ase(molecule("H2O"))
    watch = Watch(water, calculator)
    (first,) = watch.look(stretched(water, 1.0, 1.6, 1.0), 0.0)
    assert (first.time_ps, first.teacher, first.back) == (0.0005, None, True)
    assert watch.look(stretched(water, 1.0, 1.7, 1.0), 0.001) == []
    (broken,) = watch.look(stretched(water, 1.0, 1.6, 1.0, 1.0, 1.8), 0.002)
    assert (broken.time_ps, broken.teacher, broken.back) == (0.004, False, False)
    assert watch.breaks == (broken,) and broken.bond == first.bond
    assert watch.look(stretched(water, 2.0, 1.7), 0.004) == []
    watch.look(stretched(water, 2.0, 1.0), 0.005)
    assert watch.breaks == (replace(broken, back=True),)


def test_the_teacher_starts_from_a_whole_bond_and_breaks_one_only_for_good(calculator):
    water = Structure.from_ase(molecule("H2O"))
    # Two frames before it breaks for good it was broken for a moment.
    again = stretched(water, 1.0, 1.6, 1.0, 1.7, 2.0)
    for teacher, expected in ((calculator, False), (Nothing(), True), (Broken(), None), (None, None)):
        (found,) = Watch(water, teacher).look(again, 0.0)
        assert (found.time_ps, found.teacher) == (0.0015, expected)
    # Nothing in this part is whole: there is nowhere to start.
    (found,) = Watch(water, calculator).look(stretched(water, 1.7, 2.0), 0.0)
    assert found.teacher is None


def test_a_run_that_ends_at_once_has_a_row(tmp_path, together):
    row = run(tmp_path, together, Exploding())
    assert row.failure and row.mean_K is None and row.drift_meV_per_atom_ps is None
    assert "| - |" in markdown([replace(row, mean_K=None)])


def test_a_warming_up_that_fails_leaves_no_drift(tmp_path, together):
    class Late(Nothing):
        """Fails after the 20 steps of the equilibration and the 200 of the piece."""

        left = 230

        def calculate(self, atoms=None, properties=None, system_changes=None):
            super().calculate(atoms, properties, system_changes)
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("no more")

    row = run(tmp_path, together, Late())
    assert row.mean_K is not None and row.drift_meV_per_atom_ps is None and not row.failure
    assert [path.stem for path in tmp_path.rglob("*nve*.npz")] == []
    assert "| - |" in markdown([row])


def test_pieces_of_other_lengths_are_not_put_together(tmp_path, together):
    run(tmp_path, together, Nothing(), time_ps=0.14, piece_ps=0.1)
    with pytest.raises(CompactFFError, match="another --piece-ps"):
        run(tmp_path, together, Nothing(), time_ps=0.08, piece_ps=0.04)


def test_the_command_writes_a_row_and_a_table(tmp_path, capsys):
    ase.io.write(tmp_path / "two.xyz", [molecule("H2O"), molecule("CH3OH")])
    words = [STUDENT, "--structures", tmp_path / "two.xyz", "--temperatures", 300, "--time-ps", 0.1]
    words += ["--drift-ps", 0.1, "--engine", "ase", "--teacher", "none", "--out", tmp_path / "out"]
    main([str(word) for word in words])
    row = read_row(tmp_path / "out" / f"{STUDENT}-ase" / "300K.json")
    assert (row.atoms, row.molecules, row.breaks) == (9, 2, ())
    assert markdown([row]) in capsys.readouterr().out
    assert (tmp_path / "out" / "endurance.md").read_text() == markdown([row])
    words[words.index(300)] = 500
    main([str(word) for word in words])
    hotter = read_row(tmp_path / "out" / f"{STUDENT}-ase" / "500K.json")
    assert markdown([hotter]) in capsys.readouterr().out
    assert (tmp_path / "out" / "endurance.md").read_text() == markdown([row, hotter])
