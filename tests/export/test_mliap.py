import pickletools
import zipfile

import pytest
import torch

from compactff_md import load
from compactff_md.artifact import describe, save_student, student_from_bytes
from compactff_md.errors import CompactFFError
from compactff_md.export import FORMATS, export_student
from export_builders import student


@pytest.fixture
def network():
    return student()


def test_the_file_holds_the_name_of_a_class_and_the_students_file(network, tmp_path):
    path = export_student(network, describe(network), tmp_path / "s.mliap.pt", format="mliap")
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    codes = pickletools.genops(pickled)
    globals_ = {arg for code, arg, _ in codes if code.name in ("GLOBAL", "STACK_GLOBAL")}
    assert "compactff_md.mliap.adapter MLIAPStudent" in globals_
    assert not any("torch" in str(name) for name in globals_)
    made = torch.load(path, weights_only=False)
    again, _ = student_from_bytes(made.content, "it")
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_students_export_themselves(network, tmp_path):
    save_student(tmp_path / "student.safetensors", network, describe(network))
    path = load(tmp_path).export(tmp_path / "s.pt", format="mliap", dtype="float64")
    made = torch.load(path, weights_only=False)
    assert made.dtype == "float64" and made.network.dtype_like().dtype == torch.float64
    assert "mliap" in FORMATS


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("s.mliap", {}, r"end in \.pt or \.pth; expected a name such as s\.mliap\.pt"),
        ("s.pt", {"dtype": "float16"}, "allowed are float32, float64"),
    ],
)
def test_what_lammps_would_not_read_is_not_written(network, tmp_path, name, options, words):
    with pytest.raises(CompactFFError, match=words):
        export_student(network, describe(network), tmp_path / name, format="mliap", **options)
    assert not list(tmp_path.iterdir())


def test_an_old_file_stays_when_writing_fails(network, tmp_path):
    path = tmp_path / "s.pt"
    path.write_bytes(b"old")
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(CompactFFError, match="NaN or infinite"):
        export_student(network, describe(network), path, format="mliap")
    assert path.read_bytes() == b"old"


def test_bytes_that_are_no_student_are_refused():
    with pytest.raises(CompactFFError, match="mine is not a student file"):
        student_from_bytes(b"not one at all", "mine")
