from pathlib import Path

import pytest

from compactff_md.structure import read_structures
from compactff_md.training.config import DistillConfig
from compactff_md.training.recipe_files import read_config
from compactff_md.training.steps import step_names

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"
NAMES = ("organic", "argyrodite", "argyrodite_more", "argyrodite_fresh")
LABELS_ALONE = ("pairs", "liquid", "further", "further_still", "fresh")


@pytest.mark.parametrize("name", NAMES)
def test_the_recipes_of_the_package_are_read_and_have_a_test(name):
    config = read_config(DistillConfig, RECIPES / f"{name}.yaml")
    assert len(step_names(config.sampling.steps)) == len(config.sampling.steps)
    assert any(step.purpose == "test" for step in config.sampling.steps)


@pytest.mark.parametrize("name", LABELS_ALONE)
def test_the_labels_that_the_organic_students_have_beside_are_of_their_teacher(name):
    organic = read_config(DistillConfig, RECIPES / "organic.yaml")
    config = read_config(DistillConfig, RECIPES / f"{name}.yaml")
    assert config.teacher == organic.teacher
    assert config.checks.max_force_eV_per_A <= organic.checks.max_force_eV_per_A


def test_what_the_fresh_test_learns_from_has_every_element():
    """Frames of elements that no frame for training has are refused."""
    organic, fresh = (read_config(DistillConfig, RECIPES / f"{name}.yaml") for name in ("organic", "fresh"))
    (dimers,) = [step for step in fresh.sampling.steps if step.kind == "dimers"]
    assert set(dimers.elements) == set(organic.elements)


def test_the_recipe_of_water_has_a_liquid_and_rounds():
    config = read_config(DistillConfig, RECIPES / "water.yaml")
    structures = read_structures(RECIPES.parents[1] / config.structures)
    assert structures[0].pbc.all() and config.rounds.most > 0
    assert any(step.kind == "md" and "given" in step.of for step in config.sampling.steps)


@pytest.mark.parametrize("name", [*NAMES, *LABELS_ALONE, "water"])
def test_structures_of_recipes_lie_beside_them(name):
    """So an installation has them, too."""
    given = read_config(DistillConfig, RECIPES / f"{name}.yaml").structures
    assert given is None or (RECIPES / Path(given).name).is_file()


def test_the_argyrodite_cells_are_the_composition_and_its_double():
    cells = read_structures(RECIPES / "li6ps5cl.xyz")
    assert [cell.symbols.formula.count() for cell in cells] == [
        {"Li": 24, "P": 4, "S": 20, "Cl": 4},
        {"Li": 48, "P": 8, "S": 40, "Cl": 8},
    ]
    single, double = cells
    assert double.cell.lengths() == pytest.approx([2 * 9.859, 9.859, 9.859])
    distance = single.get_all_distances(mic=True)[single.numbers == 15][:, single.numbers == 16]
    assert sorted(distance[0])[:4] == pytest.approx([2.015] * 4, abs=0.01)
    assert sorted(distance[0])[4] > 3.0
