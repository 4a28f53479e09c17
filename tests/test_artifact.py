import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from compactff_md import students
from compactff_md.artifact import (
    FORMAT_VERSION,
    KEY,
    PLAIN_VERSION,
    StudentMetadata,
    describe,
    load_student,
    load_uncertainty,
    read_metadata,
    save_student,
)
from compactff_md.engines.ase import StudentCalculator
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.students.uncertainty import Uncertainty


@pytest.fixture(scope="module")
def network():
    net = students.create("ultra-tiny", ["H", "C", "O"], seed=3)
    net.energy_shift_eV.copy_(torch.tensor([-13.6, -1029.123456789012, -2041.8]))
    net.energy_scale_eV.fill_(0.37)
    return net


@pytest.fixture
def saved(tmp_path, network):
    path = tmp_path / "student.safetensors"
    metadata = describe(
        network,
        size="ultra-tiny",
        teacher={"name": "gfn2-xtb", "version": "0.8.0", "settings": {"charge": 0}},
        data={"train": np.int64(100)},
        metrics={"force_rmse_eV_per_A": np.float32(0.03), "r2": float("nan")},
        seed=3,
    )
    save_student(path, network, metadata)
    return path


def rewrite(path, change):
    """Rewrite the header of a student file after ``change(header)``, keeping the tensors."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def change_metadata(**fields):
    def change(header):
        content = json.loads(header["__metadata__"][KEY])
        header["__metadata__"][KEY] = json.dumps({**content, **fields})

    return change


@pytest.mark.parametrize("architecture", list(students.VARIANTS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_is_exact(tmp_path, architecture, dtype):
    net = students.create("ultra-tiny", ["H", "O"], architecture=architecture, cutoff_A=4.5, seed=1)
    net = net.double() if dtype == "float64" else net
    save_student(tmp_path / "s", net, describe(net))
    loaded, metadata = load_student(tmp_path / "s")
    assert not loaded.training
    assert metadata.dtype == dtype
    assert (loaded.architecture, loaded.hyperparameters) == (net.architecture, net.hyperparameters)
    assert (loaded.elements, loaded.cutoff_A) == (["H", "O"], 4.5)
    state = loaded.state_dict()
    for key, value in net.state_dict().items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value), key


def test_energies_of_isolated_atoms_are_kept(tmp_path):
    net = students.create("ultra-tiny", ["H", "O"], seed=1)
    net.energy_shift_eV.copy_(torch.tensor([-13.6, -2041.8]))
    net.anchored = True
    net.eval()
    save_student(tmp_path / "s", net, describe(net))
    loaded, _ = load_student(tmp_path / "s")
    alone = torch.full((2, 1, 3), 1000.0)
    energies = loaded(alone, torch.tensor([[0], [1]]), torch.tensor([0, 1]))
    assert torch.allclose(energies, net.energy_shift_eV, rtol=0, atol=1e-10)


def test_metadata_from_the_file_alone(saved, network):
    metadata = read_metadata(saved)
    assert metadata.format_version == PLAIN_VERSION == 1
    assert metadata.num_parameters == network.num_parameters
    assert metadata.units == {"length": "angstrom", "energy": "eV"}
    assert metadata.teacher["name"] == "gfn2-xtb"
    assert metadata.data == {"train": 100}
    assert metadata.metrics["r2"] is None
    assert set(metadata.versions) == {"python", "compactff_md", "torch", "numpy", "ase"}
    assert metadata.created.endswith("+00:00")


def test_metadata_is_frozen_and_strict(network):
    metadata = describe(network)
    with pytest.raises(ValueError, match="frozen"):
        metadata.size = "tiny"
    with pytest.raises(ValueError, match="typo"):
        describe(network, typo=1)
    assert StudentMetadata(**metadata.model_dump()) == metadata


def test_metadata_of_another_network_is_refused(tmp_path, network):
    other = describe(students.create("ultra-tiny", ["H"]))
    with pytest.raises(CompactFFError, match="differ in"):
        save_student(tmp_path / "s", network, other)
    assert not list(tmp_path.iterdir())


def test_non_finite_weights_are_not_written(tmp_path):
    net = students.create("ultra-tiny", ["H"])
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(CompactFFError, match="NaN"):
        save_student(tmp_path / "s", net, describe(net))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1, -1000])
def test_truncated_file_is_refused(saved, keep):
    raw = saved.read_bytes()
    saved.write_bytes(raw[:keep])
    for read in (read_metadata, load_student):
        with pytest.raises(CompactFFError, match=r"student\.safetensors is (not a student|truncated)"):
            read(saved)


def test_longer_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CompactFFError, match="truncated or damaged"):
        load_student(saved)


def test_flipped_bit_is_noticed(saved):
    raw = bytearray(saved.read_bytes())
    raw[-3] ^= 1
    saved.write_bytes(raw)
    with pytest.raises(CompactFFError, match="checksum"):
        load_student(saved)


def foreign_files(folder):
    (folder / "text").write_text("H 0 0 0\n" * 10)
    (folder / "pickle").write_bytes(pickle.dumps({"weights": list(range(100))}))
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("data.pkl", b"x" * 100)
    (folder / "empty").write_bytes(b"")
    (folder / "zeros").write_bytes(bytes(1000))
    text = b'{"a": [1, 2'
    (folder / "broken-json").write_bytes(struct.pack("<Q", len(text)) + text)
    (folder / "deep").write_bytes(struct.pack("<Q", 200000) + b"{" + b'"a":{' * 40000)
    return sorted(folder.iterdir())


def test_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "other-weights")
    for path in foreign_files(tmp_path):
        with pytest.raises(CompactFFError, match=f"{path.name} is (not a student file|truncated)"):
            load_student(path)
    with pytest.raises(CompactFFError, match="no such student file"):
        load_student(tmp_path / "nothing")
    with pytest.raises(CompactFFError, match="no such student file"):
        load_student(tmp_path)


def test_pickle_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Evil(), tmp_path / "evil")
    with pytest.raises(CompactFFError):
        load_student(tmp_path / "evil")
    assert not (tmp_path / "ran").exists()


def test_newer_format_is_refused(saved):
    rewrite(saved, change_metadata(format_version=FORMAT_VERSION + 1, new_field="x"))
    for read in (read_metadata, load_student):
        with pytest.raises(CompactFFError, match=r"format version 5.*reads up to 4.*install a newer"):
            read(saved)


def test_unknown_field_of_the_same_format_is_ignored(saved):
    rewrite(saved, change_metadata(remark="from a later release"))
    assert load_student(saved)[1].size == "ultra-tiny"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "os.system"}, "unknown architecture 'os.system'; allowed are"),
        ({"hyperparameters": {"depth": 3}}, "do not fit"),
        ({"elements": ["H"]}, "do not fit"),
        ({"elements": ["H", "C", "Xx"]}, "Xx"),
        ({"cutoff_A": "far"}, "cutoff_A"),
        ({"dtype": "float16"}, "float16.*allowed are float32, float64"),
        ({"format_version": "one"}, "cannot be read"),
    ],
)
def test_impossible_metadata_are_refused(saved, fields, message):
    rewrite(saved, change_metadata(**fields))
    with pytest.raises(CompactFFError, match=message):
        load_student(saved)


FIXTURES = sorted((Path(__file__).parent / "data").glob("student_v*.safetensors"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_committed_files_of_old_formats_still_say_the_same(path):
    """Made once by ``tests/data/make_students.py``: they are what users have."""
    network, metadata = load_student(path)
    assert metadata.num_parameters == network.num_parameters
    for case in json.loads(path.with_suffix(".json").read_text()).values():
        energies, forces = np.array(case.pop("energies_eV")), np.array(case.pop("forces_eV_per_A"))
        told = case.pop("uncertainties_eV_per_A", None)
        atoms = Structure(**case).to_ase()
        uncertainty = load_uncertainty(path)
        atoms.calc = StudentCalculator(network, device="cpu", dtype="float64", uncertainty=uncertainty)
        assert atoms.get_potential_energies() == pytest.approx(energies, abs=1e-7)
        assert atoms.get_forces() == pytest.approx(forces, abs=1e-7)
        assert (told is None) == (uncertainty is None) == (metadata.format_version == 1)
        if told is not None:
            assert atoms.calc.results["uncertainties"] == pytest.approx(np.array(told), rel=1e-6)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_files_of_old_formats_are_written_again_for_the_releases_that_read_them(tmp_path, path):
    network, metadata = load_student(path)
    save_student(tmp_path / "again.safetensors", network, metadata)
    again, known = load_student(tmp_path / "again.safetensors")
    assert known.hyperparameters == metadata.hyperparameters
    assert known.format_version <= metadata.format_version
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_there_is_a_file_of_every_format_and_architecture():
    found = {tuple(path.stem.split("_")[1:]) for path in FIXTURES}
    assert {(f"v{FORMAT_VERSION}", name) for name in students.ARCHITECTURES} <= found


def test_an_uncertainty_comes_back_as_it_was(tmp_path, network):
    torch.manual_seed(5)
    made = Uncertainty(3, 4, 2, network.features(*isolated()).shape[1])
    for buffer in made.buffers():
        buffer.copy_(torch.rand(buffer.shape))
    save_student(tmp_path / "s", network, describe(network), made)
    assert read_metadata(tmp_path / "s").format_version == 4
    loaded = load_uncertainty(tmp_path / "s")
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    again, _ = load_student(tmp_path / "s")
    assert not [key for key in again.state_dict() if "uncertainty" in key]
    save_student(tmp_path / "plain", network, describe(network))
    assert load_uncertainty(tmp_path / "plain") is None
    assert read_metadata(tmp_path / "plain").format_version == 1


def isolated():
    return torch.full((1, 1, 3), 1000.0), torch.tensor([[0]]), torch.tensor([0])


def test_an_uncertainty_of_another_student_is_refused(tmp_path, network):
    save_student(tmp_path / "s", network, describe(network), Uncertainty(2, 4, 2, 8))
    with pytest.raises(CompactFFError, match="tensors of the uncertainty do not fit"):
        load_uncertainty(tmp_path / "s")


def test_failed_write_leaves_the_old_student(saved, network, monkeypatch):
    import os

    before = saved.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CompactFFError, match="no space left"):
        save_student(saved, network, describe(network))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
