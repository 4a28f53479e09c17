"""What ``compactff doctor`` tries, one probe a process: ``python -P probes.py NAME``.

A plugin whose wheel does not fit the installed PyTorch may end the process; in one of its own that is a
finding. This file therefore imports nothing of the package but where a probe is about it, and prints
one line: what works, in words. Whatever a probe raises is what does not work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from tempfile import TemporaryDirectory
from typing import Any


def cuda() -> str:
    """One matrix product on the GPU."""
    torch = import_module("torch")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        raise RuntimeError("no GPU that PyTorch can use" if built else "this PyTorch is built without CUDA")
    ones = torch.ones(64, 64, device="cuda")
    assert float((ones @ ones).sum()) == 64**3
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def student() -> str:
    """Energy and forces of an untrained student, from its file."""
    water = import_module("ase.build").molecule("H2O")
    with TemporaryDirectory() as folder:
        loaded = import_module("compactff_md").load(_untrained(f"{folder}/student.safetensors"))
    water.calc = loaded.ase_calculator(device="cpu")
    assert abs(water.get_forces().sum()) < 1e-4
    return "a file is written and read, energy and forces through ASE"


def openmm() -> str:
    """Import OpenMM; the names of its platforms come last, after a colon."""
    mm = import_module("openmm")
    names = [mm.Platform.getPlatform(k).getName() for k in range(mm.Platform.getNumPlatforms())]
    return f"{version('openmm')}, platforms: {', '.join(names)}"


def platform(name: str) -> str:
    """A context on a platform, and one step."""
    mm = import_module("openmm")
    context = _context(mm.CustomExternalForce("x^2+y^2+z^2"), name)
    return f"{context.getPlatform().getName()} makes a context and steps"


def torchforce(platform_name: str = "Reference") -> str:
    """One step with a TorchForce on a platform."""
    torch = import_module("torch")
    import_module("openmm")  # its library, which the plugin's looks for
    plugin = import_module("openmmtorch")
    torch_force = plugin.TorchForce(torch.jit.script(_harmonic(torch)))
    _check(_context(torch_force, platform_name))
    package = next((p for p in _torchforce_packages() if p), "openmmtorch")
    return f"one step on {platform_name}, {package}"


def pythonforce() -> str:
    """One step with a PythonForce."""
    mm = import_module("openmm")
    _check(_context(mm.PythonForce(_python_harmonic), "Reference"))
    return f"one step, openmm {version('openmm')}"


def openmmml() -> str:
    """A system by openmm-ml, which finds the students by their entry point."""
    unit, app = import_module("openmm.unit"), import_module("openmm.app")
    topology = app.Topology()
    residue = topology.addResidue("H2", topology.addChain())
    for name in ("H1", "H2"):
        topology.addAtom(name, app.Element.getBySymbol("H"), residue)
    with TemporaryDirectory() as folder:
        path = _untrained(f"{folder}/student.safetensors")
        system = import_module("openmmml").MLPotential("compactff", student=path).createSystem(topology)
    assert system.getNumForces() > 0 and system.getParticleMass(0) > 1.0 * unit.dalton
    return f'{version("openmmml")}, MLPotential("compactff") makes a system'


def lammps() -> str:
    """Energy and forces of an untrained student by a LAMMPS that is found."""
    atoms = import_module("ase.build").molecule("H2O")
    installation = import_module("compactff_md.engines.lammps_installation")
    running = import_module("compactff_md.engines.lammps_run")
    found = installation.find_lammps()
    with TemporaryDirectory() as folder:
        loaded = import_module("compactff_md").load(_untrained(f"{folder}/student.safetensors"))
        settings = import_module("compactff_md.engines.lammps_settings").DeckSettings(ensemble="nve", steps=1)
        deck = import_module("compactff_md.engines.lammps_deck").write_deck(
            atoms, loaded.network, loaded.metadata, settings, f"{folder}/deck"
        )
        plan = running.read_plan(deck.deck, {})
        lines: list[str] = []
        words = running.command_of(found, plan)
        if running.run_deck(found, plan, words, 1, lines.append, lambda step: None):
            errors = [line for line in lines if "ERROR" in line] or ["no message"]
            raise RuntimeError(f"{found.executable} does not run a student: {errors[0]}")
    ranks = f"ranks by {found.mpiexec}" if found.has_mpi and found.mpiexec else "one rank"
    kokkos = f"Kokkos on {' and '.join(found.accelerators)}" if found.accelerators else "no Kokkos"
    return f"{found.version}, one step; {ranks}; {kokkos}; {found.executable}"


def mdanalysis() -> str:
    """Import MDAnalysis with its reader of trajectories."""
    import_module("MDAnalysis.coordinates.XTC")
    return f"{version('MDAnalysis')} reads XTC and DCD"


def teacher(name: str) -> str:
    """Make a teacher's calculator; xTB also computes one molecule."""
    build = import_module("ase.build")
    made = import_module("compactff_md.teachers").create_teacher(name)
    if name.endswith("-xtb"):
        water = build.molecule("H2O")
        water.calc = made.calculator()
        assert -200.0 < water.get_potential_energy() < -100.0
    return f"{made.version}, {'a single point' if name.endswith('-xtb') else 'weights loaded'}"


def installed(module: str) -> str:
    """Import a teacher's package that needs more than its name."""
    import_module(module)
    return "imports"


def _untrained(path: str) -> str:
    """Write a student of H and O that has learned nothing."""
    artifact = import_module("compactff_md.artifact")
    network = import_module("compactff_md.students").create("ultra-tiny", ["H", "O"])
    artifact.save_student(path, network, artifact.describe(network))
    return path


def _context(force: Any, platform_name: str) -> Any:
    mm = import_module("openmm")
    system = mm.System()
    system.addParticle(1.0)
    if hasattr(force, "addParticle"):
        force.addParticle(0)
    system.addForce(force)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(platform_name))
    context.setPositions([[0.1, 0.0, 0.0]])
    context.getIntegrator().step(1)
    return context


def _check(context: Any) -> None:
    """The force of ``x^2`` in the step's beginning made the velocity negative."""
    velocity = context.getState(getVelocities=True).getVelocities()[0].x
    assert velocity < 0, f"the force had no effect: velocity {velocity}"


def _harmonic(torch: Any) -> Any:
    class Harmonic(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, positions):
            return (positions**2).sum()

    return Harmonic()


def _python_harmonic(state: Any) -> tuple[float, Any]:
    unit = import_module("openmm.unit")
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return float((positions**2).sum()), -2.0 * positions


def _torchforce_packages() -> list[str]:
    metadata = import_module("importlib.metadata")
    names = metadata.packages_distributions().get("openmmtorch", [])
    return [f"{name} {version(name)}" for name in names]


PROBES: dict[str, Callable[..., str]] = {
    "cuda": cuda,
    "student": student,
    "openmm": openmm,
    "platform": platform,
    "torchforce": torchforce,
    "pythonforce": pythonforce,
    "openmmml": openmmml,
    "lammps": lammps,
    "mdanalysis": mdanalysis,
    "teacher": teacher,
    "installed": installed,
}

if __name__ == "__main__":
    try:
        found = PROBES[sys.argv[1]](*sys.argv[2:])
    except Exception as error:
        name = type(error).__name__
        reason = (str(error).splitlines() or [""])[0][:400]  # PyTorch adds its stack
        sys.exit(reason if name in ("RuntimeError", "CompactFFError") else f"{name}: {reason}")
    print(found)
