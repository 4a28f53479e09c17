"""Constant pressure and temperature: a periodic box of water by a student, with a Monte Carlo barostat.

    compactff distill --recipe training/recipes/water.yaml --out runs/water
    python openmm/npt_box.py runs/water

A student must have seen a liquid: one of 80 frames lets this box run away within a picosecond, and the
organic students, which have seen droplets, hold it together and no more. (GFN1-xTB labels small periodic
boxes ten times faster than GFN2-xTB; its water is not real water.) The same without a script:
``compactff md openmm/water_box.xyz --student runs/water --ensemble npt --pressure 1 --time 1ps --out npt``.
"""

import argparse
import sys
from pathlib import Path

import ase.io
from openmm import LangevinMiddleIntegrator, MonteCarloBarostat, Platform
from openmm.app import PDBFile, Simulation, StateDataReporter, XTCReporter
from openmm.unit import bar, femtosecond, kelvin, picosecond

import compactff_md
from compactff_md.engines.openmm_minimise import minimise
from compactff_md.engines.openmm_system import prepare

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("student", help="student file, or the folder that distill or train wrote")
parser.add_argument("--structure", default=Path(__file__).with_name("water_box.xyz"), help="a periodic box")
parser.add_argument("--force", default="torchforce", help="torchforce or python")
# Forces come from PyTorch; what is left for OpenMM is least on Reference. With a GPU: CUDA.
parser.add_argument("--platform", default="Reference")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--out", default="npt_box", help="name of the trajectory and its topology")
args = parser.parse_args()

student = compactff_md.load(args.student)
# A box in OpenMM's form with molecules whole, and a system that knows the molecules: the barostat moves
# each as one body.
box = prepare(ase.io.read(args.structure), student, force=args.force)
box.system.addForce(MonteCarloBarostat(1 * bar, 300 * kelvin, 25))

integrator = LangevinMiddleIntegrator(300 * kelvin, 1 / picosecond, 0.5 * femtosecond)
simulation = Simulation(box.topology, box.system, integrator, Platform.getPlatformByName(args.platform))
simulation.context.setPositions(box.positions_nm)
# OpenMM's LocalEnergyMinimizer tries steps so long that atoms land in each other, where no student is right.
minimise(simulation.context)
simulation.context.setVelocitiesToTemperature(300 * kelvin, 1)

with Path(f"{args.out}.pdb").open("w") as stream:
    PDBFile.writeFile(box.topology, simulation.context.getState(positions=True).getPositions(), stream)
columns = {
    "step": True,
    "potentialEnergy": True,
    "temperature": True,
    "volume": True,
    "density": True,
    "speed": True,
}
simulation.reporters.append(StateDataReporter(sys.stdout, max(1, args.steps // 10), **columns))
simulation.reporters.append(XTCReporter(f"{args.out}.xtc", 50))
simulation.step(args.steps)
