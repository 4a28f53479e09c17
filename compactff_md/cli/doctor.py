"""``compactff doctor``: what works here, by trying it, and the command that mends what does not."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.text import Text

from compactff_md.artifact import package_versions
from compactff_md.cli import probes
from compactff_md.cli.console import err, out, print_json, say
from compactff_md.teachers import TEACHERS, available

TIMEOUT_S = 180.0
OPENMM_EXTRA = 'pip install "compactff-md[openmm{}]"'
# Upstream's wheel and the one that fits today's PyTorch install the same module: the first must go.
REPLACE_PLUGIN = (
    "pip uninstall -y openmmtorch && pip install --force-reinstall --no-deps acellera-openmmtorch-{}==1.10"
)
LAMMPS_BUILD = "make lammps, in a clone of compactff-md (or lammps/build from it)"
NO_GPU = "nothing to install: this machine has no NVIDIA GPU"


@dataclass(frozen=True)
class Probe:
    """Something to try: arguments of ``probes.py``, and what mends it."""

    group: str
    name: str
    arguments: tuple[str, ...]
    mend: str
    needs: str = ""  # module without which it need not be tried


@dataclass(frozen=True)
class Finding:
    """What came of a probe: ``works``, ``missing`` or ``broken``; ``mend`` is None where it works."""

    group: str
    name: str
    state: str
    detail: str
    mend: str | None = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: compactff doctor --json > doctor.json")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try engines, platforms, plugins, teachers and devices; tell how to mend what does not work."""
    with err.status("trying what is installed ..."):
        findings = examine()
    versions = package_versions()
    if as_json:
        print_json({"versions": versions, "findings": [asdict(finding) for finding in findings]})
    else:
        say(", ".join(f"{name.replace('_', '-')} {number}" for name, number in versions.items()))
        _print(findings)
    if any(finding.name == "students" and finding.state != "works" for finding in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Run every probe, a few at a time, in the order of the report."""
    first = _try(Probe("engines", "OpenMM", ("openmm",), openmm_extra(), "openmm"))
    platforms = first.detail.partition("platforms: ")[2].split(", ") if first.state == "works" else []
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        rest = list(pool.map(_try, _list(platforms)))
    findings = [*rest[:2], first, *rest[2:]]
    if has_gpu() and platforms and "CUDA" not in platforms:
        findings.append(
            Finding("platforms", "OpenMM CUDA", "missing", "OpenMM has no CUDA platform", openmm_extra())
        )
    return sorted(findings, key=lambda finding: GROUPS.index(finding.group))


REINSTALL = "pip install --force-reinstall --no-deps .   # in the folder of compactff-md's source"
STYLES = {"works": "green", "missing": "yellow", "broken": "bold red"}
GROUPS = ("devices", "engines", "platforms", "plugins", "trajectories", "teachers")


def _list(platforms: Sequence[str]) -> list[Probe]:
    extra = openmm_extra()
    plugin = REPLACE_PLUGIN.format(f"cu{_cuda()}" if has_gpu() else "cpu")
    plugin = plugin if _is_installed("openmmtorch") else extra
    on_gpu = has_gpu() and "CUDA" in platforms
    gpu = "pip install --force-reinstall torch" if has_gpu() else NO_GPU
    return [
        Probe("devices", "CUDA", ("cuda",), gpu),
        Probe("engines", "students", ("student",), REINSTALL),
        Probe("engines", "LAMMPS", ("lammps",), LAMMPS_BUILD),
        *(Probe("platforms", f"OpenMM {n}", ("platform", n), extra, "openmm") for n in platforms),
        Probe("plugins", "TorchForce", ("torchforce",), plugin, "openmmtorch"),
        *([Probe("plugins", "TorchForce CUDA", ("torchforce", "CUDA"), plugin, "openmmtorch")] * on_gpu),
        Probe("plugins", "PythonForce", ("pythonforce",), extra, "openmm"),
        Probe("plugins", "openmm-ml", ("openmmml",), extra, "openmmml"),
        Probe("trajectories", "MDAnalysis", ("mdanalysis",), extra, "MDAnalysis"),
        *(_teacher(key, usage) for key, usage in zip(TEACHERS, available(), strict=True)),
    ]


def _teacher(key: str, usage: str) -> Probe:
    """A teacher that needs a file or a name is only imported."""
    kind = TEACHERS[key]
    arguments = ("installed", kind.module) if kind.target else ("teacher", key)
    return Probe("teachers", usage, arguments, kind.install, kind.module)


def _try(probe: Probe) -> Finding:
    """Run a probe in a process of its own, whose crash is a finding."""
    if probe.needs and importlib.util.find_spec(probe.needs) is None:
        return Finding(probe.group, probe.name, "missing", "not installed", probe.mend)
    command = [sys.executable, "-P", str(Path(probes.__file__)), *probe.arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Finding(probe.group, probe.name, "broken", f"no answer within {TIMEOUT_S:g} s", probe.mend)
    if done.returncode == 0:
        return Finding(probe.group, probe.name, "works", _last_line(done.stdout))
    detail = _last_line(done.stderr) or "no message"
    if done.returncode < 0:
        detail = f"crashed with {signal.Signals(-done.returncode).name}: {detail}"
    missing = probe.mend == NO_GPU or detail.startswith("no LAMMPS that runs students was found")
    state = "missing" if missing else "broken"
    return Finding(probe.group, probe.name, state, detail, probe.mend)


def has_gpu() -> bool:
    """Whether the kernel shows an NVIDIA GPU, whatever PyTorch thinks of it."""
    return Path("/dev/nvidia0").exists()


def openmm_extra() -> str:
    """What installs OpenMM and its plugin, built for the GPU where there is one."""
    return OPENMM_EXTRA.format(f"-cuda{_cuda()}" if has_gpu() else "")


def _cuda() -> str:
    """The CUDA of OpenMM's plugin: that of PyTorch; 13 where PyTorch has none."""
    return "12" if (torch.version.cuda or "").startswith("12.") else "13"


def _is_installed(package: str) -> bool:
    try:
        return distribution(package) is not None
    except PackageNotFoundError:
        return False


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _print(findings: list[Finding]) -> None:
    """One line each, unwrapped, so that commands can be copied."""
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            out.print(Text(f"\n{group}", style="bold"))
        line = Text(f"  {finding.name:<17}")
        line.append(f"{finding.state:<9}", style=STYLES[finding.state]).append(finding.detail)
        out.print(line, soft_wrap=True)
        if finding.mend:
            label = "" if finding.mend == NO_GPU else "run: "
            out.print(Text(f"{'':28}{label}{finding.mend}", style="bold"), soft_wrap=True)
