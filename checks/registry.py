"""Which checks there are, by name: ours, one file each in `checks/detectors/`, and plug-ins of group `millcert.checks`.

A check is imported when its name is asked for, not before. Two checks of one name are refused whoever asks: which of
them would run must never depend on the order of an installation.
"""

import dataclasses
import pkgutil
import re
import types
import typing
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from millcert.checks import detectors
from millcert.checks.base import Check
from millcert.errors import PolicyError, UnknownCheckError

#: Entry point group of plug-ins: `name = "package.module:TheClass"`.
GROUP = "millcert.checks"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PARTS = ("version", "columns", "severity", "covers", "passes", "empty", "add", "merge", "fit", "score", "evidence")


def list_checks() -> tuple[str, ...]:
    """Return the names of all checks, sorted; imports none of them.

    Raises:
        UnknownCheckError: two checks have one name.
    """
    return tuple(sorted([*_ours(), *_plugins()]))


def get_check(name: str, config: Mapping[str, object] | None = None) -> Check:
    """Return the check of that name with that configuration.

    Args:
        name: as in a policy.
        config: field -> value, of JSON or YAML types; lists become tuples. Fields left out keep their defaults.

    Raises:
        UnknownCheckError: there is no such check, two are called so, or its plug-in cannot be loaded.
        PolicyError: a field is unknown, missing, of another type, or out of its range; `faults` names every such field.
    """
    return build_check(check_class(name), config or {})


def check_class(name: str) -> type[Check]:
    """Return the class behind a name.

    Raises:
        UnknownCheckError: as for `get_check`.
    """
    plugins = _plugins()
    if name in plugins:
        return _loaded(name, plugins[name])
    if name in _ours():
        module = import_module(f"{detectors.__name__}.{name}")
        return _sound(name, getattr(module, "CHECK", None), module.__name__)
    known = ", ".join(sorted([*_ours(), *plugins]))
    raise UnknownCheckError(f"There is no check {name!r}.", hint=f"Known checks: {known}.", name=name)


def build_check(kind: type[Check], config: Mapping[str, object]) -> Check:
    """Return a check of this class with its fields set from a configuration; see `get_check`."""
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]  # loaded so
    hints = get_type_hints(kind)
    values: dict[str, object] = {}
    faults: dict[str, str] = {}
    for key, value in config.items():
        if key not in fields:
            faults[str(key)] = f"no such field; the check has {', '.join(sorted(fields)) or 'none'}"
            continue
        try:
            values[key] = _converted(value, hints[key])
        except TypeError:
            faults[key] = f"must be {_spelled(hints[key])}, got {value!r}"
    for key, field in fields.items():
        if key not in config and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults[key] = "is required"
    if faults:
        raise _refused(kind.name, [f"{key}: {fault}" for key, fault in faults.items()], "", next(iter(faults)))
    try:
        return kind(**values)
    except PolicyError as error:
        named = next((key for key in fields if re.match(rf"{key}\b", error.message)), None)
        raise _refused(kind.name, [error.message.rstrip(".")], error.hint, named) from error


def config_of(check: Check) -> dict[str, object]:
    """Return the configuration of a check, every field, in JSON types: what `get_check` makes an equal check of."""
    return {
        field.name: _plain(getattr(check, field.name))
        for field in dataclasses.fields(check)  # type: ignore[arg-type]  # a check is a dataclass
        if field.init
    }


def describe_fields(kind: type[Check]) -> list[dict[str, object]]:
    """Return a check's configuration fields in their order: name, type as text, required, default (JSON types)."""
    hints = get_type_hints(kind)
    described: list[dict[str, object]] = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # a check is a dataclass
        if not field.init:
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        required = default is dataclasses.MISSING
        described.append(
            {
                "name": field.name,
                "type": _spelled(hints[field.name]),
                "required": required,
                "default": None if required else _plain(default),
            }
        )
    return described


def _refused(name: str, faults: list[str], hint: str, key: str | None) -> PolicyError:
    """Return the error for a wrong configuration; `key` is the first field at fault, None where no one field is."""
    return PolicyError(
        f"The configuration of check {name} is wrong: {'; '.join(faults)}.", hint=hint, faults=tuple(faults), key=key
    )


def _ours() -> tuple[str, ...]:
    return tuple(
        sorted(module.name for module in pkgutil.iter_modules(detectors.__path__) if _NAME.fullmatch(module.name))
    )


def _plugins() -> dict[str, EntryPoint]:
    """Return the plug-ins by name; one that is installed twice alike counts once."""
    found: dict[str, EntryPoint] = {}
    ours = _ours()
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        rival = found.get(point.name)
        if point.name in ours or (rival is not None and rival.value != point.value):
            raise UnknownCheckError(
                f"Two checks are called {point.name!r}: {point.value} and {rival.value if rival else 'ours'}.",
                hint="Uninstall one of them.",
                name=point.name,
            )
        if _NAME.fullmatch(point.name) is None:
            raise UnknownCheckError(f"A plug-in's name must be lower_snake_case, got {point.name!r}.", name=point.name)
        found[point.name] = point
    return found


def _loaded(name: str, point: EntryPoint) -> type[Check]:
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise UnknownCheckError(
            f"The plug-in {point.value} of check {name!r} cannot be loaded: {error}",
            hint="Install it again.",
            name=name,
        ) from error
    return _sound(name, kind, point.value)


def _sound(name: str, kind: object, where: str) -> type[Check]:
    """Return the class if it is what a check must be."""
    fault = ""
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        fault = "it is not a dataclass"
    elif not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # every dataclass has them
        fault = "it is not frozen"
    elif missing := [part for part in _PARTS if not hasattr(kind, part)]:
        fault = f"it lacks {', '.join(missing)}"
    elif getattr(kind, "name", None) != name:
        fault = f"it calls itself {getattr(kind, 'name', None)!r}"
    if fault:
        raise UnknownCheckError(
            f"{where} is registered as check {name!r}, but {fault}.",
            hint="See the conformance suite: millcert check conform.",
            name=name,
        )
    return typing.cast("type[Check]", kind)


def _converted(value: object, hint: Any) -> object:
    """Return a value of JSON or YAML as the type of a field.

    Raises:
        TypeError: it is of another type.
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _converted_to_one_of(value, get_args(hint))
    if origin is Literal:
        fits = any(value == option and type(value) is type(option) for option in get_args(hint))
    elif origin is tuple:
        return _converted_items(value, get_args(hint))
    elif origin is frozenset and isinstance(value, list | tuple | frozenset):
        return frozenset(_converted(item, get_args(hint)[0]) for item in value)
    elif hint is float and type(value) is int:
        return float(value)
    elif hint in (int, float, str, bool, type(None)):
        fits = type(value) is hint
    else:
        fits = hint is Any or isinstance(value, origin or hint)
    if not fits:
        raise TypeError
    return value


def _converted_to_one_of(value: object, hints: tuple[Any, ...]) -> object:
    for hint in hints:
        try:
            return _converted(value, hint)
        except TypeError:
            continue
    raise TypeError


def _converted_items(value: object, hints: tuple[Any, ...]) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_converted(item, hints[0]) for item in value)
    if len(value) != len(hints):
        raise TypeError
    return tuple(_converted(item, hint) for item, hint in zip(value, hints, strict=True))


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, frozenset):
        return sorted((_plain(item) for item in value), key=repr)
    return value


def _spelled(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(option) for option in get_args(hint))
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)
