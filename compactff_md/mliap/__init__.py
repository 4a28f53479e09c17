"""A student inside LAMMPS: what runs in the Python that ``pair_style mliap unified`` embeds.

Nothing here imports LAMMPS. It hands over a data object at every step, of one class in its plain build
and of another in its Kokkos build, and takes energies of atoms and derivatives by pairs back.
"""
