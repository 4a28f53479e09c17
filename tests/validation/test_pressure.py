"""Constant pressure in every engine, and the density in a report."""

import pytest
from ase.build import bulk

from compactff_md import Student
from compactff_md.artifact import describe
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.students import create
from compactff_md.validation import structure
from compactff_md.validation.settings import SuiteSettings
from compactff_md.validation.subject import make_engine, subject_of
from compactff_md.validation.suite import Assignment, check
from compactff_md.validation.task import Task
from lammps_builders import lammps
from validation_builders import Teacher, campaign, crystal, molecule, subject

PRESSURE_BAR = 1e5


@pytest.fixture(scope="module")
def hard_spheres():
    """A student whose atoms feel nothing of each other but the repulsion at short range."""
    network = create("ultra-tiny", ["Ar"], seed=4).eval()
    network.energy_scale_eV.fill_(1e-9)
    return Student(network, describe(network))


@pytest.mark.slow
def test_a_fluid_under_pressure_has_the_same_density_in_every_engine(hard_spheres):
    pytest.importorskip("openmm")
    lammps()
    fluid = Structure.from_ase(bulk("Ar", "fcc", a=2.8, cubic=True).repeat(2))
    start = fluid.to_ase().get_masses().sum() / fluid.volume_A3 * structure.DALTON_PER_A3_IN_G_PER_CM3
    means = {}
    for name in ("ase", "openmm", "lammps"):
        # OpenMM's barostat tries a new volume every 25 steps only.
        before = 4000 if name == "openmm" else 1000
        task = Task("npt", 600.0, 2.0, 1000, 10, 3, equilibration_steps=before, pressure_bar=PRESSURE_BAR)
        run = make_engine(name, subject_of(hard_spheres), "float32").run(fluid, task)
        assert not run.failure and len(run) == 101
        assert run.kinetic_temperature_K.mean() == pytest.approx(600.0, rel=0.2)  # 100 frames of 32 atoms
        density = structure.densities(run)
        assert density.std() > 0.003 * density.mean()
        means[name] = density.mean()
        assert means[name] > 1.1 * start
    assert max(means.values()) < 1.08 * min(means.values()), means


def test_the_density_is_compared_where_a_pressure_is_given(tmp_path):
    small = {"replica_ps": 0.2, "equilibration_ps": 0.05, "pressure_bar": 1.0}
    found = structure.run(campaign(tmp_path, subject(), crystal(), **small))
    names = [finding.name for finding in found.findings]
    assert names.count("structure.density") == 1 and "density" in found.pictures
    at_pressure = {path.stem for path in tmp_path.rglob("*-npt-replica-0.npz")}
    assert at_pressure == {"teacher-npt-replica-0", "student-npt-replica-0"}


def test_a_density_of_a_molecule_is_refused():
    settings = SuiteSettings(pressure_bar=1.0)
    job = Assignment(subject(), Teacher(), [molecule()], settings, engine="ase")
    with pytest.raises(CompactFFError, match=r"not periodic in all directions.*leave out pressure_bar"):
        check(job)
