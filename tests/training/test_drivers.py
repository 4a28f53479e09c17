import json
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from compactff_md import load
from compactff_md.errors import CompactFFError
from compactff_md.training.config import (
    DRIVEN_FRAMES,
    TEACHER,
    TEACHER_FRAMES,
    DistillConfig,
    SamplingConfig,
)
from compactff_md.training.drivers import DRIVER_FILE, choose_driver, settled_driver
from compactff_md.training.generate import driver_versions
from compactff_md.training.planning import plan_chains
from compactff_md.training.recipe_files import make_config

ETHANOL = molecule("CH3CH2OH")
SHIPPED = "student:organic-ultra-tiny"


class Failing(EMT):
    def calculate(self, atoms=None, properties=None, system_changes=None):
        raise RuntimeError("SCF not converged")


def teacher(calculator, name="module:calculator"):
    return SimpleNamespace(name=name, settings={}, calculator=calculator)


def organic_tiny():
    return load("organic-tiny").ase_calculator()


def settings(**sampling) -> DistillConfig:
    return make_config(DistillConfig, {"structures": "x.xyz", "sampling": sampling})


def test_a_shipped_student_moves_the_atoms_where_it_agrees_with_the_teacher():
    found = choose_driver([ETHANOL], teacher(organic_tiny))
    assert found.name == SHIPPED
    assert 0 < found.relative_error < 0.2 and 0 < found.calls <= 4


def test_a_teacher_that_it_does_not_agree_with_moves_them_itself():
    found = choose_driver([ETHANOL], teacher(EMT))
    assert found.name is None and found.relative_error > 0.35


@pytest.mark.parametrize(
    ("structures", "calculator", "name"),
    [
        ([ETHANOL], organic_tiny, "student:organic-tiny"),
        ([ETHANOL, molecule("SiH4")], organic_tiny, "module:x"),
        ([ETHANOL, bulk("Cu")], EMT, "module:x"),
        ([bulk("Cu")], EMT, "module:x"),
        ([ETHANOL], Failing, "module:x"),
    ],
)
def test_elsewhere_the_teacher_moves_the_atoms(structures, calculator, name):
    found = choose_driver(structures, teacher(calculator, name))
    assert found.name is None and found.relative_error is None


def test_the_relative_error_is_that_of_the_forces():
    """A teacher whose forces are the student's by a factor differs by what is missing of the whole."""

    class Stretched(EMT):
        inner = load("organic-ultra-tiny").ase_calculator()

        def calculate(self, atoms=None, properties=None, system_changes=None):
            self.inner.calculate(atoms, ["energy", "forces"], ["positions", "numbers", "cell", "pbc"])
            self.results = {"energy": 1.25 * self.inner.results["energy"]}
            self.results["forces"] = 1.25 * np.asarray(self.inner.results["forces"])

    assert choose_driver([ETHANOL], teacher(Stretched)).relative_error == pytest.approx(0.2, abs=1e-6)


def test_it_is_chosen_once_for_a_folder(tmp_path):
    notes = []
    reporter = SimpleNamespace(note=notes.append)
    first = settled_driver(settings(), [ETHANOL], teacher(organic_tiny), tmp_path, reporter)
    again = settled_driver(settings(), [ETHANOL], teacher(EMT), tmp_path, reporter)
    assert first == again
    assert json.loads((tmp_path / DRIVER_FILE).read_text())["name"] == SHIPPED
    assert len(notes) == 2 and "moves the atoms" in notes[0]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"driver": "teacher"}, None),
        ({"driver": "student:organic-tiny"}, "student:organic-tiny"),
        ({"mode": "given"}, None),
        ({"steps": [{"kind": "md", "frames": 4}]}, None),
    ],
)
def test_what_the_configuration_names_is_not_compared(tmp_path, sampling, expected):
    found = settled_driver(settings(**sampling), [ETHANOL], teacher(organic_tiny), tmp_path, None)
    assert (found.name, found.calls) == (expected, 0)
    assert not (tmp_path / DRIVER_FILE).exists()


def test_bad_drivers_are_told():
    with pytest.raises(CompactFFError, match="nobody"):
        driver_versions(settings(driver="student:nobody"))
    assert list(driver_versions(settings(driver="student:organic-tiny"))) == ["driver_student:organic-tiny"]
    assert driver_versions(settings(driver="teacher")) == {}
    with pytest.raises(CompactFFError, match="driver contradict each other; set these in the steps"):
        settings(driver="student:organic-tiny", steps=[{"kind": "md", "frames": 4}])


def test_frames_are_more_where_a_student_moves_the_atoms():
    wanted = {None: TEACHER_FRAMES, TEACHER: TEACHER_FRAMES, "student:organic-tiny": DRIVEN_FRAMES}
    for driver, frames in wanted.items():
        config = SamplingConfig(driver=driver)
        chains = [spec for spec in plan_chains(1, config, 0) if spec.purpose == "train"]
        assert sum(spec.frames for spec in chains) == frames
        assert SamplingConfig(driver=driver, frames=7).num_frames == 7
