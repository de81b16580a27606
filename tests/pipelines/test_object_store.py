"""The whole job on an object store: data, staging and output in buckets of a local S3 server (moto).

`make test-s3` installs what it needs and runs it; elsewhere it is left out.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from millcert.cli.main import main
from millcert.errors import DigestMismatchError, StoreError, UsageError
from millcert.pipelines.driver import VetOptions, VetResult, vet_dataset
from millcert.pipelines.publish import write_file
from millcert.pipelines.remote_file import create_remote
from millcert.pipelines.work_gc import choose_garbage, delete_entries, list_entries
from millcert.policy import load_policy
from millcert.provenance.ledger import open_ledger

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]  # boto3's and moto's own warnings


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """A bucket with the workbench's data in it, and how to run the gate there."""

    def __init__(self, bench: Workbench, endpoint: str) -> None:
        self.bench = bench
        self.state = bench.top / "s3-state"  # a verdict says what changed since the last version in its own ledger
        self.name = hashlib.sha256(str(bench.top).encode()).hexdigest()[:40]
        self.arguments = (
            f"--s3_endpoint_url={endpoint}",
            "--s3_access_key_id=test",
            "--s3_secret_access_key=test",
            "--s3_region_name=us-east-1",
        )
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=self.name)
        for path in bench.data.rglob("*"):
            if path.is_file():
                self.client.put_object(
                    Bucket=self.name, Key=f"data/{path.relative_to(bench.data).as_posix()}", Body=path.read_bytes()
                )

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return {
            each["Key"].removeprefix(prefix): self.client.get_object(Bucket=self.name, Key=each["Key"])["Body"].read()
            for each in found
        }

    def vet(
        self, *, after: Callable[[str], None] = lambda _: None, replace: bool = False, out: str = "out", **more: Any
    ) -> VetResult:
        options = VetOptions(
            (f"s3://{self.name}/data",),
            f"s3://{self.name}/{out}",
            self.state,
            replace=replace,
            workers=1,
            beam_arguments=self.arguments,
            **more,
        )
        return vet_dataset(load_policy(self.bench.save_policy()), options, after=after)

    def verdicts(self) -> int:
        with open_ledger(self.state / "ledger.db", origin="test.example/ledger") as ledger:
            return len(ledger.find(kind="verdict"))


@pytest.fixture
def bucket(bench: Workbench, endpoint: str) -> Bucket:
    return Bucket(bench, endpoint)


def admitted_digests(found: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items() if name.startswith("admitted/")}


def test_a_bucket_gives_the_verdict_and_the_files_that_a_folder_gives(bucket: Bucket) -> None:
    local = bucket.bench.vet()

    remote = bucket.vet()

    found = bucket.objects("out/")
    here = {
        path.relative_to(bucket.bench.out).as_posix(): path.read_bytes()
        for path in bucket.bench.out.rglob("*")
        if path.is_file()
    }
    assert remote.verdict.digest == local.verdict.digest
    assert remote.verdict.decision == "admitted"
    assert admitted_digests(found) == admitted_digests(here) != {}
    assert json.loads(found["verdict.json"]) == json.loads(here["verdict.json"])
    # Nothing but data and output is left: the staging folder is gone.
    assert {name.split("/")[0] for name in bucket.objects()} == {"data", "out"}


class Stopped(Exception):
    """What a test stops a run with."""


def stop_at(step: str) -> Callable[[str], None]:
    def after(done: str) -> None:
        if done.startswith(step):
            raise Stopped

    return after


@pytest.mark.parametrize("step", ["decided", "recorded", "certificate.json", "admitted/", "verdict.json"])
def test_a_run_that_stops_while_it_publishes_is_finished_by_the_next_one(bucket: Bucket, step: str) -> None:
    """There is no verdict before all is there, so nobody takes a half for a whole; and nothing is decided twice."""
    local = bucket.bench.vet()
    with pytest.raises(Stopped):
        bucket.vet(after=stop_at(step))
    left = bucket.objects("out/")
    assert ("verdict.json" in left) == (step == "verdict.json")
    assert ("certificate.json" in left) >= any(name.startswith("admitted/") for name in left)
    assert {name.split("/")[0] for name in bucket.objects()} <= {"data", "out"}

    finished = bucket.vet()

    assert finished.verdict.digest == local.verdict.digest
    assert finished.decided_at
    assert bucket.verdicts() == 1
    here = {path.relative_to(bucket.bench.out).as_posix(): path.read_bytes() for path in files_of(bucket.bench.out)}
    assert admitted_digests(bucket.objects("out/")) == admitted_digests(here) != {}
    assert {name.split("/")[0] for name in bucket.objects()} == {"data", "out"}


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_half_output_under_another_policy_is_replaced_and_one_of_somebody_else_is_not(bucket: Bucket) -> None:
    with pytest.raises(Stopped):
        bucket.vet(after=stop_at("admitted/"))
    bucket.bench.policy["checks"][0]["max_flagged_fraction"] = 0.2

    assert bucket.vet().decided_at == ""

    assert bucket.verdicts() == 2
    bucket.client.put_object(Bucket=bucket.name, Key="other/admitted/a.parquet", Body=b"mine")
    with pytest.raises(UsageError, match="is not the output of an earlier run"):
        bucket.vet(out="other", replace=True)


def test_a_run_is_resumed_on_a_bucket_and_work_is_kept_there(bucket: Bucket) -> None:
    """`--resume` takes files and work from the folder that was left; `--work s3://...` from runs that ended."""

    def fail(step: str) -> None:
        if step == "computed":
            raise StoreError("The machine failed.")

    local = bucket.bench.vet()
    work = f"s3://{bucket.name}/work"
    with pytest.raises(StoreError):
        bucket.vet(after=fail, least_work_bytes=0, work=work)
    assert any(".staging-" in name for name in bucket.objects())

    resumed = bucket.vet(resume=True, least_work_bytes=0, work=work)
    again = bucket.vet(out="again", least_work_bytes=0, work=work)

    assert resumed.verdict.digest == again.verdict.digest == local.verdict.digest
    # An object has no inode that would tell another one of the same name, so its bytes are hashed again.
    assert {one.step for one in resumed.work if one.done} == {"hash"}
    assert {one.step for one in again.work if one.done} == {"hash"}  # nothing is held back in these files
    assert sum(one.refused + one.failed for one in (*resumed.work, *again.work)) == 0
    here = {path.relative_to(bucket.bench.out).as_posix(): path.read_bytes() for path in files_of(bucket.bench.out)}
    for out in ("out/", "again/"):
        assert admitted_digests(bucket.objects(out)) == admitted_digests(here) != {}
    assert {name.split("/")[0] for name in bucket.objects()} == {"again", "data", "out", "work"}
    entries = list_entries(work)
    assert entries
    delete_entries(choose_garbage(entries, max_bytes=0))
    assert list_entries(work) == []


def test_empty_files_are_published_to_a_bucket_as_to_a_folder(bench: Workbench, endpoint: str) -> None:
    """S3 takes no upload of no parts, which is what Beam makes of a file without bytes."""
    (bench.data / "north" / "README.md").write_bytes(b"")
    bench.sign("north")
    bucket = Bucket(bench, endpoint)
    local = bench.vet()

    remote = bucket.vet()

    found = bucket.objects("out/")
    here = {path.relative_to(bench.out).as_posix(): path.read_bytes() for path in files_of(bench.out)}
    assert remote.verdict.digest == local.verdict.digest
    assert admitted_digests(found) == admitted_digests(here)
    assert found["admitted/north/README.md"] == b""


@pytest.mark.parametrize("parts", [(), (b"",), (b"a", b"", b"bc")], ids=["no write", "nothing written", "three writes"])
def test_an_object_is_what_was_written_to_it(bucket: Bucket, parts: tuple[bytes, ...]) -> None:
    FileSystems.set_options(PipelineOptions(list(bucket.arguments)))
    stream = create_remote(f"s3://{bucket.name}/made/it")
    for part in parts:
        stream.write(part)
    assert stream.tell() == len(b"".join(parts))
    stream.close()
    stream.close()

    assert bucket.objects("made/") == {"it": b"".join(parts)}


def test_a_write_that_fails_leaves_nothing_and_is_the_systems_error(bucket: Bucket) -> None:
    FileSystems.set_options(PipelineOptions(list(bucket.arguments)))
    with pytest.raises(Stopped), create_remote(f"s3://{bucket.name}/made/it"):
        raise Stopped
    for data in (b"", b"a"):
        with pytest.raises(OSError, match="no-such-bucket"), create_remote("s3://no-such-bucket/it") as stream:
            stream.write(data)
        with pytest.raises(StoreError):
            write_file("s3://no-such-bucket/it", data)

    assert bucket.objects("made/") == {}


def test_an_earlier_output_is_replaced_only_when_asked_and_tampered_data_is_refused(bucket: Bucket) -> None:
    bucket.vet()
    with pytest.raises(UsageError, match="exists already"):
        bucket.vet()
    key = "data/north/a.parquet"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=bucket.objects(key)[""] + b" ")

    with pytest.raises(DigestMismatchError):
        bucket.vet(replace=True)


def test_a_bucket_that_is_not_there_is_a_store_error_before_anything_is_written(bucket: Bucket) -> None:
    bucket.name = "no-such-bucket"
    with pytest.raises((StoreError, UsageError)):
        bucket.vet()


def test_what_a_bucket_holds_is_admitted_until_an_object_changes(
    bucket: Bucket, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`millcert admit s3://...` finds endpoint and credentials in the environment, as the store's own client does."""
    bucket.vet()
    told = {
        "ENDPOINT_URL": endpoint,
        "ACCESS_KEY_ID": "test",
        "SECRET_ACCESS_KEY": "test",
        "DEFAULT_REGION": "us-east-1",
    }
    for name, value in told.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    arguments = ["admit", f"s3://{bucket.name}/out/admitted", "--state", str(bucket.state)]

    assert main(arguments) == 0
    key = "out/admitted/north/a.parquet"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=bucket.objects(key)[""] + b" ")
    assert main(arguments) == 3
