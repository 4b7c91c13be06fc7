"""From composed YAML to objects: `_target_` names a class or function, its signature says what is valid."""

import difflib
import hashlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from slider_lightning.config.base import Settings
from slider_lightning.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
TARGET = "_target_"
# These keys do not change the result and are left out of the run id, so a run keeps its folder on another machine or
# with other speed settings, and is found again to be resumed.
_NOT_DECIDING = (
    "accelerator",
    "cache",
    "checkpoint_every_n_steps",
    "device",
    "log_every_n_steps",
    "progress_bar",
    "rows_per_forward",
    "speed",
    "strategy",
)


def portable_path(path: str) -> str:
    """A path inside the installation as one relative to it, so that no file names a place of one machine."""
    return str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else path


def register_resolvers() -> None:
    """Make `${root:PATH}` (a path of the installation) and `${run_id:KEYS}` (a hash of config nodes) known to YAML."""
    OmegaConf.register_new_resolver("root", lambda path: str(ROOT / path), replace=True)
    OmegaConf.register_new_resolver("run_id", run_id, replace=True)


def run_id(*names: str, _root_: DictConfig) -> str:
    """Eight hex digits that change with any of the named nodes of a config, e.g. "seed" or "sampler.start_timestep"."""
    nodes = {name: OmegaConf.select(_root_, name, throw_on_missing=True) for name in names}
    plain = {
        name: OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        for name, node in nodes.items()
    }
    return hashlib.sha256(canonical_text(plain).encode()).hexdigest()[:8]


def canonical_text(value: Any) -> str:
    """A plain config as one text: the same for equal configs on every machine.

    Where the installation and a `cache` lie is left out, and so is what changes numbers by rounding alone or not at
    all: a model's `speed`, devices, rows per forward, and how often a training logs and writes checkpoints.
    """
    return json.dumps(_text_keys(value), sort_keys=True).replace(f"{ROOT}/", "")


def _text_keys(value: Any) -> Any:
    """The same value with texts for keys, which can be sorted, and whole numbers without a point: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _text_keys(item) for key, item in value.items() if key not in _NOT_DECIDING}
    return [_text_keys(item) for item in value] if isinstance(value, list | tuple) else value


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The composed config with all interpolations resolved, as plain Python values.

    Raises:
        InputError: if a required value (`???`) is missing.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InputError(f"Expected a value for {', '.join(missing)}, but none was given; set it on the command line.")
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def check(node: Mapping[str, Any], where: str = "") -> None:
    """Check every node with a `_target_` below `node` against the signature of its target, without building anything.

    Raises:
        InputError: for an unknown key, a missing value or a value of the wrong type.
    """
    for key, value in node.items():
        if isinstance(value, Mapping):
            check(value, f"{where}{key}.")
    if TARGET not in node:
        return
    if settings := _settings(node, where):
        settings.parse(_values(node), where)
    else:
        _arguments(node, where, built={key: None for key, value in node.items() if _is_target(value)})


def build(node: Mapping[str, Any], where: str = "", **extra: Any) -> Any:
    """Call the `_target_` of a node with its values, nested targets first.

    Args:
        node: a config node.
        where: its place in the config, for errors.
        extra: arguments that come from the program, not from the config.

    Raises:
        InputError: for an unknown key, a missing value or a value of the wrong type.
    """
    if settings := _settings(node, where):
        return settings.parse(_values(node), where)
    built = {key: build(value, f"{where}{key}.") for key, value in node.items() if _is_target(value)}
    return _target(node, where)(**_arguments(node, where, built), **extra)


def _settings(node: Mapping[str, Any], where: str) -> type[Settings] | None:
    target = _target(node, where)
    return target if isinstance(target, type) and issubclass(target, Settings) else None


def _values(node: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a node and of the nodes in it, without their targets."""
    return {
        key: _values(value) if isinstance(value, Mapping) else value for key, value in node.items() if key != TARGET
    }


def _is_target(value: Any) -> bool:
    return isinstance(value, Mapping) and TARGET in value


def _target(node: Mapping[str, Any], where: str) -> Callable[..., Any]:
    if TARGET not in node:
        raise InputError(f"Expected config value {where}{TARGET}, but it is missing; copy it from a file in conf/.")
    try:
        target = get_object(node[TARGET])
    except (ImportError, ValueError) as error:
        raise InputError(f"Expected {where}{TARGET} to name a class or function, but got {node[TARGET]!r}.") from error
    assert callable(target)
    return target


def _arguments(node: Mapping[str, Any], where: str, built: Mapping[str, Any]) -> dict[str, Any]:
    target = _target(node, where)
    parameters = inspect.signature(target).parameters
    hints = _hints(target)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = {key: value for key, value in node.items() if key != TARGET}
    if not open_ended:
        known_keys(given, parameters, where)
    return {
        key: built[key] if key in built else typed(value, hints.get(key, Any), f"{where}{key}")
        for key, value in given.items()
    }


def known_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse keys that are not known.

    Raises:
        InputError: naming the key, and the known one that it resembles.
    """
    names = sorted(known)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {where}{near[0]}" if near else f"known are {', '.join(names)}"
            raise InputError(f"Unknown config key {where}{key}; {hint}.")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except NameError:  # a library's annotations that exist for type checkers only
        return {}


def typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as type `hint` (lists become tuples, "4" becomes 4), or one sentence that says what was expected."""
    if is_dataclass(hint) and isinstance(value, Mapping):
        known_keys(value, [field.name for field in fields(hint)], f"{where}.")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError as error:
        if isinstance(error, PydanticSchemaGenerationError):
            return value
        adapter = TypeAdapter(hint)  # dataclasses carry a configuration of their own
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        kind = getattr(hint, "__name__", None) if inspect.isclass(hint) else str(hint).replace("typing.", "")
        raise InputError(f"Expected config value {where} to be of type {kind}, but got {value!r}.") from error
