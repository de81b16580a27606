"""The registry: names to checks, plug-ins by entry point, configuration from a policy."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest

from millcert.checks import registry
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.registry import build_check, check_class, config_of, describe_fields, get_check, list_checks
from millcert.errors import PolicyError, UnknownCheckError


@dataclass(frozen=True)
class Configured(RobustSpectral):
    """A check with a field of every type that a policy can hold."""

    name: ClassVar[str] = "configured"

    rate: float = 0.5
    mode: Literal["a", "b"] = "a"
    classes: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    names: frozenset[str] = frozenset()
    limit: int | None = None
    is_strict: bool = False
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Thawed:
    """Not frozen."""


def plugins(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "millcert.checks" else ())


def here(name: str, attribute: str, monkeypatch: pytest.MonkeyPatch) -> EntryPoint:
    module = SimpleNamespace(Configured=Configured, Thawed=Thawed, number=3)
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    return EntryPoint(name, f"a_plugin:{attribute}", "millcert.checks")


def test_our_checks_are_listed_and_can_be_had() -> None:
    names = list_checks()

    assert {"robust_spectral", "spectral_signatures", "label_noise"} <= set(names)
    assert list(names) == sorted(names)
    assert get_check("robust_spectral", {"seed": 3}) == RobustSpectral(seed=3)
    assert get_check("robust_spectral") == RobustSpectral()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownCheckError, match="robust_spectral"):
        get_check("robust_spectrall")
    with pytest.raises(UnknownCheckError):
        get_check("__init__")


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(PolicyError, match="no such field") as caught:
        get_check("robust_spectral", {"sede": 1, "max_directions": "many"})

    assert len(caught.value.details["faults"]) == 2  # type: ignore[arg-type]  # a tuple of texts
    assert caught.value.key == "sede"


def test_a_missing_field_and_one_out_of_range_are_named() -> None:
    with pytest.raises(PolicyError, match="epsilon: is required"):
        get_check("spectral_signatures", {})
    with pytest.raises(PolicyError, match="epsilon must be in") as caught:
        get_check("spectral_signatures", {"epsilon": 1})
    assert caught.value.key == "epsilon"


@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("rate", 1, 1.0),
        ("mode", "b", "b"),
        ("classes", ["x", "y"], ("x", "y")),
        ("pair", [3, 4], (3, 4.0)),
        ("names", ["x"], frozenset({"x"})),
        ("limit", None, None),
        ("limit", 4, 4),
        ("is_strict", True, True),
        ("extra", {"a": 1.0}, {"a": 1.0}),
    ],
)
def test_values_of_a_policy_become_those_of_the_field(key: str, given: object, kept: object) -> None:
    value = getattr(build_check(Configured, {key: given}), key)

    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("rate", "1"),
        ("rate", True),
        ("mode", "c"),
        ("classes", "xy"),
        ("classes", [1]),
        ("pair", [3]),
        ("pair", 3),
        ("names", "x"),
        ("limit", 4.5),
        ("limit", True),
        ("is_strict", 1),
        ("extra", [1]),
    ],
)
def test_values_of_another_type_are_refused(key: str, given: object) -> None:
    with pytest.raises(PolicyError, match=f"{key}: must be"):
        build_check(Configured, {key: given})


def test_a_configuration_round_trips_through_json_types() -> None:
    check = build_check(Configured, {"classes": ["x"], "names": ["b", "a"], "pair": [1, 2]})

    config = config_of(check)

    assert config["classes"] == ["x"]
    assert config["names"] == ["a", "b"]
    assert build_check(Configured, {key: value for key, value in config.items() if key != "extra"}) == check


def test_fields_are_described_with_their_defaults() -> None:
    described = {item["name"]: item for item in describe_fields(Configured)}

    assert described["mode"]["type"] == "'a' or 'b'"
    assert described["rate"] == {"name": "rate", "type": "float", "required": False, "default": 0.5}
    assert described["extra"]["default"] == {}
    assert describe_fields(check_class("spectral_signatures"))[0]["required"] is True


def test_a_plug_in_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = here("configured", "Configured", monkeypatch)
    plugins(monkeypatch, point, point)

    assert "configured" in list_checks()
    assert isinstance(get_check("configured", {"rate": 0.25}), Configured)


@pytest.mark.parametrize("name", ["robust_spectral", "configured"])
def test_two_checks_of_one_name_are_refused_whichever_is_asked_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plugins(monkeypatch, here(name, "Configured", monkeypatch), here(name, "Thawed", monkeypatch))

    for ask in (list_checks, lambda: get_check("label_noise"), lambda: get_check(name)):
        with pytest.raises(UnknownCheckError, match="Two checks"):
            ask()


@pytest.mark.parametrize(
    ("name", "attribute", "fault"),
    [
        ("configured", "Missing", "cannot be loaded"),
        ("configured", "number", "not a dataclass"),
        ("configured", "Thawed", "not frozen"),
        ("other", "Configured", "calls itself"),
        ("No-Name", "Configured", "lower_snake_case"),
    ],
)
def test_a_broken_plug_in_is_named(monkeypatch: pytest.MonkeyPatch, name: str, attribute: str, fault: str) -> None:
    plugins(monkeypatch, here(name, attribute, monkeypatch))

    with pytest.raises(UnknownCheckError, match=fault):
        get_check(name)


def test_a_frozen_dataclass_that_is_no_check_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Odd:
        name: ClassVar[str] = "odd"

    monkeypatch.setitem(sys.modules, "a_plugin", SimpleNamespace(Odd=Odd))
    plugins(monkeypatch, EntryPoint("odd", "a_plugin:Odd", "millcert.checks"))

    with pytest.raises(UnknownCheckError, match="lacks version"):
        get_check("odd")


def test_listing_names_imports_no_detector() -> None:
    """Heavy libraries stay out of start-up: a detector is imported when its name is asked for."""
    code = (
        "import sys; from millcert.checks.registry import list_checks; list_checks();"
        "print([m for m in sys.modules if m.startswith('millcert.checks.detectors.')])"
    )

    out: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"
