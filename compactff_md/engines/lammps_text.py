"""The text of a deck, with comments that teach."""

from __future__ import annotations

from typing import Any

from compactff_md.engines.lammps_settings import DeckSettings

UNITS = {"metal": "A, eV, ps, bar", "real": "A, kcal/mol, fs, atmospheres"}
FORCE_TOLERANCE_EV_PER_A = 1e-3
# Steps between two looks at whether the run has blown up, and the fixes that end it.
GUARD_INTERVAL = 50
GUARDS = ("temperature_ran_away", "energy_ran_away")
# LAMMPS' product of pressure and volume in an energy: metal's bar A^3 in eV, real's atm A^3 in kcal/mol.
NKTV2P = {"metal": "1.6021765e6", "real": "68568.415"}


def deck_text(settings: DeckSettings, facts: dict[str, Any], goes_on: bool) -> str:
    """A deck, or the one that goes on from a restart file.

    Parameters
    ----------
    settings
        What is run.
    facts
        ``elements`` in the order of the types, ``boundary``, ``is_tilted``, ``has_velocities``,
        ``is_turning`` and ``stopped``, the degrees of freedom that do not move, ``reach_A`` of student and
        skin, ``highest_K`` and ``highest_rise_eV`` (an atom), which a sound run does not reach, and the names
        of the files ``student`` and ``data``.
    goes_on
        Whether it reads a restart file.
    """
    sections = [
        _head(settings, goes_on),
        system_text(settings, facts, goes_on),
        student_text(settings, facts),
        _log(settings, facts),
        *([] if goes_on else [_start(settings, facts)]),
        _trajectory(settings, facts, goes_on),
        _integration(settings, facts, goes_on),
        _guard(settings, facts),
        _run(),
    ]
    return "\n\n".join(sections) + "\n"


def _head(settings: DeckSettings, goes_on: bool) -> str:
    name = "continue.lammps" if goes_on else "in.lammps"
    ranks = f" --ranks {settings.ranks}" if settings.ranks > 1 else ""
    kokkos = " --kokkos" if settings.kokkos else ""
    lines = [
        f"# Molecular dynamics by a student ({settings.ensemble}), written by compactff deck. Run it with",
        f"#     compactff lammps {name}{ranks}{kokkos}",
        "# or by LAMMPS itself, whose Python must find compactff-md and PyTorch (lammps/README.md).",
        "# Variables are changed on the command line: -var steps 1000 (compactff lammps: --var steps=1000).",
        "",
        f"variable        steps index {settings.total_steps}",
    ]
    if goes_on:
        lines += [
            "variable        from index final.restart   # after a crash: restart.a or .b, the newer",
            "variable        part loop 2 9999           # of this part's log and trajectory: the first free",
            "label           next_part",
            "variable        is_taken equal is_file(trajectory.${part}.lammpstrj)",
            'if              "${is_taken} == 1" then "print \'trajectory.${part}.lammpstrj is there\'" &',
            '                "next part" "jump SELF next_part"',
            "log             log.${part}.lammps",
        ]
    return "\n".join(lines)


def system_text(settings: DeckSettings, facts: dict[str, Any], goes_on: bool = False) -> str:
    """Units, atoms and box."""
    if goes_on:
        return "\n".join(
            [
                "# ---- atoms, box, velocities, step, and units are in the restart file",
                "newton          on",
                "read_restart    ${from}",
            ]
        )
    lines = [
        "# ---- atoms",
        f"units           {settings.units:<19}# {UNITS[settings.units]}",
        "newton          on                 # ML-IAP wants forces on ghosts to be sent to their owners",
        "atom_style      atomic",
        "atom_modify     map yes",
        f"boundary        {facts['boundary']:<19}# p: periodic, m: a free side that yields to atoms",
    ]
    lines.append(f"read_data       {facts['data']}")
    if settings.ensemble == "npt" and settings.cell_changes == "flexible" and not facts["is_tilted"]:
        lines.append("change_box      all triclinic      # so that the barostat may tilt it")
    return "\n".join(lines)


def student_text(settings: DeckSettings, facts: dict[str, Any]) -> str:
    """The pair style and its neighbour list."""
    flag = 1 if settings.ghost_neighbours else 0
    lines = [
        "# ---- the student: one element (or NULL, under pair_style hybrid) for each atom type",
        f"pair_style      mliap unified {facts['student']} {flag}",
        f"pair_coeff      * * {' '.join(facts['elements'])}",
        f"neighbor        {settings.skin_A:g} bin",
        "neigh_modify    every 1 delay 0 check yes",
    ]
    if settings.ghost_neighbours:
        lines += [
            "# 1: LAMMPS lists the neighbours of ghosts as well, which have to be there: as far as the",
            "# student sees, and the skin.",
            f"comm_modify     cutoff {facts['reach_A']:g}",
        ]
    return "\n".join(lines)


def _log(settings: DeckSettings, facts: dict[str, Any]) -> str:
    columns = "step temp pe ke etotal press vol" + (
        " lx ly lz xy xz yz" if settings.ensemble == "npt" else " pxx pyy pzz"
    )
    return "\n".join(
        [
            "# ---- the log: a row is on the disk when it is printed",
            f"timestep        {settings.time(settings.timestep_fs):g}",
            f"thermo          {settings.thermo_interval}",
            f"thermo_style    custom {columns}",
            "thermo_modify   flush yes norm no",
            "# Degrees of freedom without a temperature: moving, and of a free molecule turning, as a whole.",
            f"compute_modify  thermo_temp extra/dof {facts['stopped']}",
        ]
    )


def _trajectory(settings: DeckSettings, facts: dict[str, Any], goes_on: bool) -> str:
    """What the dynamics alone write: a minimisation before them has steps of its own."""
    name = "trajectory.${part}.lammpstrj" if goes_on else "trajectory.lammpstrj"
    return "\n".join(
        [
            "# ---- output. Unwrapped coordinates, for MDAnalysis:",
            f"#     Universe('{facts['data']}', '{name}', atom_style='id type x y z', format='LAMMPSDUMP')",
            f"dump            trajectory all custom {settings.trajectory_interval} {name} &",
            "                id type element xu yu zu",
            f"dump_modify     trajectory sort id element {' '.join(facts['elements'])}",
            f"restart         {settings.restart_interval} restart.a restart.b",
        ]
    )


def _start(settings: DeckSettings, facts: dict[str, Any]) -> str:
    lines = ["# ---- the start"]
    if settings.minimise:
        tolerance = FORCE_TOLERANCE_EV_PER_A / settings.energy_eV
        lines += [f"minimize        0.0 {tolerance:.3g} 1000 10000", "reset_timestep  0"]
    if facts["has_velocities"]:
        lines.append("# velocities are in the data file")
        if settings.ensemble != "nve":
            lines.append("velocity        all zero linear")
            lines += [] if facts["is_turning"] else ["velocity        all zero angular"]
    elif settings.temperature_K > 0.0:
        rotation = "no" if facts["is_turning"] else "yes"
        lines.append(
            f"velocity        all create {settings.temperature_K:g} {settings.seed} mom yes rot {rotation} "
            "dist gaussian temp thermo_temp"
        )
    return "\n".join(lines)


def _integration(settings: DeckSettings, facts: dict[str, Any], goes_on: bool) -> str:
    temperature, damping = f"{settings.temperature_K:g}", f"{settings.time(settings.damping_fs):g}"
    heat = f"temp {temperature} {temperature} {damping}"
    lines = ["# ---- integration"]
    if settings.ensemble == "nve":
        lines.append("fix             motion all nve")
    elif settings.ensemble == "nvt" and settings.thermostat == "langevin":
        # A fresh seed for each part: the same random numbers again would not be random.
        seed = f"$({settings.seed}+v_part-1)" if goes_on else settings.seed
        lines += [
            "fix             motion all nve",
            f"fix             bath all langevin {temperature} {temperature} {damping} {seed}",
            "# Not by its zero yes, which heats few atoms of unlike masses: water of 300 K to 700 K.",
            "fix             drift all momentum 1 linear 1 1 1",
        ]
    elif settings.ensemble == "nvt":
        lines += [f"fix             motion all nvt {heat}", "fix_modify      motion temp thermo_temp"]
    else:
        lines.append(f"fix             motion all npt {heat} {_barostat(settings)}")
    return "\n".join(lines)


def _barostat(settings: DeckSettings) -> str:
    bar = settings.pressure_bar if settings.pressure_bar is not None else 1.0
    pressure, damping = f"{settings.pressure(bar):.8g}", f"{settings.time(10.0 * settings.damping_fs):g}"
    word = {"isotropic": "iso", "anisotropic": "aniso", "flexible": "tri"}[settings.cell_changes]
    return f"{word} {pressure} {pressure} {damping}"


def _guard(settings: DeckSettings, facts: dict[str, Any]) -> str:
    """What ends a run that has blown up: thermostats would cool its gas, and nothing else would tell."""
    (temperature, energy), every = GUARDS, GUARD_INTERVAL
    rise = f"{facts['highest_rise_eV'] / settings.energy_eV:.3g}"
    lines = [
        "# ---- the guard: a run that has blown up ends with an error, as no sound one is so hot, or has",
        f"# {rise} an atom more energy than at its start (run 0). A shorter timestep, or minimise, may help.",
        "run             0 post no",
        "variable        kelvin equal temp",
    ]
    if settings.ensemble == "npt":
        bar = settings.pressure_bar if settings.pressure_bar is not None else 1.0
        work = f"{settings.pressure(bar):.8g}*vol/{NKTV2P[settings.units]}"
        lines.append(f"variable        energy equal pe+{work}   # with the work of the pressure")
    else:
        lines.append("variable        energy equal pe")
    return "\n".join(
        [
            *lines,
            "variable        start equal $(v_energy)",
            "variable        rise equal v_energy-v_start",
            f"fix             {temperature} all halt {every} v_kelvin > {facts['highest_K']:.6g} error hard",
            f"fix             {energy} all halt {every} v_rise > $({rise}*atoms) error hard",
        ]
    )


def _run() -> str:
    return "\n".join(
        [
            "# ---- the run, and where continue.lammps goes on",
            "run             ${steps}",
            "write_restart   final.restart",
        ]
    )
