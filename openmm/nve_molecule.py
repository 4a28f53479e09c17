"""Constant energy: a free molecule by a student, in plain OpenMM.

    compactff distill openmm/aspirin.xyz --teacher gfn2-xtb --minutes 5 --out aspirin
    python openmm/nve_molecule.py aspirin

The same without a script, with restart files and checks: ``compactff md openmm/aspirin.xyz --student
aspirin --ensemble nve --time 1ps --out nve``.
"""

import argparse
import sys
from pathlib import Path

import ase.io
from openmm import LocalEnergyMinimizer, Platform, System, VerletIntegrator
from openmm.app import Simulation, StateDataReporter, XTCReporter
from openmm.unit import femtosecond, kelvin

import compactff_md
from compactff_md.engines.openmm_system import to_openmm

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("student", help="student file, or the folder that distill or train wrote")
parser.add_argument("--structure", default=Path(__file__).with_name("aspirin.xyz"), help="a free molecule")
parser.add_argument("--force", default="torchforce", help="torchforce or python")
# Forces come from PyTorch; what is left for OpenMM is least on Reference. With a GPU: CUDA.
parser.add_argument("--platform", default="Reference")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--out", default="nve_molecule.xtc")
args = parser.parse_args()

student = compactff_md.load(args.student)
topology, positions = to_openmm(ase.io.read(args.structure))

system = System()
for atom in topology.atoms():
    system.addParticle(atom.element.mass)
system.addForce(student.openmm_force(topology, force=args.force))

integrator = VerletIntegrator(0.5 * femtosecond)
simulation = Simulation(topology, system, integrator, Platform.getPlatformByName(args.platform))
simulation.context.setPositions(positions)
LocalEnergyMinimizer.minimize(simulation.context)
simulation.context.setVelocitiesToTemperature(300 * kelvin, 1)

columns = {
    "step": True,
    "time": True,
    "potentialEnergy": True,
    "totalEnergy": True,
    "temperature": True,
    "speed": True,
}
simulation.reporters.append(StateDataReporter(sys.stdout, max(1, args.steps // 10), **columns))
simulation.reporters.append(XTCReporter(args.out, 20))
simulation.step(args.steps)
