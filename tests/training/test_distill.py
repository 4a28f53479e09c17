import json
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from builders import assert_same
from compactff_md.artifact import load_student
from compactff_md.errors import CompactFFError
from compactff_md.training.config import DistillConfig
from compactff_md.training.distill import distill, label, train_from_files
from compactff_md.training.progress import Reporter
from compactff_md.training.recipe_files import make_config, read_config
from reporters import Notes

FILES = ["metrics.json", "recipe.yaml", "report.png", "student.safetensors"]


class KilledError(Exception):
    pass


class KillIn(Reporter):
    """Stops the run at the n-th sign of life of a stage."""

    def __init__(self, stage: str, signs: int) -> None:
        self.wanted, self.signs, self.stage = stage, signs, ""

    def start(self, stage: str, total: float) -> None:
        self.stage = stage

    def update(self, done: float, **numbers: float) -> None:
        if self.stage == self.wanted:
            self.signs -= 1
            if self.signs == 0:
                raise KilledError


@pytest.fixture
def config(tmp_path):
    write(tmp_path / "methanol.xyz", molecule("CH3OH"))

    def make(**fields) -> DistillConfig:
        sampling = {
            "frames": 60,
            "test_frames": 5,
            "equilibration_steps": 10,
            "relax_steps": 10,
            "trajectories": 1,
            "n_workers": 1,
            **fields.pop("sampling", {}),
        }
        values = {
            "structures": str(tmp_path / "methanol.xyz"),
            "steps": 40,
            "threads": 1,
            "sampling": sampling,
        }
        return make_config(DistillConfig, {**values, **fields})

    return make


def test_from_a_structure_to_a_student(config, tmp_path):
    result = distill(config(steps=150), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        *FILES,
        *("train.xyz", "valid.xyz", "test_300K.xyz", "test_600K.xyz", "checkpoint.pt", "labels.json"),
    }
    network, metadata = load_student(result.student)
    assert metadata.teacher["name"] == "gfn2-xtb"
    assert metadata.size == "ultra-tiny"
    assert metadata.data["train"] == len(read(tmp_path / "out" / "train.xyz", ":")) == 57
    assert metadata.metrics["test_300K"]["frames"] == 5
    told = metadata.metrics["test_600K"]["uncertainty"]
    assert told["atoms"] == 5 * 6 and {"spearman", "roc_auc", "calibration"} <= told.keys()
    assert network.elements == ["H", "C", "O"]
    metrics = json.loads(result.metrics_file.read_text())
    assert metrics["labels"]["frames"] == {"test_300K": 5, "test_600K": 5, "train": 57, "valid": 3}
    assert metrics["errors"]["test_600K"]["forces"]["r2"] > 0.8
    assert metrics["errors"]["test_all"]["frames"] == sum(
        metrics["errors"][f"test_{t}K"]["frames"] for t in (300, 600)
    )
    assert metrics["labels"]["failures"] == 0
    assert metrics["labels"]["driver"] == "student:organic-ultra-tiny"
    # One a frame, some to choose what moves the atoms, and the dynamics of the tests.
    assert 60 < metrics["labels"]["calls"] <= 60 + 12 + 2 * (1 + 10 + 5 * 10)
    assert read_config(DistillConfig, result.recipe).sampling.frames == 60


def test_a_run_killed_in_every_stage_ends_as_an_uninterrupted_one(config, tmp_path):
    settings = config(sampling={"shard_seconds": 0}, checkpoint_seconds=0)
    whole = distill(settings, tmp_path / "whole")
    for stage, signs in (("relaxing structures", 1), ("labelling", 30), ("training", 10)):
        with pytest.raises(KilledError):
            distill(settings, tmp_path / "parts", KillIn(stage, signs))
    parts = distill(settings, tmp_path / "parts")
    assert parts.metrics["training"]["steps"] == 40
    one, two = (r.metrics["errors"]["test_600K"]["forces"]["rmse_meV_per_A"] for r in (whole, parts))
    assert one == pytest.approx(two, rel=1e-3)


MACE_LIKE = """
import torch
from tblite.ase import TBLite
def make():
    torch.set_default_dtype(torch.float64)
    return TBLite(method="GFN2-xTB", verbosity=0)
"""


def test_a_teacher_that_makes_float64_pytorchs_default(config, tmp_path, monkeypatch):
    (tmp_path / "mace_like.py").write_text(MACE_LIKE)
    monkeypatch.chdir(tmp_path)
    short = {"steps": 20, "sampling": {"frames": 30, "test_frames": 2}}
    try:
        result = distill(config(teacher="mace_like:make", **short), tmp_path / "out")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.metrics["labels"]["driver"] == "student:organic-ultra-tiny"
    network, metadata = load_student(result.student)
    assert metadata.dtype == "float32" and network.bounded
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    gfn2 = distill(config(**short), tmp_path / "gfn2")
    for one, two in zip(network.parameters(), load_student(gfn2.student)[0].parameters(), strict=True):
        assert_same(one.detach(), two.detach())


def test_a_finished_run_is_left_alone(config, tmp_path):
    first = distill(config(), tmp_path / "out")
    before = first.student.read_bytes()
    notes = Notes()
    again = distill(config(), tmp_path / "out", notes)
    assert again.already_finished and not first.already_finished
    assert again.metrics["training"] == json.loads(json.dumps(first.metrics["training"]))
    assert first.student.read_bytes() == before
    assert "finished; nothing to do" in notes.notes[0]
    with pytest.raises(CompactFFError, match="already holds another run: seed is 0 there and 1 now"):
        distill(config(seed=1), tmp_path / "out")


def test_labels_serve_another_size(config, tmp_path):
    first = distill(config(), tmp_path / "one")
    other = config(size="tiny", labels_from=str(tmp_path / "one"))
    second = distill(other, tmp_path / "two")
    assert not (tmp_path / "two" / "labels").exists()
    one, two = (load_student(r.student)[1] for r in (first, second))
    assert one.data == two.data and two.size == "tiny" and two.teacher["name"] == "gfn2-xtb"
    with pytest.raises(CompactFFError, match=r"sampling\.frames is 60 there and 50 now"):
        distill(
            config(labels_from=str(tmp_path / "one"), sampling={"frames": 50}),
            tmp_path / "three",
        )
    (tmp_path / "one" / "labels.json").unlink()
    with pytest.raises(CompactFFError, match=r"no complete labels: there is no labels\.json"):
        distill(other, tmp_path / "four")
    with pytest.raises(CompactFFError, match="holds no run; expected the out folder of one"):
        distill(config(labels_from=str(tmp_path / "nowhere")), tmp_path / "five")


def test_a_time_limit_covers_labelling_and_training(config, tmp_path):
    limit_s = 12.0  # enough for some frames where other work takes most of the machine
    result = distill(config(minutes=limit_s / 60, steps=None, sampling={"frames": 50_000}), tmp_path / "out")
    labels, training = result.metrics["labels"], result.metrics["training"]
    assert labels["frames"]["train"] < 40_000
    assert labels["seconds"] + training["seconds"] < 3 * limit_s
    assert result.metrics["history"][-1]["learning_rate"] == pytest.approx(0, abs=1e-9)


def test_given_structures_are_the_only_ones(config, tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(30):
        atoms = molecule("CH3OH")
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        frames.append(atoms)
    write(tmp_path / "methanol.xyz", frames)
    result = distill(config(sampling={"mode": "given", "frames": 30}), tmp_path / "out")
    assert result.metrics["labels"]["frames"] == {"test": 3, "train": 26, "valid": 1}
    assert result.metrics["labels"]["calls"] == 30


@pytest.fixture
def quick(config, tmp_path):
    """Settings of a distillation of a second: EMT labels thirty structures that are given."""
    frames = [molecule("CH3OH") for _ in range(30)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
    write(tmp_path / "methanol.xyz", frames)

    def make(**fields) -> DistillConfig:
        values = {"teacher": "ase.calculators.emt:EMT", "sampling": {"mode": "given", "frames": None}}
        return config(**{**values, **fields})

    return make


def test_isolated_energies_may_be_added_until_the_training_begins(quick, tmp_path):
    alone = {"H": 3.21, "C": 3.5, "O": 4.6}

    def written(name: str, energies: dict[str, float]) -> str:
        atoms = [Atoms(symbol, info={"energy": energy}) for symbol, energy in energies.items()]
        write(tmp_path / name, atoms)
        return str(tmp_path / name)

    label(quick(), tmp_path / "out")
    added = quick(isolated_energies_eV=written("alone.xyz", alone), checkpoint_seconds=0)
    with pytest.raises(KilledError):
        distill(added, tmp_path / "out", KillIn("training", 2))
    for other in (written("other.xyz", {**alone, "H": 3.0}), None):
        with pytest.raises(CompactFFError, match=r"isolated_energies_checksum is '"):
            distill(quick(isolated_energies_eV=other), tmp_path / "out")
    with pytest.raises(KilledError):
        distill(added, tmp_path / "out", KillIn("training", 1))


def test_single_atoms_are_refused_before_a_label_is_paid_for(quick, tmp_path):
    settings = quick()
    structures = read(settings.structures, ":")
    write(settings.structures, [*structures, Atoms("O")])
    moving = quick(sampling={"frames": 60, "driver": "teacher"})
    for number, asked in enumerate((settings, moving)):
        with pytest.raises(CompactFFError, match=r"structure 30 is a single atom.*isolated_energies_eV"):
            label(asked, tmp_path / str(number))
        assert not (tmp_path / str(number)).exists()
    write(settings.structures, [*structures, Atoms("O", cell=[5.0, 5.0, 5.0], pbc=True)])
    assert sum(label(settings, tmp_path / "cell").counts["frames"].values()) == 31


def test_structures_that_cannot_be_labelled_are_refused(config, tmp_path):
    atoms = molecule("CH3OH")
    atoms.positions[1] = atoms.positions[0]
    write(tmp_path / "methanol.xyz", atoms)
    with pytest.raises(CompactFFError, match=r"methanol.xyz structure 0: atoms 0 and 1 overlap"):
        distill(config(), tmp_path / "out")
    atoms = molecule("CH3OH")
    atoms.numbers[0] = 92
    write(tmp_path / "methanol.xyz", atoms)
    with pytest.raises(CompactFFError, match=r"atomic numbers \[92\]; allowed are 1 to 86"):
        distill(config(), tmp_path / "out")
    with pytest.raises(CompactFFError, match="unknown teacher 'gfn3'"):
        distill(config(teacher="gfn3"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_train_from_files(ethanol_files, quick_config, tmp_path):
    files = [ethanol_files["train"], ethanol_files["isolated_atoms"]]
    arguments = {"valid": None, "tests": {"test": ethanol_files["test"]}}
    result = train_from_files(quick_config(), files, tmp_path / "out", **arguments)
    network, metadata = load_student(result.student)
    assert network.anchored and metadata.teacher is None
    assert metadata.data["keys"] == {"energy": "energy", "forces": "forces"}
    assert set(result.metrics["errors"]) == {"valid", "test"}
    assert result.metrics["errors"]["test"]["frames"] == 20
    again = train_from_files(quick_config(), files, tmp_path / "out", **arguments)
    assert again.already_finished
    with pytest.raises(CompactFFError, match=r"already holds another run.*train_sha256 is "):
        train_from_files(quick_config(), files[:1], tmp_path / "out", **arguments)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_test_is_not_called_as_the_training(ethanol_files, quick_config, tmp_path, name):
    """Their checksums would take each other's place."""
    with pytest.raises(CompactFFError, match=f"a test is called {name}"):
        train_from_files(
            quick_config(), [ethanol_files["train"]], tmp_path, tests={name: ethanol_files["test"]}
        )


def test_a_test_frame_among_the_training_frames_is_refused(ethanol_files, quick_config, tmp_path):
    with pytest.raises(CompactFFError, match="meant for the test, is the same structure"):
        train_from_files(
            quick_config(), [ethanol_files["train"]], tmp_path / "out", tests={"t": ethanol_files["train"]}
        )


def test_labels_alone_are_what_a_distillation_then_trains_on(config, tmp_path):
    labels = label(config(), tmp_path / "out")
    assert labels.counts["frames"]["train"] == len(read(labels.train, ":")) > 40
    assert not (tmp_path / "out" / "student.safetensors").exists()
    before = labels.train.read_bytes()
    result = distill(config(), tmp_path / "out")
    assert result.student.is_file() and not result.already_finished
    assert labels.train.read_bytes() == before
    assert label(config(), tmp_path / "out").counts == labels.counts
    with pytest.raises(CompactFFError, match="there is nothing to label: labels_from is"):
        label(config(labels_from=str(tmp_path / "out")), tmp_path / "other")


def test_complete_labels_are_trained_on_without_their_teacher(quick, tmp_path, monkeypatch):
    """Or with another version of it, which would label otherwise, but is not asked."""
    module = tmp_path / "lent_teacher.py"
    module.write_text("from ase.calculators.emt import EMT\n")
    monkeypatch.chdir(tmp_path)
    settings = quick(teacher="lent_teacher:EMT", steps=2)
    label(settings, tmp_path / "out")
    version = json.loads((tmp_path / "out" / "run.json").read_text())["identity"]["teacher_version"]
    module.unlink()
    sys.modules.pop("lent_teacher")
    student = load_student(distill(settings, tmp_path / "out").student)[1]
    assert student.teacher == {"name": "lent_teacher:EMT", "version": version, "settings": {}}
    assert distill(settings, tmp_path / "out").already_finished
    with pytest.raises(CompactFFError, match="another run: teacher is 'lent_teacher:EMT' there"):
        distill(quick(teacher="other_teacher:EMT", steps=2), tmp_path / "out")
    rounds = quick(teacher="lent_teacher:EMT", steps=2, rounds={"most": 1})
    for asking, folder in ((settings, "another"), (rounds, "out")):
        with pytest.raises(CompactFFError, match="teacher 'lent_teacher:EMT' cannot be made"):
            distill(asking, tmp_path / folder)


def test_pairs_of_atoms_are_labelled_from_nothing(tmp_path):
    dimers = {"kind": "dimers", "elements": ["H", "O"], "count": 30, "closeness": [0.9, 1.1]}
    values = {"teacher": "ase.calculators.emt:EMT", "sampling": {"steps": [dimers], "n_workers": 1}}
    labels = label(make_config(DistillConfig, values), tmp_path / "out")
    assert not labels.tests
    found = {frame.get_chemical_formula() for frame in read(labels.train, ":")}
    assert found == {"H2", "HO", "O2"}
