"""Whose folder is it: a run continues in its own out folder, and in no other's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from compactff_md.errors import CompactFFError
from compactff_md.files import plain, write_json
from compactff_md.training.distributed import Team
from compactff_md.training.recipe_files import config_values

RUN_FILE = "run.json"
# What may differ between the parts of one run: it does not change what is computed, or says when to give up.
FREE_FIELDS = {
    "device",
    "threads",
    "structures",
    "validate_seconds",
    "checkpoint_seconds",
    "isolated_energies_eV",
    "labels_from",
    "sampling.n_workers",
    "sampling.shard_seconds",
    "sampling.dask",
    "sampling.max_failures",
}

# What earlier versions did not write down; a run that lacks it goes on with what is given now.
LATER_FIELDS = {"isolated_energies_checksum"}

# What decides which structures are labelled, and by whom.
LABEL_FIELDS = ("sampling.", "teacher", "seed")


@dataclass(frozen=True)
class RunFolder:
    """An out folder that belongs to this run; ``resumed`` where it was there before."""

    path: Path
    resumed: bool
    finished: bool

    def finish(self) -> None:
        """Write down that everything is done."""
        content = json.loads((self.path / RUN_FILE).read_text(encoding="utf-8"))
        write_json(self.path / RUN_FILE, {**content, "finished": True})


def open_run(
    out: str | Path,
    command: str,
    config: BaseModel,
    sources: Mapping[str, str | None],
    team: Team,
    changeable: Sequence[str] = (),
) -> RunFolder:
    """Take an empty or missing folder for a run, or the one where it was interrupted.

    Parameters
    ----------
    out
        The folder.
    command, config, sources
        What makes the run: "train" or "distill", the configuration, and checksums of the data by name.
    team
        The processes; the first one makes the folder, the others then find it.
    changeable
        Fields, or groups of them, that may still be given anew, because the run has not come to where they
        count.

    Raises
    ------
    CompactFFError
        If the folder holds another run (the message lists what differs), something else, or is a file.
    """
    if not team.leads:
        team.wait()
    path = Path(out)
    identity = {"command": command, **_flat(config_values(config)), **sources}
    identity = {key: plain(value) for key, value in identity.items() if key not in FREE_FIELDS}
    if path.exists() and not path.is_dir():
        raise CompactFFError(f"{path} is a file; expected the name of a folder for the run")
    there = (path / RUN_FILE).is_file()
    run = _reopen(path, identity, changeable) if there else _create(path, identity)
    if team.leads:
        team.wait()
    return replace(run, path=path.absolute())  # for workers, whose current folder is another


def _create(path: Path, identity: dict[str, Any]) -> RunFolder:
    if path.is_dir() and any(path.iterdir()):
        raise CompactFFError(f"{path} is not empty and holds no run; choose another out folder")
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / RUN_FILE, {"identity": identity, "finished": False})
    return RunFolder(path, resumed=False, finished=False)


def versions_in(path: Path) -> dict[str, str]:
    """Versions of the teacher and of what moved atoms in its place, as the folder of a run has them.

    Raises
    ------
    CompactFFError
        If what makes the run cannot be read.
    """
    there, _ = _read(path)
    return {key: there[key] for key in there if key == "teacher_version" or key.startswith("driver_")}


def check_labels_are_the_same(path: Path, config: BaseModel, sources: Mapping[str, str | None]) -> None:
    """See that another run's labels are those that this run would make.

    Raises
    ------
    CompactFFError
        If the folder holds no run, or one with another teacher, sampling, seed or other structures.
    """
    if not (path / RUN_FILE).is_file():
        raise CompactFFError(f"labels_from is {path}, which holds no run; expected the out folder of one")
    there, _ = _read(path)
    here = {**_flat(config_values(config)), **sources}
    made_by = {key for key in {*there, *here} if key.startswith(LABEL_FIELDS) or key.endswith("_sha256")}
    made_by = {key for key in made_by if not key.startswith("labelled-")}
    kept = {key: plain(here.get(key)) for key in made_by - FREE_FIELDS}
    changed = _changed({key: there.get(key) for key in kept}, kept)
    if changed:
        raise CompactFFError(f"the labels in {path} are not those of this run: {changed}")


def _reopen(path: Path, identity: dict[str, Any], changeable: Sequence[str]) -> RunFolder:
    there, finished = _read(path)
    names = {*(() if finished else changeable), *(LATER_FIELDS - there.keys())}

    def may_change(key: str) -> bool:
        return key in names or key.split(".")[0] in names

    renewed = {key: value for key, value in there.items() if not may_change(key)}
    renewed |= {key: value for key, value in identity.items() if may_change(key)}
    changed = _changed(renewed, identity)
    if changed:
        raise CompactFFError(
            f"{path} already holds another run: {changed}. Choose another out folder, or give the same "
            "settings to continue it"
        )
    if renewed != there:
        write_json(path / RUN_FILE, {"identity": renewed, "finished": finished})
    return RunFolder(path, resumed=True, finished=finished)


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """What makes the run in a folder, and whether it is finished; earlier versions had fewer free fields."""
    try:
        content = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
        identity = {key: value for key, value in content["identity"].items() if key not in FREE_FIELDS}
        return identity, bool(content["finished"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompactFFError(
            f"{path / RUN_FILE} cannot be read ({error}); choose another out folder"
        ) from error


def _changed(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs, or nothing; None is the same as a field that an earlier version did not have."""
    changed = [
        key
        for key in sorted({*there, *here})
        if _without_none(there.get(key)) != _without_none(here.get(key))
    ]
    shown = [f"{key} is {there.get(key)!r} there and {here.get(key)!r} now" for key in changed[:4]]
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return "; ".join(shown) + more


def _without_none(value: Any) -> Any:
    """Entries of None left out of dicts, at any depth."""
    if isinstance(value, dict):
        return {name: _without_none(entry) for name, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list) else value


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields as ``sampling.frames`` and the like."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "teacher_arguments":
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
