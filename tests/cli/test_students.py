"""``compactff students``, and names in the place of files."""

import json

import pytest

from compactff_md.student import SHIPPED


def test_every_student_is_listed_with_its_card(run):
    rows = json.loads(run("students", "--json").stdout)
    assert [row["name"] for row in rows] == list(SHIPPED)
    shown = run("students").stdout
    for row in rows:
        assert row["name"] in shown and f"{row['parameters']:,}" in shown
        assert all(0.5 < found["r2"] <= 1 for found in row["forces"].values())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_student_is_known_by_its_name(run, name):
    told = json.loads(run("info", name, "--json").stdout)
    assert told["size"] == name.split("-", 1)[1]
    family = {"organic": {"H", "C", "N", "O"}, "argyrodite": {"Li", "P", "S", "Cl"}}
    assert family[name.split("-")[0]] <= set(told["elements"])
