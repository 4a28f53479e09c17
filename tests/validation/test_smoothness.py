"""What is steep is not a kink, and a kink is found beside what is steep."""

import numpy as np
import pytest

from compactff_md.validation.smoothness import FROM, STEP_A, Jumps, Scan, confirmed, jumps

PATH = np.arange(FROM * 5.0, 5.3, STEP_A)
WALL_A, WIDTH_A, HEIGHT_eV = 3.2, 0.006, 3.0


def wall(distance_A: np.ndarray, jump_eV: float = 0.0, kink_eV_per_A: float = 0.0) -> Scan:
    """A smooth step as steep as a network's worst; at 4.4 A a jump of the energy or of the force."""
    inside = 1.0 / (1.0 + np.exp(np.clip((distance_A - WALL_A) / WIDTH_A, -200, 200)))
    beyond = np.maximum(distance_A - 4.4003, 0.0)
    energy = HEIGHT_eV * inside + jump_eV * (beyond > 0) - kink_eV_per_A * beyond
    force = HEIGHT_eV / WIDTH_A * inside * (1.0 - inside) + kink_eV_per_A * (beyond > 0)
    return Scan(distance_A, energy, force)


def test_a_steep_smooth_wall_has_neither_jump_nor_kink() -> None:
    coarse, found = jumps(wall(PATH)), confirmed(wall(PATH), wall)
    assert coarse.energy_meV > 1.0 and coarse.force_meV_per_A > 100.0, "the scan alone must be in doubt"
    assert found.energy_meV < 0.01
    assert found.force_meV_per_A < 2.0


@pytest.mark.parametrize("jump_eV", [0.0002, 0.01])
def test_a_jump_of_the_energy_is_found_beside_the_wall(jump_eV: float) -> None:
    found = confirmed(wall(PATH, jump_eV), lambda d: wall(d, jump_eV))
    assert found.energy_meV == pytest.approx(1e3 * jump_eV, rel=0.1)


@pytest.mark.parametrize("kink_eV_per_A", [0.01, 0.2])
def test_a_jump_of_the_force_is_found_beside_the_wall(kink_eV_per_A: float) -> None:
    found = confirmed(wall(PATH, 0.0, kink_eV_per_A), lambda d: wall(d, 0.0, kink_eV_per_A))
    assert isinstance(found, Jumps)
    assert found.force_meV_per_A == pytest.approx(1e3 * kink_eV_per_A, rel=0.25)
