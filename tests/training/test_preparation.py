import numpy as np
import pytest
import torch

from compactff_md import students
from compactff_md.errors import CompactFFError
from compactff_md.training.config import TrainConfig
from compactff_md.training.distributed import join_team, pick_device
from compactff_md.training.frames import LabelledSet
from compactff_md.training.preparation import create_network, prepare_network, torch_settings
from compactff_md.training.recipe_files import make_config


def test_shift_and_scale_follow_the_data(ethanol_sets):
    data = ethanol_sets[0]
    network = students.create("ultra-tiny", ["O", "C", "H"])
    prepare_network(network, data)
    assert network.energy_shift_eV.tolist() == [data.isolated_eV[s] for s in ("O", "C", "H")]
    forces = np.concatenate([frame.forces_eV_per_A for frame in data.frames])
    assert network.energy_scale_eV.item() == pytest.approx(float((forces**2).mean()) ** 0.5)
    assert network.anchored
    prepare_network(network, LabelledSet(data.frames))
    assert not network.anchored
    total = sum(f.energy_eV for f in data.frames) / len(data)
    assert 2 * network.energy_shift_eV[1] + 6 * network.energy_shift_eV[2] + network.energy_shift_eV[
        0
    ] == pytest.approx(total)


def test_isolated_atoms_for_every_element_of_the_student(ethanol_sets):
    data = LabelledSet(ethanol_sets[0].frames, {"H": -13.0, "C": -1025.0, "O": -2035.0})
    with pytest.raises(CompactFFError, match="isolated-atom energies are missing for N"):
        prepare_network(students.create("ultra-tiny", ["H", "C", "N", "O"]), data)


def test_the_network_is_the_one_asked_for(ethanol_sets):
    config = make_config(
        TrainConfig, {"size": "ultra-tiny", "architecture": "painn", "cutoff_A": 4.5, "seed": 3}
    )
    network = create_network(config, ethanol_sets[0])
    assert (network.architecture, network.cutoff_A, network.elements) == ("painn", 4.5, ["H", "C", "O"])


def test_threads_are_set_for_the_run_only(ethanol_sets):
    torch.set_num_threads(2)
    config = make_config(TrainConfig, {"threads": 1})
    with torch_settings(config, ethanol_sets[0], join_team("cpu")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "meta"):
        with pytest.raises(CompactFFError, match="allowed are auto, cpu, cuda"):
            pick_device(name)
    with pytest.raises(CompactFFError, match=r"there are \d+ GPUs; use device 'cpu'"):
        pick_device("cuda:99")


def test_several_processes_do_not_share_one_of_several_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with pytest.raises(CompactFFError, match=r"device is 'cuda:0' for all 4 processes.*use device 'cuda'"):
        pick_device("cuda:0", 2, 4)
    assert pick_device("cuda", 2, 4) == torch.device("cuda:2")
    assert pick_device("cuda:3") == torch.device("cuda:3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(CompactFFError, match="for all 4 processes"):
        join_team("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each process may see its own one only
    assert pick_device("cuda:0", 2, 4) == torch.device("cuda:0")
