"""What is wrong with the input is said in one message with code 2, and nothing that looks whole is left."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read, write

from compactff_md.cli.distill import resolve

DATA = Path(__file__).resolve().parents[1] / "data"
EMT = "ase.calculators.emt:EMT"
TRAIN = ("train", "--train", DATA / "ethanol_train.xyz", "--size", "ultra-tiny", "--set", "steps=2")
FEW = ("--temperature", 300, "--set", "sampling.test_frames=2", "--set", "sampling.equilibration_steps=1")
DISTILL = ("distill", "--teacher", EMT, "--size", "ultra-tiny", "--set", "steps=2", "--frames", 24)


def assert_nothing_whole(out: Path) -> None:
    """No file that a user or a program could take for the result."""
    left = {path.name for path in out.rglob("*")} if out.is_dir() else set()
    whole = {"student.safetensors", "metrics.json", "report.png", "trajectory.xtc", "log.csv", "restart.xml"}
    assert not left & whole


class TestStructures:
    def test_distill(self, refused, bad_structure, tmp_path):
        path, words = bad_structure
        refused(*DISTILL, path, "--out", tmp_path / "out", words=words)
        assert not (tmp_path / "out").exists()

    def test_export(self, refused, bad_structure, tmp_path, student_file):
        path, words = bad_structure
        refused("export", student_file, "--structure", path, "--out", tmp_path / "s.pt", words=words)
        assert not (tmp_path / "s.pt").exists()

    def test_md(self, refused, bad_structure, tmp_path, student_file):
        pytest.importorskip("openmm")
        path, words = bad_structure
        out = tmp_path / "out"
        refused(
            "md",
            path,
            "--student",
            student_file,
            "--steps",
            5,
            "--force",
            "python",
            "--out",
            out,
            words=words,
        )
        assert_nothing_whole(out)

    def test_train(self, refused, bad_structure, tmp_path):
        path, words = bad_structure
        labelled = path.with_suffix(".labelled.xyz")
        if path.name in ("nan.xyz", "overlap.xyz", "nm.xyz", "singular.xyz", "left.xyz"):
            atoms = read(path)
            atoms.info["REF_energy"] = -20.0
            atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3))
            write(labelled, [atoms, atoms], format="extxyz")
            path = labelled
        refused(
            "train", "--train", path, "--out", tmp_path / "out", words=[w for w in words if w != path.name]
        )
        assert_nothing_whole(tmp_path / "out")


class TestElements:
    def test_teacher(self, refused, tmp_path, water, monkeypatch):
        code = "from ase.calculators.emt import EMT\nclass Copper(EMT):\n    type_map = {29: 0}\n"
        (tmp_path / "copper_teacher.py").write_text(code)
        monkeypatch.chdir(tmp_path)
        args = ("distill", water, "--teacher", "copper_teacher:Copper", "--out", tmp_path / "out")
        refused(
            *args, words=["copper_teacher:Copper does not know H, O; it knows Cu", "water.xyz structure 0"]
        )
        assert not (tmp_path / "out").exists()

    def test_beyond_radon(self, refused, tmp_path, water):
        water.write_text(water.read_text().replace("O ", "U ", 1))
        refused(*DISTILL, water, "--out", tmp_path / "out", words=["atomic numbers [92]", "1 to 86"])

    def test_student_in_md(self, refused, tmp_path, student_file, copper):
        pytest.importorskip("openmm")
        args = ("md", copper, "--student", student_file, "--steps", 5, "--force", "python")
        refused(*args, "--out", tmp_path / "out", words=["does not know Cu", "it knows H, C, O"])
        assert_nothing_whole(tmp_path / "out")

    def test_constraints_in_md(self, refused, tmp_path, student_file):
        pytest.importorskip("openmm")
        atoms = molecule("H2O", vacuum=4.0, pbc=True)
        atoms.set_constraint(FixAtoms([0]))
        atoms.write(tmp_path / "POSCAR", format="vasp")
        args = ("md", tmp_path / "POSCAR", "--student", student_file, "--steps", 5, "--force", "python")
        refused(*args, "--out", tmp_path / "out", words=["constraints (FixAtoms)", "out of the file"])
        assert_nothing_whole(tmp_path / "out")

    def test_student_in_export(self, refused, tmp_path, student_file, copper):
        args = ("export", student_file, "--structure", copper, "--out", tmp_path / "s.pt")
        refused(*args, words=["does not know Cu"])
        assert not (tmp_path / "s.pt").exists()

    def test_left_out_of_the_training(self, refused, tmp_path):
        args = (*TRAIN, "--set", "elements=[H, C]", "--out", tmp_path / "out")
        refused(*args, words=["elements are H, C", "hold O"])


def labelled(tmp_path, change) -> Path:
    """The ethanol frames after ``change(frames)``; labels under MACE's names."""
    frames = []
    for frame in read(DATA / "ethanol_train.xyz", ":"):
        new = frame.copy()
        new.info = {"REF_energy": frame.get_potential_energy()}
        new.arrays["REF_forces"] = frame.get_forces()
        new.pbc = False
        frames.append(new)
    change(frames)
    write(tmp_path / "labelled.xyz", frames, format="extxyz")
    return tmp_path / "labelled.xyz"


def _no_energy(frames):
    for frame in frames:
        del frame.info["REF_energy"]


def _one_without_forces(frames):
    del frames[3].arrays["REF_forces"]


def _flat_forces(frames):
    for frame in frames:
        frame.arrays["REF_forces"] = frame.arrays["REF_forces"][:, :2]


def _hartree(frames):
    for frame in frames:
        frame.info["REF_energy"] /= 27.211386


def _nan_energy(frames):
    frames[2].info["REF_energy"] = float("nan")


def _duplicate(frames):
    frames[5] = frames[4]


def _absurd_force(frames):
    frames[1].arrays["REF_forces"][0] = 1e4


def _nanometres(frames):
    for frame in frames:
        frame.positions /= 10.0


class TestLabels:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (_no_energy, ["no frame has energy", "it has REF_forces"]),
            (_one_without_forces, ["frame 3", "no forces"]),
            (_flat_forces, ["frame 0", "shape (9, 2)", "expected numbers of shape (9, 3)"]),
            (_hartree, ["Hartree", "27.2114"]),
            (_nan_energy, ["frame 2", "energy is NaN"]),
            (_duplicate, ["frame 5", "same structure as", "frame 4"]),
            (_absurd_force, ["frame 1", "force on atom 0", "eV/A"]),
            (_nanometres, ["look like nm"]),
        ],
    )
    def test_wrong_labels(self, refused, tmp_path, change, words):
        args = ("train", "--train", labelled(tmp_path, change), "--size", "ultra-tiny")
        refused(*args, "--out", tmp_path / "out", words=words)
        assert_nothing_whole(tmp_path / "out")

    def test_unknown_key(self, refused, tmp_path):
        path = labelled(tmp_path, lambda frames: None)
        args = ("train", "--train", path, "--energy-key", "E0", "--out", tmp_path / "out")
        refused(*args, words=["no frame has energy under E0", "REF_energy"])

    def test_validation_among_the_training(self, refused, tmp_path):
        args = (*TRAIN, "--valid", DATA / "ethanol_train.xyz", "--out", tmp_path / "out")
        refused(*args, words=["same structure as", "training"])


class TestNames:
    def test_teacher(self, refused, tmp_path, water):
        args = ("distill", water, "--teacher", "gfn3", "--out", tmp_path / "out")
        refused(*args, words=["unknown teacher 'gfn3'", "gfn2-xtb", "module:callable"])
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("command", ["train", "distill"])
    def test_size(self, refused, tmp_path, water, command):
        source = ("--train", DATA / "ethanol_train.xyz") if command == "train" else (water,)
        args = (command, *source, "--size", "huge", "--out", tmp_path / "out")
        refused(*args, words=["size is 'huge'", "original, tiny, ultra-tiny"])

    def test_format(self, refused, tmp_path, student_file):
        args = ("export", student_file, "--format", "onnx", "--out", tmp_path / "s.pt")
        refused(*args, words=["'onnx'", "allowed are torchscript"])

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--ensemble", "nph"), ["ensemble is 'nph'", "'nve', 'nvt' or 'npt'"]),
            (("--force", "magic"), ["force is 'magic'", "torchforce"]),
            (("--platform", "Abacus"), ["Abacus", "Reference"]),
            (("--time", "10 parsecs"), ["--time is '10 parsecs'", "10ps"]),
            (("--steps", 10), ["steps or time_ps, and not both"]),
            (("--pressure", 1), ["pressure_bar is for npt only"]),
            (("--timestep", -1), ["timestep_fs is -1"]),
            (("--set", "colour=red"), ["unknown setting 'colour'", "friction_per_ps"]),
            (("--set", "colour"), ["--set 'colour'", "NAME=VALUE"]),
        ],
    )
    def test_md(self, refused, tmp_path, student_file, water, options, words):
        pytest.importorskip("openmm")
        length = () if "--time" in options else ("--time", "1fs")
        args = ("md", water, "--student", student_file, "--force", "python", *length, *options)
        refused(*args, "--out", tmp_path / "out", words=words)
        assert_nothing_whole(tmp_path / "out")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--set", "colour=red"), ["no field 'colour'", "learning_rate"]),
            (("--set", "loss=cubic"), ["loss is 'cubic'", "'huber' or 'squared'"]),
            (("--minutes", "-1"), ["minutes is -1", "greater than 0"]),
            (("--device", "abacus"), ["abacus"]),
            (("--recipe", "nothing.yaml"), ["no such recipe: nothing.yaml"]),
        ],
    )
    def test_train(self, refused, tmp_path, options, words):
        refused(*TRAIN, *options, "--out", tmp_path / "out", words=words)
        assert_nothing_whole(tmp_path / "out")

    def test_recipes(self, refused, tmp_path):
        for name, content, word in (
            ("a.txt", "size: tiny", ".yaml, .yml or .toml"),
            ("a.yaml", "size: [", "cannot be read"),
            ("b.yaml", "- tiny", "expected fields"),
            ("a.toml", "colour = 1", "no field 'colour'"),
        ):
            (tmp_path / name).write_text(content)
            refused(*TRAIN, "--recipe", tmp_path / name, "--out", tmp_path / "out", words=[word, name])

    def test_a_field_is_given_as_a_whole_or_in_parts(self, refused, tmp_path):
        for pair in (("sampling=3", "sampling.frames=10"), ("sampling.frames=10", "sampling=3")):
            options = [word for text in pair for word in ("--set", text)]
            refused(
                "distill",
                "x.xyz",
                *options,
                "--out",
                tmp_path / "out",
                words=["sampling and sampling.frames"],
            )

    def test_a_recipe_that_was_moved_finds_its_structures_beside_it(self, tmp_path, monkeypatch):
        recipe = DATA.parents[1] / "training" / "recipes" / "argyrodite.yaml"
        monkeypatch.chdir(tmp_path)
        assert Path(resolve(recipe, {}).structures).is_file()
        assert resolve(recipe, {"structures": "own.xyz"}).structures == "own.xyz"

    def test_compare_names_what_is_no_report(self, refused, tmp_path):
        (tmp_path / "a").mkdir()
        words = ["holds no report.json", "--teacher and --structures"]
        refused("compare", tmp_path / "a", tmp_path / "a", "--out", tmp_path / "out", words=words)
        assert not (tmp_path / "out").exists()

    def test_distill_needs_structures(self, refused, tmp_path):
        refused("distill", "--out", tmp_path / "out", words=["structures", "missing"])


class TestStudents:
    @pytest.mark.parametrize("command", ["info", "export", "md"])
    def test_no_student(self, refused, tmp_path, water, command):
        args = {
            "info": ("info", tmp_path / "none"),
            "export": ("export", tmp_path / "none", "--out", tmp_path / "s.pt"),
            "md": ("md", water, "--student", tmp_path / "none", "--steps", 1, "--out", tmp_path / "out"),
        }[command]
        refused(*args, words=["there is no such file", "compactff distill"])

    def test_truncated(self, refused, tmp_path, student_file):
        (tmp_path / "cut").write_bytes(student_file.read_bytes()[:-100])
        refused("info", tmp_path / "cut", words=["truncated"])

    def test_foreign(self, refused, tmp_path, water):
        refused("info", water, words=["is not a student file"])
        refused("info", tmp_path, words=["holds no student.safetensors"])


class TestFolders:
    def test_another_training(self, run, refused, tmp_path):
        out = tmp_path / "out"
        assert run(*TRAIN, "--out", out).exit_code == 0
        before = (out / "student.safetensors").read_bytes()
        refused(
            *TRAIN, "--seed", 7, "--out", out, words=["already holds another run", "seed is 0 there and 7"]
        )
        assert (out / "student.safetensors").read_bytes() == before

    def test_another_simulation(self, run, refused, tmp_path, water, student_file):
        pytest.importorskip("openmm")
        args = ("md", water, "--student", student_file, "--force", "python", "--out", tmp_path / "out")
        assert run(*args, "--steps", 2).exit_code == 0
        refused(*args, "--steps", 3, words=["already holds a run"])
        refused(*args, "--steps", 3, "--resume", "--temperature", 10, words=["differs in temperature_K"])
        assert run(*args, "--steps", 3, "--resume").exit_code == 0

    def test_folder_of_something_else(self, refused, tmp_path, water):
        refused(*DISTILL, water, "--out", tmp_path, words=["is not empty and holds no run"])
        refused(*DISTILL, water, "--out", water, words=["is a file"])

    def test_export_onto_a_folder(self, refused, tmp_path, student_file):
        refused("export", student_file, "--out", tmp_path, words=["is a folder"])
        refused("export", student_file, "--out", tmp_path / "no" / "s.pt", words=["does not exist"])

    @pytest.mark.parametrize("format", ["torchscript", "mliap"])
    def test_export_onto_the_student(self, refused, tmp_path, student_file, format):
        own = tmp_path / "student.safetensors"
        own.write_bytes(student_file.read_bytes())
        for name in (own, tmp_path):
            refused("export", name, "--format", format, "--out", own, words=["is the student itself"])
        assert own.read_bytes() == student_file.read_bytes()

    def test_nothing_to_resume(self, refused, tmp_path, water, student_file):
        pytest.importorskip("openmm")
        args = ("md", water, "--student", student_file, "--force", "python", "--steps", 2, "--resume")
        refused(*args, "--out", tmp_path / "out", words=["no run to resume"])


def no_space(handle):
    """In place of ``os.fsync``: no file reaches the disk any more."""
    raise OSError(errno.ENOSPC, "No space left on device")


class TestFullDisk:
    def test_export(self, refused, tmp_path, student_file, monkeypatch):
        (tmp_path / "s.pt").write_text("old")
        monkeypatch.setattr(os, "fsync", no_space)
        refused("export", student_file, "--out", tmp_path / "s.pt", words=["no space left", "s.pt"])
        assert (tmp_path / "s.pt").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["s.pt"]

    def test_train(self, refused, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "fsync", no_space)
        refused(*TRAIN, "--out", tmp_path / "out", words=["no space left"])
        assert_nothing_whole(tmp_path / "out")

    def test_distill_and_again_with_space(self, run, refused, tmp_path, copper, monkeypatch):
        args = (*DISTILL, copper, *FEW, "--out", tmp_path / "out")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_space)
            refused(*args, words=["no space left"])
        assert_nothing_whole(tmp_path / "out")
        result = run(*args)
        assert result.exit_code == 0, result.output
        assert (tmp_path / "out" / "student.safetensors").is_file()
