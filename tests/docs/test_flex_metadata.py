"""deploy/dataflow/metadata.json in the form of Dataflow's templates, and what its launcher makes of the parameters."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from millcert.cli.vet import vet
from millcert.pipelines.runner import pipeline_options, split_arguments

ROOT = Path(__file__).parents[2]
METADATA: dict[str, Any] = json.loads((ROOT / "deploy/dataflow/metadata.json").read_text())
#: Dataflow REST API v1b3: TemplateMetadata, ParameterMetadata, ParameterType.
TEMPLATE_FIELDS = {
    "name", "description", "parameters", "streaming", "supportsAtLeastOnce", "supportsExactlyOnce",
    "defaultStreamingMode", "yamlDefinition",
}  # fmt: skip
PARAMETER_FIELDS = {
    "name": str, "label": str, "helpText": str, "isOptional": bool, "regexes": list, "paramType": str,
    "customMetadata": dict, "groupName": str, "parentName": str, "parentTriggerValues": list, "enumOptions": list,
    "defaultValue": str, "hiddenUi": bool,
}  # fmt: skip
PARAMETER_TYPES = {
    "DEFAULT", "TEXT", "GCS_READ_BUCKET", "GCS_WRITE_BUCKET", "GCS_READ_FILE", "GCS_WRITE_FILE", "GCS_READ_FOLDER",
    "GCS_WRITE_FOLDER", "PUBSUB_TOPIC", "PUBSUB_SUBSCRIPTION", "BIGQUERY_TABLE", "JAVASCRIPT_UDF_FILE",
    "SERVICE_ACCOUNT", "MACHINE_TYPE", "KMS_KEY_NAME", "WORKER_REGION", "WORKER_ZONE", "BOOLEAN", "ENUM", "NUMBER",
    "KAFKA_TOPIC", "KAFKA_READ_TOPIC", "KAFKA_WRITE_TOPIC",
}  # fmt: skip
GIVEN = {
    "data": "gs://bucket/data",
    "policy": "/etc/millcert/policy.yaml",
    "out": "gs://bucket/out",
    "state": "/var/lib/millcert",
    "sdk_container_image": "registry.example/millcert@sha256:" + "ab" * 32,
    "temp_location": "gs://bucket/tmp",
    "project": "some-project",
    "region": "us-central1",
    "service_account_email": "workers@some-project.iam.gserviceaccount.com",
}
MORE = {"max_num_workers": "20", "views": "gs://bucket/views", "selftest": "/etc/millcert/selftest.json"}


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("millcert_dataflow_launch", ROOT / "deploy/dataflow/launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(given: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in given.items()]


def test_the_metadata_has_the_fields_of_a_template_and_no_others() -> None:
    assert set(METADATA) <= TEMPLATE_FIELDS
    assert METADATA["streaming"] is False
    names = [parameter["name"] for parameter in METADATA["parameters"]]
    assert len(set(names)) == len(names)
    for parameter in METADATA["parameters"]:
        assert {"name", "label", "helpText", "paramType", "regexes"} <= set(parameter), parameter["name"]
        assert all(type(value) is PARAMETER_FIELDS[field] for field, value in parameter.items()), parameter["name"]
        assert parameter["paramType"] in PARAMETER_TYPES
        assert all(pattern[0] == "^" and pattern[-1] == "$" for pattern in parameter["regexes"])


def test_every_parameter_is_an_option_of_millcert_or_of_beam(launch: ModuleType, tmp_path: Path) -> None:
    tested = tmp_path / "selftest.json"
    tested.write_text("{}")
    more = {**MORE, "selftest": str(tested), "replace": "true"}
    words = launch.command_of(arguments({**GIVEN, **more}), METADATA)
    assert words[0] == "vet"

    context = vet.make_context("vet", words[1:])
    datasets, options = split_arguments(context.params["arguments"])
    taken = pipeline_options(options).get_all_options()

    assert datasets == (GIVEN["data"],)
    assert str(context.params["policy_path"]) == GIVEN["policy"]
    assert context.params["out"] == GIVEN["out"]
    assert context.params["replace"] is True
    assert context.params["views"] == MORE["views"]
    beams = {"sdk_container_image", "temp_location", "project", "region", "service_account_email"}
    assert {name: taken[name] for name in beams} == {name: GIVEN[name] for name in beams}
    assert (taken["runner"], taken["sdk_location"], taken["max_num_workers"]) == ("DataflowRunner", "container", 20)
    assert {parameter["name"] for parameter in METADATA["parameters"]} == {*GIVEN, *MORE, "replace"}


def test_what_is_optional_may_be_left_out(launch: ModuleType) -> None:
    words = launch.command_of(arguments(GIVEN), METADATA)
    assert "--replace" not in words
    assert words.count("--views") == words.count("--selftest") == 0


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_what_is_not_optional_is_missed(launch: ModuleType, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        launch.command_of(arguments({key: value for key, value in GIVEN.items() if key != name}), METADATA)
    assert ended.value.code == 2
    assert f"--{name} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--template_location=gs://bucket/template", "ends before the job does"),
        ("--extra_package=gs://bucket/x.tar.gz", "Expected --name=value"),
        ("--region", "Expected --name=value"),
        ("--out=gs://bucket/other", "once"),
        ("--max_num_workers=0", "is not of the form"),
        ("--views=/tmp/views", "is not of the form"),
    ],
)
def test_other_parameters_are_refused(
    launch: ModuleType, argument: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        launch.command_of([*arguments(GIVEN), argument], METADATA)
    assert told in capsys.readouterr().err


def test_an_image_that_is_named_by_a_tag_is_refused(launch: ModuleType) -> None:
    assert not any(
        re.fullmatch(pattern, "registry.example/millcert:latest")
        for parameter in METADATA["parameters"]
        if parameter["name"] == "sdk_container_image"
        for pattern in parameter["regexes"]
    )
    with pytest.raises(SystemExit):
        launch.command_of(arguments({**GIVEN, "sdk_container_image": "registry.example/millcert:latest"}), METADATA)
