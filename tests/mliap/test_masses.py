import pytest
from ase.data import atomic_masses, atomic_numbers

from compactff_md.mliap.masses import exchanged_types, foreign_types

KNOWN = ["H", "C", "N", "O"]


def of(names, masses=None):
    elements = dict(enumerate(names, 1))
    own = [atomic_masses[atomic_numbers[name]] for name in names]
    return elements, dict(enumerate(own if masses is None else masses, 1))


@pytest.mark.parametrize(
    ("names", "masses"),
    [
        (["H", "O"], None),
        (["H", "O"], [1.0, 16.0]),  # another table
        (["H", "O"], [2.014, 15.999]),  # deuterium
        (["H", "H", "O"], [1.008, 2.014, 15.999]),
        (["H", "O"], [3.024, 11.967]),  # of water whose hydrogens took 2 u each
        (["H", "C", "O"], [3.024, 5.963, 11.967]),
        (["H", "C", "O"], [4.032, 12.011, 9.951]),
        (["H", "C", "O"], [12.011, 12.011, 12.011]),  # one for all
        (["H", "O"], [12.011, 12.011]),
        (["O", "C"], [17.999, 13.003]),
        ([], []),
    ],
)
def test_masses_that_are_no_mistake(names, masses):
    elements, masses_Da = of(names, masses)
    assert exchanged_types(elements, masses_Da) == "" == foreign_types(elements, masses_Da, KNOWN)


@pytest.mark.parametrize(
    ("names", "masses", "words"),
    [
        (["O", "H"], [1.008, 15.999], "type 1 is O and has the mass of H (1.008), type 2 is H"),
        (["H", "C", "O"], [12.0, 16.0, 1.0], "type 2 is C and has the mass of O (16)"),
        (["H", "O", "O"], [15.999, 1.008, 1.008], "type 3 is O and has the mass of H"),
    ],
)
def test_elements_in_the_order_of_other_types(names, masses, words):
    assert words in exchanged_types(*of(names, masses))


def test_an_element_in_the_place_of_another_that_the_student_knows():
    elements, masses_Da = of(["H", "C"], [1.008, 15.999])
    assert exchanged_types(elements, masses_Da) == ""
    assert foreign_types(elements, masses_Da, KNOWN) == "type 2 is C and has the mass of O (15.999)"
    assert foreign_types(elements, masses_Da, ["H", "C"]) == ""
