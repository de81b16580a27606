"""The list of fields: an unlisted column is refused before a sample is read, or is in nothing that a run makes."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.errors import PolicyError
from millcert.pipelines.fields import PlannedFields, permitted_schema
from millcert.pipelines.formats import Decoded
from millcert.pipelines.formats.base import RawSlice
from millcert.pipelines.formats.projection import project_header, project_schema, project_stored
from millcert.policy import parse_policy
from millcert.provenance.admission import admit_path
from millcert.provenance.certificate import verify_certificate
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.keys import load_key, load_public_key

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


SECRET = b"sample 7 of"
USED = {"id": "to find a sample again", "label": "the class", "embedding": "what is learnt from"}


def test_an_unlisted_column_refuses_the_data_before_a_sample_is_read(bench: Workbench) -> None:
    bench.policy["fields"] = {"columns": USED}
    steps: list[str] = []

    with pytest.raises(PolicyError, match="does not list under `fields`: text"):
        bench.vet(engine=bench.plain(before=steps.append))
    assert not bench.out.exists()


def test_listed_columns_change_nothing(bench: Workbench) -> None:
    bench.policy["fields"] = {"columns": {**USED, "text": "shown to annotators", "other": "not there yet"}}

    result = bench.vet()

    assert result.verdict.decision == "admitted"
    assert result.verdict.output_root == result.verdict.input_root
    assert "dropped_columns" not in bench.verdict()


def test_a_dropped_column_is_in_nothing_that_is_published(bench: Workbench) -> None:
    (bench.top / "profile.key").write_text("5a" * 32)
    bench.policy |= {"fields": {"unlisted": "drop", "columns": USED}, "profile": {"hash_key": "profile.key"}}
    bench.policy["checks"][0] |= {"on_flagged": "quarantine"}

    result = bench.vet()

    assert result.verdict.decision == "admitted"
    assert bench.verdict()["dropped_columns"] == ["text"]
    assert pq.read_schema(bench.out / "admitted" / "north" / "a.parquet").names == ["id", "label", "embedding"]
    with pa.ipc.open_file(bench.out / "admitted" / "south" / "c.arrow") as reader:
        assert reader.schema.names == ["id", "label", "embedding"]
    rows = [
        json.loads(line) for line in (bench.out / "admitted" / "north" / "deep" / "b.jsonl").read_text().splitlines()
    ]
    before = [json.loads(line) for line in (bench.data / "north" / "deep" / "b.jsonl").read_text().splitlines()]
    assert rows == [{name: row[name] for name in USED} for row in before]
    published = [path for path in bench.out.rglob("*") if path.is_file()]
    assert [path for path in published if SECRET in path.read_bytes()] == []
    keys, origin = [load_public_key(bench.top / "state" / "keys" / "gate.pub")], "test.example/ledger"
    vkeys = [vkey_of(origin, load_key(bench.top / "state/keys/ledger.key"))]
    certificate = verify_certificate((bench.out / "certificate.json").read_bytes(), gate_keys=keys, ledger_vkeys=vkeys)
    assert admit_path(bench.out / "admitted", certificate).files == 3


def test_a_role_that_is_not_listed_is_a_fault_of_the_policy(bench: Workbench) -> None:
    bench.policy["fields"] = {"columns": {"id": "x", "embedding": "y"}}

    with pytest.raises(PolicyError, match="the column 'label' is not listed in fields"):
        parse_policy(bench.save_policy().read_text(), origin="p")


def test_a_list_without_a_column_is_refused(bench: Workbench) -> None:
    bench.policy["fields"] = {"columns": {}}

    with pytest.raises(PolicyError, match="at least one column"):
        parse_policy(bench.save_policy().read_text(), origin="p")


def test_a_list_of_other_columns_only_is_refused(bench: Workbench) -> None:
    bench.policy["fields"] = {"unlisted": "drop", "columns": {"other": "x"}}
    bench.policy["dataset"]["columns"] = {}
    bench.policy["checks"] = [{"check": "near_duplicates", "max_flagged_fraction": 0.1}]
    bench.policy["dataset"]["columns"] = {"text": "other"}

    with pytest.raises(PolicyError, match="none of the columns"):
        bench.vet()


def raw(*records: bytes) -> Decoded:
    ends = np.cumsum([len(one) for one in records])
    data = RawSlice(b"".join(records), np.concatenate([[0], ends[:-1]]), ends)
    return Decoded(np.arange(len(records)), pa.RecordBatch.from_pydict({"x": [1] * len(records)}), data)


def written(decoded: Decoded) -> list[bytes]:
    assert decoded.raw is not None
    return list(decoded.raw.records())


def test_a_csv_record_keeps_the_listed_fields_as_they_were_written() -> None:
    header = b'\xef\xbb\xbfa,"b ""x""",c\r\n'
    records = raw(b'"1,""2""\n3",zwei,\r\n', b",,\n", b'1,"",2')

    found = written(project_stored(records, frozenset({"a", "c"}), header))

    assert found == [b'"1,""2""\n3",\r\n', b",\n", b"1,2"]
    assert project_header(header, frozenset({'b "x"'})) == b'\xef\xbb\xbf"b ""x"""\r\n'
    assert written(project_stored(raw(b",x,\n"), frozenset({"a"}), header)) == [b'""\n']


def test_a_json_record_keeps_the_listed_members_as_they_were_written() -> None:
    records = raw(
        b'  { "a" : 1.50e0 , "b":{"a":[1,"}"]},"\\u0063":"\\u00e9" }\r\n', b"{}\n", '{"b":"é","a":null}'.encode()
    )

    found = written(project_stored(records, frozenset({"a", "c"}), b""))

    assert found == [b'{"a" : 1.50e0, "\\u0063":"\\u00e9"}\r\n', b"{}\n", b'{"a":null}']


def test_metadata_speaks_of_no_dropped_column() -> None:
    features = {"info": {"features": {"a": {"dtype": "int64"}, "b": {"dtype": "int64"}}}}
    metadata = {b"pandas": b"b", b"huggingface": json.dumps(features).encode(), b"own": b"1"}
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64())], metadata=metadata)

    cut = project_schema(schema, frozenset({"a"}))
    odd = project_schema(schema.with_metadata({b"huggingface": b"no json"}), frozenset({"a"}))

    assert cut.names == ["a"]
    assert list(json.loads(cut.metadata[b"huggingface"])["info"]["features"]) == ["a"]
    assert (b"pandas" in cut.metadata, cut.metadata[b"own"]) == (False, b"1")
    assert odd.metadata == {b"huggingface": b"{}"}


def test_a_part_of_a_nested_column_is_refused_and_no_column_of_that_name_is() -> None:
    nested = pa.schema([("meta", pa.struct([("lang", pa.string())])), ("x", pa.int64())])

    with pytest.raises(PolicyError, match=r"'meta\.lang', which is a part of the column 'meta'"):
        permitted_schema(PlannedFields(frozenset({"meta.lang", "x"}), "drop"), nested)
    named = pa.schema([("meta.lang", pa.string()), ("y", pa.int64())])
    kept, dropped = permitted_schema(PlannedFields(frozenset({"meta.lang", "x.y"}), "drop"), named)
    assert (kept.names, dropped) == (["meta.lang"], ("y",))
