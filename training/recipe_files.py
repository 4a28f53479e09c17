"""Configurations from and to plain values, and recipes: the files that hold them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from compactff_md.errors import CompactFFError
from compactff_md.files import write_text

Model = TypeVar("Model", bound=BaseModel)


def make_config(model: type[Model], values: dict[str, Any], source: str = "the configuration") -> Model:
    """Build a configuration from plain values.

    Raises
    ------
    CompactFFError
        Naming the field, its value and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explained(model, problem) for problem in error.errors()]
        raise CompactFFError(f"{source}: " + "; ".join(lines)) from error


def _explained(model: type[BaseModel], problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or model.__name__
    if problem["type"] == "extra_forbidden":
        return f"there is no field {where!r}; allowed are {', '.join(model.model_fields)}"
    if problem["type"] == "missing":
        return f"the field {where!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where} is {problem['input']!r}: {message}" if problem["loc"] else message


def read_config(model: type[Model], path: str | Path, **overrides: Any) -> Model:
    """Read a recipe from YAML or TOML; ``overrides`` that are not None replace its fields.

    Raises
    ------
    CompactFFError
        If the file is missing, is neither, or as in :func:`make_config`.
    """
    values = _read_values(Path(path))
    given = {name: value for name, value in overrides.items() if value is not None}
    return make_config(model, {**values, **given}, str(path))


def _read_values(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CompactFFError(f"no such recipe: {path}")
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise CompactFFError(f"{path} ends in {path.suffix!r}; a recipe ends in .yaml, .yml or .toml")
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CompactFFError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CompactFFError(f"{path} holds {type(values).__name__}; expected fields such as 'size: tiny'")
    return values


def config_values(config: BaseModel) -> dict[str, Any]:
    """Every field in plain types, defaults filled in."""
    return config.model_dump(mode="json")


def write_config(config: BaseModel, path: str | Path) -> None:
    """Write the resolved configuration as YAML, atomically; :func:`read_config` reads it back."""
    write_text(path, yaml.safe_dump(config_values(config), sort_keys=False, allow_unicode=True))
