"""`millcert source fetch` and `recheck`: who signed the list, what appears, what is said, and the exit code."""

import base64
import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from millcert.cli.main import main
from millcert.errors import HostileDataError, ManifestError, UsageError
from millcert.pipelines.url_table import read_url_list
from millcert.testing.https_server import LocalHttps
from millcert.testing.sigstore import PrivateSigstore

ISSUER, CURATOR = "https://accounts.private.test", "curator@data.example"
A, B = b"id,text\n1,a\n", b"id,text\n2,b\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def running() -> Iterator[LocalHttps]:
    with LocalHttps() as server:
        yield server


class Case:
    """A folder with a list over a local server, and the calls that use it."""

    def __init__(self, server: LocalHttps, top: Path) -> None:
        self.server = server
        self.top = top
        server.routes.clear()
        server.requests.clear()
        self.write(
            [
                {"url": server.serve("/a.csv", A), "sha256": sha256(A)},
                {"url": server.serve("/b.csv", B), "sha256": sha256(B)},
            ]
        )

    @property
    def table(self) -> Path:
        return self.top / "list.csv"

    @property
    def out(self) -> Path:
        return self.top / "web"

    def write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        self.table.write_text(text.getvalue())

    def local(self) -> list[str]:
        return ["--ca-file", str(self.server.authorities), "--unsafe-private-addresses", "--retries", "0", "--quiet"]

    def fetch(self, *more: str, unsigned: bool = True) -> int:
        unsafe = ["--unsafe-unsigned-list"] if unsigned else []
        return main(["source", "fetch", str(self.table), "--out", str(self.out), *self.local(), *unsafe, *more])

    def recheck(self, *more: str) -> int:
        return main(["source", "recheck", str(self.table), *self.local(), "--unsafe-unsigned-list", *more])


@pytest.fixture
def case(running: LocalHttps, tmp_path: Path) -> Case:
    return Case(running, tmp_path)


def test_a_fetched_list_is_a_folder_with_a_manifest_and_says_what_to_do_next(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert case.fetch() == 0
    answer = capsys.readouterr()
    lines = answer.out.splitlines()
    assert lines[0] == f"fetched  {case.out}  2 files, {len(A + B)} bytes, of 2 rows (0 were here already)"
    assert lines[1] == "  list: list.csv, UNSIGNED: nobody vouches for its digests"
    assert lines[-1] == f"next: millcert source sign {case.out} --name web --key KEY (or --keyless), then millcert vet"
    assert answer.err == f"unsafe: nobody vouches for {case.table}; whoever wrote it chose the digests, too\n"
    assert sorted(path.read_bytes() for path in case.out.rglob("*.csv")) == [A, B]
    assert (case.top / "web.results.jsonl").exists()


def test_a_second_fetch_asks_nobody(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.fetch()
    bundle = case.out / "millcert-manifest.json.sigstore.json"
    bundle.write_text("{}")
    case.server.requests.clear()
    capsys.readouterr()
    assert case.fetch("--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["fetched"], answer["reused"], answer["files"], answer["rows"]) == (0, 2, 2, 2)
    assert case.server.requests == []
    assert bundle.exists()


def test_swapped_content_is_exit_3_and_nothing_appears(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.server.serve("/a.csv", b"id,text\n1,poison\n")
    assert case.fetch("--json") == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["exit_code"]) == ("integrity.digest_mismatch", 3)
    assert "split view" in error["message"]
    assert not case.out.exists()
    results = [json.loads(line) for line in (case.top / "web.results.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in results[1:]] == ["split_view", "verified"]


@pytest.mark.parametrize(("status", "code"), [(404, 4), (503, 5), (204, 3)])
def test_gone_unreachable_and_refused_have_their_own_exit_codes(case: Case, status: int, code: int) -> None:
    case.server.serve("/a.csv", b"", status=status)
    assert case.fetch() == code
    assert not case.out.exists()


def test_rows_that_are_left_out_are_listed(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.server.serve("/a.csv", b"swapped")
    assert case.fetch("--drop", "split_view") == 0
    answer = capsys.readouterr().out
    assert "left out: 1 rows" in answer
    assert f"split_view    row 0: {case.server.url('/a.csv')} (digest)" in answer
    case.server.serve("/a.csv", A)
    assert case.fetch("--drop", "split_view") == 2  # there is an output already
    assert case.fetch("--replace", "--json") == 0
    assert len(list(case.out.rglob("*.csv"))) == 2


def test_another_name_over_the_same_files_needs_replace(case: Case) -> None:
    assert case.fetch() == 0
    assert case.fetch("--name", "other") == 2
    assert case.fetch("--name", "other", "--replace") == 0


def test_the_private_network_is_out_of_reach_without_the_unsafe_option(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [one for one in case.local() if one != "--unsafe-private-addresses"]
    code = main(["source", "fetch", str(case.table), "--out", str(case.out), "--unsafe-unsigned-list", *options])
    assert code == 3
    assert "no public address" in capsys.readouterr().err
    assert case.server.requests == []


def test_a_redirect_to_another_host_needs_its_name(case: Case) -> None:
    port = case.server.port
    case.server.serve("/a.csv", b"", status=302, headers={"Location": f"https://127.0.0.1:{port}/x"})
    assert case.fetch() == 3
    case.server.serve("/a.csv", b"", status=302, headers={"Location": "/x.csv"})
    case.server.serve("/x.csv", A)
    assert case.fetch() == 0


# Who signed the list


def policy_for(case: Case, kit: PrivateSigstore, **rule: Any) -> list[str]:
    root = kit.trusted_root()
    (case.top / "root.json").write_bytes(root)
    said = {"name": "web", "path": "web/**", "signed_by": {"issuer": ISSUER, "identity": CURATOR}, **rule}
    policy = {
        "version": 1,
        "dataset": {"name": "d", "columns": {"label": "label", "embedding_external": "e"}, "max_malformed_fraction": 0},
        "trust": {"trusted_root": "root.json", "trusted_root_sha256": sha256(root)},
        "sources": [said, {"name": "open", "path": "open/**", "unsigned": "accept_as_unknown"}],
        "checks": [{"check": "label_noise", "max_flagged_fraction": 0.5}],
        "verdict": {"max_quarantined_fraction": 0.5, "max_unknown_provenance_fraction": 0},
        "ledger": {"origin": "test.example/ledger"},
    }
    (case.top / "policy.yaml").write_text(yaml.safe_dump(policy))
    return ["--policy", str(case.top / "policy.yaml"), "--source", "web"]


def sign(case: Case, kit: PrivateSigstore, identity: str = CURATOR) -> Path:
    bundle = case.top / "list.csv.sigstore.json"
    bundle.write_bytes(kit.sign_artifact(case.table.read_bytes(), identity=identity, issuer=ISSUER))
    return bundle


def test_a_list_that_its_curator_signed_is_fetched(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    kit = PrivateSigstore()
    sign(case, kit)
    assert case.fetch(*policy_for(case, kit), unsigned=False) == 0
    assert f"list: list.csv, signed by {CURATOR}" in capsys.readouterr().out
    head = json.loads((case.top / "web.results.jsonl").read_text().splitlines()[0])
    assert head["list"]["identity"] == CURATOR


@pytest.mark.parametrize("change", ["one byte", "another signer", "no bundle", "too fresh", "expired"])
def test_a_list_that_its_curator_did_not_sign_is_refused_before_anything_is_fetched(case: Case, change: str) -> None:
    kit = PrivateSigstore()
    bundle = sign(case, kit, "stranger@data.example" if change == "another signer" else CURATOR)
    rule: dict[str, Any] = {}
    if change == "one byte":
        case.table.write_text(case.table.read_text().replace("a.csv", "A.csv"))
    elif change == "no bundle":
        bundle.unlink()
    elif change == "too fresh":
        rule = {"min_age_days": 30}
    elif change == "expired":
        rule = {"expires": "2020-01-01"}
    assert case.fetch(*policy_for(case, kit, **rule), unsigned=False) == 3
    assert case.server.requests == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "Nobody was named who may sign the list"),
        (["--source", "web"], "Nobody was named"),
        (["--policy", "POLICY", "--source", "nobody"], "no source 'nobody'; it has web, open"),
        (["--policy", "POLICY", "--source", "open"], "signed by nobody"),
        (["--policy", "POLICY", "--source", "web", "--unsafe-unsigned-list"], "verifies nothing"),
    ],
)
def test_who_may_sign_the_list_must_be_said(
    case: Case, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = policy_for(case, PrivateSigstore())[1]
    assert case.fetch(*[named if one == "POLICY" else one for one in more], unsigned=False) == 2
    assert words in capsys.readouterr().err
    assert case.server.requests == []


def test_a_list_under_a_post_quantum_rule_needs_the_second_signature_too(case: Case) -> None:
    from millcert.provenance.pq_signature import load_pq_key

    kit = PrivateSigstore()
    sign(case, kit)
    for name in ("pq.key", "other.key"):
        assert main(["source", "keygen", str(case.top / name), "--kind", "ml-dsa-65"]) == 0
    key, other = load_pq_key(case.top / "pq.key"), load_pq_key(case.top / "other.key")
    named = policy_for(case, kit, require_pq=base64.b64encode(key.public.spki).decode())
    second = case.top / "list.csv.pq.json"
    assert case.fetch(*named, unsigned=False) == 3
    second.write_bytes(other.sign(case.table.read_bytes()))
    assert case.fetch(*named, unsigned=False) == 3
    second.write_bytes(key.sign(case.table.read_bytes() + b"x"))
    assert case.fetch(*named, unsigned=False) == 3
    assert case.server.requests == []
    second.write_bytes(key.sign(case.table.read_bytes()))
    assert case.fetch(*named, unsigned=False) == 0


def test_progress_goes_to_standard_error(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millcert.cli.source_fetch._PROGRESS_SECONDS", 0.0)
    loud = [one for one in case.local() if one != "--quiet"]
    assert main(["source", "fetch", str(case.table), "--out", str(case.out), "--unsafe-unsigned-list", *loud]) == 0
    assert "2 of 2 rows" in capsys.readouterr().err
    assert main(["source", "recheck", str(case.table), "--unsafe-unsigned-list", *loud]) == 0
    assert "2 of 2 rows" in capsys.readouterr().err


def test_an_address_cannot_command_the_terminal(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"url": case.server.url("/a.csv"), "sha256": sha256(A)}
    case.write([good, {"url": "https://a.example/\x1b[2J\u202e", "sha256": sha256(B)}])
    assert case.fetch("--drop", "refused") == 0
    answer = capsys.readouterr()
    assert "https://a.example/\\u001b[2J\\u202e (row)" in answer.out
    assert case.recheck() == 3
    assert "\x1b" not in capsys.readouterr().out + answer.out + answer.err


# Recheck


def test_a_recheck_lists_what_is_not_the_same_any_more(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert case.fetch() == 0
    results = str(case.top / "web.results.jsonl")
    capsys.readouterr()
    assert case.recheck("--results", results) == 0
    assert capsys.readouterr().out.splitlines()[0] == "rechecked  list.csv  2 rows: 2 same"
    case.server.change_certificate("a new owner")
    case.server.serve("/a.csv", b"parked")
    case.server.routes.pop("/b.csv")

    assert case.recheck("--results", results, "--out", str(case.top / "report.jsonl")) == 3
    text = capsys.readouterr().out
    assert "2 rows: 2 re_registered" in text
    assert "(digest); not as before: key, issuer" in text
    assert case.recheck("--json") == 3
    answer = json.loads(capsys.readouterr().out)
    assert answer["counts"]["changed"] == answer["counts"]["gone"] == 1
    assert [one["outcome"] for one in answer["not_same"]] == ["changed", "gone"]
    assert (case.top / "report.jsonl").read_text().count("re_registered") == 2


def test_a_recheck_of_many_rows_says_how_many_are_not_shown(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.write([{"url": case.server.url(f"/gone/{n}"), "sha256": sha256(b"%d" % n)} for n in range(23)])
    assert case.recheck() == 4
    assert "and 3 more; --out FILE lists all" in capsys.readouterr().out


def test_results_of_another_list_are_refused(case: Case) -> None:
    assert case.fetch() == 0
    case.write([{"url": case.server.url("/a.csv"), "sha256": sha256(A)}])
    assert case.recheck("--results", str(case.top / "web.results.jsonl")) == 2


# The table

ROWS = [{"url": "https://a.example/x.png", "sha256": sha256(A), "size": 12, "note": "n"}]


def test_a_list_reads_the_same_from_csv_jsonl_and_parquet() -> None:
    text = "url,sha256,size,note\n" + ",".join(str(value) for value in ROWS[0].values()) + "\n"
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    found = [
        read_url_list(text.encode(), name="l.csv"),
        read_url_list(json.dumps(ROWS[0]).encode() + b"\n", name="l.jsonl"),
        read_url_list(sink.getvalue(), name="l.parquet"),
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][0].size_bytes == 12
    assert found[0][0].path == f"{sha256(A)[:2]}/{sha256(A)}.png"


def test_a_digest_of_digits_alone_is_still_text() -> None:
    (row,) = read_url_list(b"url,sha256\nhttps://a.example/," + b"1" * 64 + b"\n", name="l.csv")
    assert row.sha256 == "1" * 64


def test_other_names_of_columns_can_be_given(case: Case) -> None:
    case.write([{"URL": case.server.url("/a.csv"), "hash": sha256(A)}])
    assert case.fetch("--url-column", "URL", "--sha256-column", "hash") == 0


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (b"a,b\n1,2\n", "l.csv", UsageError),
        (b"url,sha256\n", "l.csv", UsageError),
        (b"url,sha256\nhttps://a.example/,x,too,many\n", "l.csv", ManifestError),
        (b'{"url": "https://a.example/"}\n{"url": 1\n', "l.jsonl", ManifestError),
        (b"PAR1 nothing PAR1", "l.parquet", HostileDataError),
        (b"url\n", "l.txt", UsageError),
    ],
)
def test_a_list_that_cannot_be_read_whole_is_refused(data: bytes, name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        read_url_list(data, name=name)


def test_a_list_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    code = main(["source", "fetch", str(tmp_path / "no.csv"), "--out", str(tmp_path / "o"), "--unsafe-unsigned-list"])
    assert code == 2


def test_a_fetched_folder_is_a_source_that_its_owner_signs(case: Case) -> None:
    assert case.fetch() == 0
    key = case.top / "owner.key"
    assert main(["source", "keygen", str(key), "--kind", "p256"]) == 0
    assert main(["source", "sign", str(case.out), "--name", "web", "--key", str(key)]) == 0
    named = ["--key", str(case.top / "owner.pub"), "--unsafe-unlogged"]
    assert main(["source", "verify", str(case.out), *named]) == 0
    assert case.fetch() == 0
    assert main(["source", "verify", str(case.out), *named]) == 0
    next(case.out.rglob("*.csv")).write_bytes(b"changed later")
    assert main(["source", "verify", str(case.out), *named]) == 3


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("fetched_at", pa.array([2**62], pa.timestamp("us", "UTC"))),
        ("fetched_at", pa.array([1], pa.timestamp("us", "No/Where"))),
        ("fetched_at", pa.array([253402300799000000], pa.timestamp("us", "+05:00"))),
        ("size", pa.array([2**30], pa.date32())),
    ],
)
def test_a_value_that_python_has_not_refuses_the_list(column: str, value: pa.Array) -> None:
    data = io.BytesIO()
    pq.write_table(pa.table({"url": ["https://a.example/1"], "sha256": ["a" * 64], column: value}), data)
    with pytest.raises(ManifestError, match=f"column '{column}' holds"):
        read_url_list(data.getvalue(), name="list.parquet")


def test_a_decimal_in_a_column_is_read(case: Case) -> None:
    data = io.BytesIO()
    table = {"url": ["https://a.example/1"], "sha256": ["a" * 64], "price": pa.array([1], pa.decimal128(10, 2))}
    pq.write_table(pa.table(table), data)
    assert read_url_list(data.getvalue(), name="list.parquet")[0].sha256 == "a" * 64


@pytest.mark.parametrize("out", [".", "/", "..", "x/.."])
def test_an_output_without_a_name_is_a_usage_error(case: Case, out: str) -> None:
    assert case.fetch("--out", out) == 2
    assert case.server.requests == []
