"""Errors in a frozen module, as OpenMM's plugin runs it: told, where they once ended the process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compactff_md.export import scripted_module
from compactff_md.students import VARIANTS
from export_builders import student

TESTS = Path(__file__).parents[1]
ERRORS = """
import torch
from compactff_md.export import scripted_module
from export_builders import student
torch.set_num_threads(1)

def told(module, positions, box, message):
    try:
        module(positions, box)
    except torch.jit.Error as error:
        assert message in str(error).splitlines()[-1], error
        print(message)

zeros, nan = torch.zeros(3, 3, dtype=torch.float64), torch.full((600, 3), torch.nan, dtype=torch.float64)
box, far = torch.eye(3, dtype=torch.float64), torch.arange(1800.0, dtype=torch.float64).view(600, 3) * 1e4
thin = torch.diag(torch.tensor([0.04, 1.0, 1.0], dtype=torch.float64))
network = student()
network.bound_energies(-1.0, 1.0, 1.0)
periodic, free, general = (
    torch.jit.freeze(scripted_module(network, numbers, pbc))
    for numbers, pbc in (([8, 1, 1], True), ([8, 1] * 300, False), (None, None))
)
told(general, zeros, None, "this file was exported without atoms")
told(periodic, nan[:4], box, "exported for 3 atoms; 4 came")
told(periodic, zeros, None, "no box vectors came")
told(periodic, nan[:3], box, "positions are NaN")
told(periodic, zeros, thin, "thinner than 0.5 A")
told(periodic, zeros, 0.0 * box, "the cell is singular")
told(free, nan, None, "positions are NaN")
told(free, far, None, "flown apart")
"""


def test_every_error_is_told():
    run = subprocess.run(
        [sys.executable, "-c", ERRORS], capture_output=True, text=True, cwd=TESTS, check=False
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 8, run.stdout


@pytest.mark.parametrize("architecture", VARIANTS)
def test_freezing_deletes_no_method_that_forward_calls(architecture):
    network = student(architecture)
    network.anchored = True
    network.eval().bound_energies(-1.0, 1.0, 1.0)
    module = scripted_module(network, [8, 1, 1], True)
    methods = {(part.original_name, name) for part in module.modules() for name in part._c._method_names()}
    before = all_methods()
    torch.jit.freeze(module)  # makes its own copy of each method
    left = {tuple(name.split(".")[-2:]) for name in all_methods() - before}
    assert methods - left == {("ExportedStudent", "evaluate")}


def all_methods():
    return {function.qualified_name for function in torch.jit._state._python_cu.get_functions()}
