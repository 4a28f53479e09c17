import json
import subprocess
import sys
import zipfile

import ase.build
import numpy as np
import pytest
import torch

from builders import PERIODIC, random_structure
from compactff_md import students
from compactff_md.artifact import describe
from compactff_md.errors import CompactFFError
from compactff_md.export import (
    FORMATS,
    check,
    export_student,
    read_export_metadata,
    scripted_module,
    torchscript,
)
from compactff_md.neighbours import pair_list
from compactff_md.units import EV_PER_A_TO_KJ_PER_MOL_PER_NM, EV_TO_KJ_PER_MOL
from export_builders import ELEMENTS, STRUCTURES, assert_same, expected, student


@pytest.fixture(scope="module", params=["moments", "painn"])
def network(request):
    return student(request.param)


PLAIN = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("compactff_md", "ase", "vesin"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
torch.set_num_threads(1)
path, data = sys.argv[1], json.load(sys.stdin)
extra = {"compactff_md.json": ""}
module = torch.jit.load(path, _extra_files=extra)
results = []
for positions, numbers, cell, pbc in data:
    cell = torch.tensor(cell, dtype=torch.float64)
    positions = torch.tensor(positions, dtype=torch.float64)
    got = module.evaluate(positions, torch.tensor(numbers), cell, torch.tensor(pbc))
    results.append([t.tolist() for t in got])
positions, numbers, cell, pbc = data[0]
energy, forces = module(torch.tensor(positions, dtype=torch.float64) / 10)
assert "compactff_md" not in sys.modules
print(json.dumps([results, float(energy), forces.tolist(), json.loads(extra["compactff_md.json"])]))
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_file_runs_in_plain_torch(tmp_path, network, dtype):
    first = STRUCTURES["molecule"]
    path = export_student(
        network, describe(network), tmp_path / "student.pt", dtype=dtype, numbers=first.numbers, pbc=False
    )
    data = [[x.tolist() for x in (s.positions_A, s.numbers, s.cell_A, s.pbc)] for s in STRUCTURES.values()]
    run = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(path)],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    results, energy, forces, metadata = json.loads(run.stdout)
    for structure, got in zip(STRUCTURES.values(), results, strict=True):
        assert_same(
            [torch.tensor(x, dtype=torch.float64) for x in got], expected(network, structure), energy=2e-5
        )
    want = expected(network, first)
    assert energy / EV_TO_KJ_PER_MOL == pytest.approx(float(want[0].sum()), abs=2e-5)
    got = torch.tensor(forces) / EV_PER_A_TO_KJ_PER_MOL_PER_NM
    torch.testing.assert_close(got, want[1], atol=1e-4, rtol=0)
    assert metadata["export"]["dtype"] == dtype and metadata["elements"] == ELEMENTS


def test_metadata_can_be_read_without_running_the_file(tmp_path, monkeypatch):
    network = student()
    metadata = describe(network, size="ultra-tiny", teacher={"name": "gfn2-xtb"})
    path = export_student(network, metadata, tmp_path / "s.pt", numbers=[8, 1, 1], pbc=True, skin_A=0.3)
    monkeypatch.setattr(torch.jit, "load", None)
    read = read_export_metadata(path)
    export = read.pop("export")
    assert read == json.loads(metadata.model_dump_json())
    assert (export["numbers"], export["pbc"], export["particles"]) == ([8, 1, 1], [True] * 3, None)
    assert (export["skin_A"], export["dtype"], export["format"]) == (0.3, "float32", "torchscript")
    assert set(export["units"]) == {"forward", "evaluate"} and "torch" in export["versions"]


def test_metadata_of_foreign_damaged_and_newer_files(tmp_path):
    network = student()
    path = export_student(network, describe(network), tmp_path / "s.pt")
    whole = path.read_bytes()
    content = read_export_metadata(path)
    with pytest.raises(CompactFFError, match="no such file"):
        read_export_metadata(tmp_path / "other.pt")
    for raw in (b"", whole[: len(whole) // 2], b"some text"):
        path.write_bytes(raw)
        with pytest.raises(CompactFFError, match="damaged or not a TorchScript file"):
            read_export_metadata(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(path))
    with pytest.raises(CompactFFError, match="damaged or not a TorchScript file"):
        read_export_metadata(path)
    content["export"]["export_version"] = 99
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/extra/compactff_md.json", json.dumps(content))
    with pytest.raises(CompactFFError, match="reads up to 1; install a newer"):
        read_export_metadata(path)


def test_checked_on_given_structures(tmp_path):
    network = student()
    atoms = ase.build.molecule("CH3CH2OH")
    structures = [atoms, STRUCTURES["triclinic"]]
    assert export_student(
        network, describe(network), tmp_path / "s.pt", check_structures=structures
    ).is_file()
    with pytest.raises(CompactFFError, match="does not know S"):
        export_student(network, describe(network), tmp_path / "t.pt", check_structures=[ase.Atoms("S")])
    assert [p.name for p in tmp_path.iterdir()] == ["s.pt"]


@pytest.mark.parametrize("name", ["energy_shift_eV", "radial", "energy_scale_eV"])
def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch, name):
    network = student()
    path = tmp_path / "s.pt"
    path.write_text("old")

    def spoiled(*args, **kwargs):
        module = scripted_module(*args, **kwargs)
        with torch.no_grad():
            getattr(module.student.network, name).mul_(1.001)
        return module

    monkeypatch.setattr(torchscript, "scripted_module", spoiled)
    with pytest.raises(CompactFFError, match=r"differs from the student in .*no file was written"):
        export_student(network, describe(network), path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, error):
    network = student()
    path = tmp_path / "s.pt"
    path.write_text("old")

    def interrupted(*args):
        raise error

    monkeypatch.setattr(torchscript, "check_export", interrupted)
    with pytest.raises(error):
        export_student(network, describe(network), path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_missing_folder_and_unknown_format(tmp_path):
    network = student()
    with pytest.raises(CompactFFError, match="does not exist"):
        export_student(network, describe(network), tmp_path / "none" / "s.pt")
    with pytest.raises(CompactFFError, match="unknown export format 'onnx'; allowed are torchscript"):
        export_student(network, describe(network), tmp_path / "s.pt", format="onnx")
    assert "torchscript" in FORMATS


def test_large_systems_and_forces_are_held_to_what_float32_resolves(tmp_path):
    network = student(scale=200.0)
    structure = random_structure(9, ELEMENTS, 300, cell_A=np.eye(3) * 15.0, pbc=PERIODIC, closest_A=0.5)
    export_student(network, describe(network), tmp_path / "s.pt", check_structures=[structure])


def test_random_structures_of_the_check_are_realistic():
    network = students.create("ultra-tiny", ["H", "C", "Au"])
    for s in check.random_structures(network, np.random.default_rng(0)):
        assert set(s.numbers.tolist()) <= {1, 6, 79}
        closest_A = pair_list(s, 4.0)[2].min(initial=4.0)
        assert 0.8 < closest_A < 3.5
