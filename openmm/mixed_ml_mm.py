"""Mixed ML/MM through openmm-ml: alanine dipeptide by a student, the water around it by Amber's TIP3P.

    compactff distill openmm/alanine_dipeptide.pdb --teacher gfn2-xtb --minutes 5 --out alanine
    python openmm/mixed_ml_mm.py alanine

Within the dipeptide the student computes everything; between dipeptide and water, and among the water,
the force field does ("mechanical embedding").
"""

import argparse
import sys
from pathlib import Path

from openmm import LangevinMiddleIntegrator, LocalEnergyMinimizer, Platform
from openmm.app import PME, ForceField, HBonds, Modeller, PDBFile, Simulation, StateDataReporter, XTCReporter
from openmm.unit import femtosecond, kelvin, nanometer, picosecond
from openmmml import MLPotential

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("student", help="student file, or the folder that distill or train wrote")
parser.add_argument("--force", default="python", help="python or torchforce")
# The force field's water is what costs here, and CPU is the fastest for that without a GPU.
parser.add_argument("--platform", default="CPU")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--out", default="mixed_ml_mm", help="name of the trajectory and its topology")
args = parser.parse_args()

pdb = PDBFile(str(Path(__file__).with_name("alanine_dipeptide.pdb")))
force_field = ForceField("amber14-all.xml", "amber14/tip3p.xml")
modeller = Modeller(pdb.topology, pdb.positions)
modeller.addSolvent(force_field, padding=0.8 * nanometer)
classical = force_field.createSystem(
    modeller.topology, nonbondedMethod=PME, nonbondedCutoff=0.8 * nanometer, constraints=HBonds
)

by_student = [atom.index for atom in modeller.topology.atoms() if atom.residue.name in ("ACE", "ALA", "NME")]
potential = MLPotential("compactff", student=args.student, force=args.force)
mixed = potential.createMixedSystem(modeller.topology, classical, by_student)
print(
    f"{len(by_student)} atoms by the student, {mixed.getNumParticles() - len(by_student)} by the force field"
)

integrator = LangevinMiddleIntegrator(300 * kelvin, 1 / picosecond, 0.5 * femtosecond)
simulation = Simulation(modeller.topology, mixed, integrator, Platform.getPlatformByName(args.platform))
simulation.context.setPositions(modeller.positions)
LocalEnergyMinimizer.minimize(simulation.context, maxIterations=50)
simulation.context.setVelocitiesToTemperature(300 * kelvin, 1)

with Path(f"{args.out}.pdb").open("w") as stream:
    PDBFile.writeFile(modeller.topology, simulation.context.getState(positions=True).getPositions(), stream)
columns = {"step": True, "time": True, "potentialEnergy": True, "temperature": True, "speed": True}
simulation.reporters.append(StateDataReporter(sys.stdout, max(1, args.steps // 10), **columns))
simulation.reporters.append(XTCReporter(f"{args.out}.xtc", 50))
simulation.step(args.steps)
