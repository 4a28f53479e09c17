"""Whole runs of labels, with a teacher that costs nothing: what is refused before, and what can be mended."""

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write

from compactff_md.errors import CompactFFError
from compactff_md.training import config as settings
from compactff_md.training import generate, pool
from compactff_md.training.config import DistillConfig
from compactff_md.training.distill import distill, label
from compactff_md.training.drivers import Driver
from compactff_md.training.planning import plan_chains
from compactff_md.training.recipe_files import make_config
from compactff_md.training.splitting import elements_of, split_frames
from reporters import Notes

TEACHER = "ase.calculators.emt:EMT"


def rattled(count: int, name: str = "CH3OH", seed: int = 0, amplitude_A: float = 0.05) -> list[ase.Atoms]:
    rng = np.random.default_rng(seed)
    made = [molecule(name) for _ in range(count)]
    for atoms in made:
        atoms.positions += rng.normal(0, amplitude_A, atoms.positions.shape)
    return made


@pytest.fixture
def config(tmp_path):
    """Of a run that labels the given structures as they are."""

    def make(structures: list[ase.Atoms] | None, **fields) -> DistillConfig:
        values = {"teacher": TEACHER, "steps": 2, "threads": 1, **fields}
        if structures is not None:
            write(tmp_path / "given.xyz", structures)
            values["structures"] = str(tmp_path / "given.xyz")
        given = {} if "steps" in fields.get("sampling", {}) else {"mode": "given"}
        values["sampling"] = {"n_workers": 1, **given, **fields.get("sampling", {})}
        return make_config(DistillConfig, values)

    return make


def failing(monkeypatch, every: int) -> list[int]:
    """Let the teacher fail on each so-manyth call; the list grows by one a call."""
    calculate, calls = EMT.calculate, []

    def fail_often(self, *arguments, **options):
        calls.append(0)
        if len(calls) % every == 0:
            raise RuntimeError("SCF not converged")
        calculate(self, *arguments, **options)

    monkeypatch.setattr(EMT, "calculate", fail_often)
    return calls


def test_given_structures_that_the_teacher_fails_on_cost_no_others(config, tmp_path, monkeypatch):
    failing(monkeypatch, 3)
    labels = label(config(rattled(40)), tmp_path / "out")
    assert sum(labels.counts["frames"].values()) > 0.6 * 40
    with pytest.raises(CompactFFError, match=r"expected at least 10 and 1\. Give more structures"):
        label(config(rattled(14)), tmp_path / "few")


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "frames for training.*this folder, raise sampling.max_failures: the teacher failed on"),
        (4, "the teacher failed on.*raise sampling.max_failures, with which this folder goes on"),
    ],
    ids=["few", "many"],
)
def test_a_run_whose_teacher_fails_too_often_goes_on_as_told(config, tmp_path, monkeypatch, count, told):
    calls = failing(monkeypatch, 3)
    sampling = {
        "steps": [{"kind": "rattle", "frames": 20, "length": 3}] * count,
        "relax_steps": 0,
        "test_frames": 3,
        "test_temperatures_K": [300],
        "equilibration_steps": 0,
    }
    structures = rattled(2)
    with pytest.raises(CompactFFError, match=told):
        label(config(structures, sampling=sampling), tmp_path / "out")
    if count == 1:  # what was given up costs nothing more, as long as no more may fail
        before = len(calls)
        with pytest.raises(CompactFFError, match=told):
            label(config(structures, sampling=sampling), tmp_path / "out")
        assert len(calls) == before
    patient = config(structures, sampling={**sampling, "max_failures": 0.5})
    labels = label(patient, tmp_path / "out")
    assert labels.counts["frames"]["train"] + labels.counts["frames"]["valid"] > 0.9 * 20 * count
    assert label(config(structures, sampling=sampling), tmp_path / "out").counts == labels.counts


def test_a_run_that_had_too_little_time_goes_on_with_more(config, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "LEAST_TIME_S", 0.0)
    structures = rattled(30)
    with pytest.raises(CompactFFError, match=r"labelled; .* To go on with this folder, give more minutes$"):
        label(config(structures, minutes=1e-9), tmp_path / "out")
    longer = config(structures, minutes=5.0)
    labels = label(longer, tmp_path / "out")
    assert labels.counts["frames"] == {"test": 3, "train": 26, "valid": 1}
    with pytest.raises(CompactFFError, match=r"minutes is 5\.0 there and 6\.0 now"):
        label(config(structures, minutes=6.0), tmp_path / "out")


def test_frames_that_would_not_suffice_are_refused_before_the_first_label(config, tmp_path):
    with pytest.raises(CompactFFError, match="9 frames for training and 1 for validation were planned"):
        label(config(rattled(11)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert label(config(rattled(12)), tmp_path / "out").counts["frames"]["train"] == 10
    step = {"kind": "rattle", "frames": 8}
    with pytest.raises(CompactFFError, match=r"were planned; .* Raise the frames of the steps"):
        label(config(rattled(1), sampling={"steps": [step], "test_frames": 5}), tmp_path / "steps")


def test_copies_among_the_given_structures_are_left_out(config, tmp_path):
    reporter, structures = Notes(), rattled(30)
    labels = label(config([*structures, structures[3]]), tmp_path / "out", reporter)
    assert sum(labels.counts["frames"].values()) == 30
    assert "1 labelled frames are copies of others; they were left out" in reporter.notes


def test_names_of_labels_are_those_of_the_labelled_files(config, tmp_path):
    frames = rattled(12, seed=1)
    for atoms in frames:
        atoms.calc = EMT()
        atoms.info["E_dft"], atoms.arrays["F_dft"] = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
    write(tmp_path / "before.xyz", frames)
    keys = {"energy": "E_dft", "forces": "F_dft"}
    labelled = [str(tmp_path / "before.xyz")]
    result = distill(config(rattled(30), keys=keys, labelled=labelled), tmp_path / "out")
    assert result.metrics["labels"]["frames"]["train"] == 26
    assert result.metrics["training"]["steps"] == 2
    atoms = [ase.Atoms("H", info={"E_dft": energy}) for energy in (-3.0, -3.1)]
    write(tmp_path / "before.xyz", [*frames, *atoms])
    with pytest.raises(CompactFFError, match=r"before.xyz frame 13 has -3.1000 eV for the isolated H"):
        label(config(rattled(30), keys=keys, labelled=labelled), tmp_path / "two")
    assert not (tmp_path / "two" / "labels.json").exists()


def test_energies_of_the_runs_own_teacher_are_in_eV_whatever_they_are_like(config, tmp_path, monkeypatch):
    """Those of methanol are here, in eV, what its atoms have in Hartree, as GFN2-xTB has of C6H14S."""
    calculate = EMT.calculate

    def shifted(self, *arguments, **options):
        calculate(self, *arguments, **options)
        for name in ("energy", "free_energy"):
            self.results[name] -= 118.0

    monkeypatch.setattr(EMT, "calculate", shifted)
    atoms = molecule("CH3OH")
    atoms.calc = EMT()
    hartree = 37.8450 + 75.0673 + 4 * 0.5
    assert atoms.get_potential_energy() == pytest.approx(-hartree, rel=0.01)
    assert distill(config(rattled(14)), tmp_path / "out").student.is_file()


def test_structures_of_steps_are_examined_where_none_are_given(config, tmp_path):
    reporter = Notes()
    dimers = {"kind": "dimers", "elements": ["H", "O"], "count": 30, "closeness": [0.9, 1.1]}
    made = config(None, sampling={"steps": [dimers]}, teacher="gfn2-xtb")
    label(made, tmp_path / "out", reporter)
    assert (tmp_path / "out" / "teacher.json").is_file()
    assert any("10 of 30 structures, the first is 1, have an odd number" in note for note in reporter.notes)


def test_ions_from_smiles_are_told(config, tmp_path):
    pytest.importorskip("rdkit")
    (tmp_path / "some.smi").write_text("CO\nCC(=O)[O-]\n")
    reporter = Notes()
    step = {"kind": "conformers", "smiles": str(tmp_path / "some.smi"), "each": 10}
    label(config(None, sampling={"steps": [step]}), tmp_path / "out", reporter)
    assert any("the first is CC(=O)[O-], are not of charge 0" in note for note in reporter.notes)


def test_a_driver_that_starts_from_more_structures_has_them_relaxed(config, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "TEACHER_FRAMES", 12)
    monkeypatch.setattr(settings, "DRIVEN_FRAMES", 40)
    monkeypatch.setattr(generate, "settled_driver", lambda *arguments: Driver(TEACHER))
    many = {"mode": "md", "relax_steps": 2, "spacing_steps": 1, "test_frames": 1, "equilibration_steps": 0}
    labels = label(config(rattled(20, "H2O"), sampling=many), tmp_path / "out")
    assert labels.counts["frames"]["train"] + labels.counts["frames"]["valid"] == 40
    relaxed = list((tmp_path / "out" / "labels").glob("relaxed-*.json"))
    assert len(relaxed) == 20


@pytest.mark.parametrize("rare", ["N", "O"])
def test_every_element_is_in_the_training(config, rare):
    """One of given structures has an element of its own, wherever it was drawn to."""
    run, sizes = config(rattled(24, "CH4")), set()
    chains = plan_chains(24, run.sampling, run.seed)
    for index in range(24):
        structures = rattled(24, "CH4")
        structures[index].symbols[1] = rare
        frames, copies = split_frames([(c, [structures[m] for m in c.members]) for c in chains], run)
        assert elements_of(frames["train"]) == {"C", "H", rare} and not copies
        sizes.add(tuple(len(frames[purpose]) for purpose in ("train", "valid", "test")))
    # Of the two of the test one changes over; in the place of the one for validation comes another.
    assert sizes == {(21, 1, 2), (22, 1, 1)}


def test_elements_that_only_a_test_has_are_refused_before_the_first_label(config, tmp_path):
    steps = [
        {"kind": "rattle", "frames": 40, "of": ["lines"]},
        {"kind": "dimers", "elements": ["N"], "count": 3, "closeness": [0.9, 1.1], "purpose": "test"},
    ]
    steps.insert(0, {"kind": "dimers", "name": "lines", "elements": ["H"], "count": 1, "frames": 0})
    with pytest.raises(CompactFFError, match="structures with N, which no frame for training would have"):
        label(config(None, sampling={"steps": steps}), tmp_path / "out")
    assert not list((tmp_path / "out" / "labels").glob("*/state.npz"))
    with pytest.raises(CompactFFError, match="structures with O, which elements leaves out"):
        label(config(rattled(30), elements=["H", "C"]), tmp_path / "other")


def test_labels_alone_are_checked_and_checks_may_be_mended(config, tmp_path):
    """What the training would refuse is told with the labels, and its advice can be followed there."""
    structures = rattled(31, amplitude_A=0.003)
    structures[3].positions *= 1.5
    fields = {"checks": {"max_force_eV_per_A": 5.0}, "sampling": {"max_force_eV_per_A": 5.0}}
    given = config(structures, checks={"max_energy_deviation_eV_per_atom": 0.1})
    with pytest.raises(CompactFFError, match=r"raise checks\.max_energy_deviation_eV_per_atom"):
        label(given, tmp_path / "out")
    mended = config(structures, checks={"max_energy_deviation_eV_per_atom": 5.0})
    label(mended, tmp_path / "out")
    distill(mended, tmp_path / "out")
    with pytest.raises(CompactFFError, match=r"already holds another run: checks\.max_energy_deviation"):
        distill(given, tmp_path / "out")
    with pytest.raises(CompactFFError, match="the training would refuse frames that are kept"):
        config(structures, checks={"max_force_eV_per_A": 5.0})
    config(structures, **fields)


def test_labelled_frames_that_the_run_has_itself_are_left_out(config, tmp_path):
    """As those of a shorter run with the same seed, which this one is to extend."""
    frames = rattled(40)
    first = distill(config(frames[:24]), tmp_path / "first")
    notes = Notes()
    more = config(frames, labelled=[str(tmp_path / "first" / "train.xyz")])
    second = distill(more, tmp_path / "second", notes)
    assert any("labelled frames are this run's own as well, and left out" in note for note in notes.notes)
    assert first.metrics["labels"]["frames"]["train"] > 10
    assert second.metrics["labels"]["frames"]["train"] > 30


def test_names_of_steps_are_fit_for_files():
    step = {"kind": "rattle", "frames": 5, "name": "600K/1bar"}
    with pytest.raises(CompactFFError, match="600K/1bar"):
        make_config(DistillConfig, {"structures": "a.xyz", "sampling": {"steps": [step]}})


def test_a_start_that_cannot_be_is_refused_before_labels_and_raw_material_is_not(config, tmp_path):
    """Also where no structures are given; elements count of what is labelled, not of what it is made from."""
    pairs = {"kind": "dimers", "elements": ["Au", "Cu"], "count": 40}
    start = {"start_from": "organic-ultra-tiny", "size": "ultra-tiny"}
    with pytest.raises(CompactFFError, match="asked for are Cu, Au, too"):
        label(config(None, sampling={"steps": [pairs]}, **start), tmp_path / "pairs")
    with pytest.raises(CompactFFError, match="size is tiny, but organic-ultra-tiny has ultra-tiny"):
        label(config(None, sampling={"steps": [pairs]}, **{**start, "size": "tiny"}), tmp_path / "size")
    copper = molecule("CH3Cl")
    copper.numbers[copper.numbers == 17] = 29
    steps = [
        {"kind": "substitution", "name": "oxygen", "replace": {"Cu": "O"}, "count": 1, "frames": 0},
        {"kind": "rattle", "frames": 24, "of": ["oxygen"]},
        {"kind": "md", "frames": 3, "of": ["oxygen"], "purpose": "test", "spacing_steps": 1},
    ]
    given = config([copper], sampling={"steps": steps, "relax_steps": 0}, **start)
    assert label(given, tmp_path / "made").counts["frames"]["train"] > 10


def test_a_finished_run_takes_no_other_checks(config, tmp_path):
    """Also where somebody has removed its checkpoint."""
    frames = rattled(30)
    distill(config(frames), tmp_path / "out")
    (tmp_path / "out" / "checkpoint.pt").unlink()
    with pytest.raises(CompactFFError, match=r"already holds another run: checks\.duplicates"):
        distill(config(frames, checks={"duplicates": "keep"}), tmp_path / "out")
