"""Distances in a box are judged as a radial distribution function, not by counts of mostly far pairs."""

import numpy as np
import pytest

from compactff_md.validation import structure
from compactff_md.validation.run import Run
from validation_builders import campaign, subject

SIDE_A, ATOMS, FRAMES = 20.0, 100, 24


def gas_of_pairs(seed: int, paired: bool) -> Run:
    """Points anywhere in a box; ``paired``, each second one is 3 A from the one before it."""
    rng = np.random.default_rng(seed)
    positions = rng.random((FRAMES, ATOMS, 3)) * SIDE_A
    if paired:
        ways = rng.normal(size=(FRAMES, ATOMS // 2, 3))
        positions[:, 1::2] = positions[:, ::2] + 3.0 * ways / np.linalg.norm(ways, axis=2, keepdims=True)
    return Run(
        time_ps=0.1 * np.arange(FRAMES),
        potential_eV=np.zeros(FRAMES),
        kinetic_eV=np.zeros(FRAMES),
        positions_A=positions,
        velocities_A_per_fs=np.zeros_like(positions),
        numbers=np.full(ATOMS, 18),
        cell_A=np.repeat(SIDE_A * np.eye(3)[None], FRAMES, axis=0),
        pbc=np.ones(3, dtype=bool),
        masses_Da=np.full(ATOMS, 39.95),
        timestep_fs=1.0,
        temperature_K=300.0,
        dof=3 * ATOMS - 3,
        engine="by hand",
    )


@pytest.mark.parametrize(("paired", "verdict"), [(True, "pass"), (False, "fail")])
def test_a_near_shell_counts_as_much_as_a_far_one(tmp_path, paired, verdict):
    pytest.importorskip("MDAnalysis")
    teacher = [gas_of_pairs(seed, True) for seed in range(4)]
    student = [gas_of_pairs(seed, paired) for seed in range(4, 8)]
    bench = campaign(tmp_path, subject(), teacher[0].structure(0))
    found = structure.section_of(bench, teacher, student, only="distances")
    assert found.findings[0].verdict == verdict, found.findings[0]
