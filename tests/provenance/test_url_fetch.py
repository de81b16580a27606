"""A list of addresses, fetched: split view refused, hashless rows refused, whole or nothing, and resumed."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from millcert.errors import (
    DigestMismatchError,
    HostileDataError,
    InconclusiveError,
    IntegrityError,
    ManifestError,
    StoreError,
    UntrustedSourceError,
    UsageError,
)
from millcert.provenance.digest import hash_folder
from millcert.provenance.manifest import parse_manifest
from millcert.provenance.url_fetch import Budget, Fetched, FetchPlan, fetch_rows
from millcert.provenance.url_list import UrlRow, check_rows, url_row
from millcert.provenance.url_recheck import classify, counts, exit_code, recheck_rows
from millcert.provenance.url_results import ListIdentity, UrlResult, read_results, write_results
from millcert.provenance.url_store import FetchStore, fetch_store
from millcert.provenance.url_transport import Reach, Transport, UrlLimits
from millcert.testing.https_server import LocalHttps

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
LIMITS = UrlLimits(max_bytes=1 << 20, max_seconds=20, retries=1, backoff_seconds=0)
PLAN = FetchPlan(workers=4, now=lambda: NOW)
ABOUT = ListIdentity("list.csv", "0" * 64, "", "")
A, B = b"first body", b"second body"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def running() -> Iterator[LocalHttps]:
    with LocalHttps() as server:
        yield server


@pytest.fixture
def server(running: LocalHttps) -> LocalHttps:
    running.routes.clear()
    running.requests.clear()
    return running


def row(number: int, url: str, data: bytes | None, **more: Any) -> UrlRow:
    digest = None if data is None else sha256(data)
    return url_row(number, url, digest, more.get("size"), None, more.get("path"))


def transport(server: LocalHttps, limits: UrlLimits = LIMITS, **reach: Any) -> Transport:
    where = Reach(server.authorities, unsafe_private=True, resolver=lambda *_: ["127.0.0.1"])
    return Transport(limits, replace(where, **reach))


def never() -> Transport:
    raise AssertionError("There was nothing to fetch.")


def fetch(
    server: LocalHttps,
    rows: list[UrlRow],
    out: Path,
    plan: FetchPlan = PLAN,
    make: Callable[[], Transport] | None = None,
    **options: Any,
) -> Fetched:
    """Fetch and publish as the command does."""
    with fetch_store(out) as store:
        store.published()
        found = fetch_rows(
            check_rows(rows),
            name="web",
            store=store,
            transport=make or (lambda: transport(server)),
            plan=plan,
            max_bytes=LIMITS.max_bytes,
            **options,
        )
        if found.manifest is not None:
            store.promote(found.manifest)
    return found


def two(server: LocalHttps) -> list[UrlRow]:
    return [row(0, server.serve("/a.csv", A), A), row(1, server.serve("/b.jsonl.gz?x=1", B), B, size=len(B))]


def leftovers(out: Path) -> list[str]:
    return sorted(
        path.name for path in out.parent.iterdir() if path.name.startswith(".") and not path.name.endswith(".lock")
    )


def test_bytes_that_are_what_the_list_says_appear_with_a_manifest(server: LocalHttps, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = fetch(server, two(server), out)

    assert found.error is None
    manifest = parse_manifest((out / "millcert-manifest.json").read_bytes())
    assert manifest == found.manifest
    own = frozenset({"millcert-manifest.json"})
    assert hash_folder(out, exclude=own) == manifest.files
    assert {entry.path for entry in manifest.files} == {
        f"{sha256(A)[:2]}/{sha256(A)}.csv",
        f"{sha256(B)[:2]}/{sha256(B)}.jsonl.gz",
    }
    first = found.results[0]
    assert (first.outcome, first.sha256, first.size_bytes, first.status) == ("verified", sha256(A), len(A), 200)
    assert (first.checked_at, first.host) == ("2026-03-04T05:06:07Z", "localhost")
    assert leftovers(out) == []


def test_other_bytes_are_a_split_view_and_nothing_appears(server: LocalHttps, tmp_path: Path) -> None:
    rows = two(server)
    server.serve("/a.csv", A.upper())
    found = fetch(server, rows, tmp_path / "out")

    assert isinstance(found.error, DigestMismatchError)
    assert (found.error.reason, found.error.rows) == ("split_view", (0,))
    assert [result.outcome for result in found.results] == ["split_view", "verified"]
    assert found.manifest is None
    assert not (tmp_path / "out").exists()


def test_more_bytes_than_the_list_says_are_a_split_view_without_reading_on(server: LocalHttps, tmp_path: Path) -> None:
    rows = [row(0, server.serve("/a", A + b"!"), A, size=len(A))]
    found = fetch(server, rows, tmp_path / "out")
    assert (found.results[0].outcome, found.results[0].reason) == ("split_view", "size")


def test_a_compressed_answer_is_a_split_view_that_says_so(server: LocalHttps, tmp_path: Path) -> None:
    import gzip

    url = server.serve("/a", gzip.compress(A), headers={"Content-Encoding": "gzip"})
    found = fetch(server, [row(0, url, A)], tmp_path / "out")
    assert found.results[0].outcome == "split_view"
    assert "as gzip" in found.results[0].detail


def test_a_row_without_a_digest_refuses_the_list_before_anything_is_fetched(server: LocalHttps, tmp_path: Path) -> None:
    rows = [
        *two(server),
        row(2, server.url("/c"), None),
        url_row(3, server.url("/d"), "d41d8cd98f00b204", None, "", ""),
    ]
    found = fetch(server, rows, tmp_path / "out", make=never)
    assert isinstance(found.error, UntrustedSourceError)
    assert (found.error.reason, found.error.rows) == ("no_hash", (2, 3))
    assert server.requests == []


def test_rows_are_left_out_only_on_demand_and_by_name(server: LocalHttps, tmp_path: Path) -> None:
    rows = [
        *two(server),
        row(2, server.url("/c"), None),
        row(3, server.url("/gone"), b"gone"),
        row(4, "http://localhost/x", b"x"),
        row(5, server.serve("/swapped", b"other"), b"swapped"),
        row(6, server.serve("/down", b"", status=503), b"down"),
    ]
    every = frozenset({"no_hash", "gone", "refused", "split_view", "unreachable"})
    found = fetch(server, rows, tmp_path / "out", replace(PLAN, drop=every))
    assert found.error is None
    assert found.manifest is not None
    assert len(found.manifest.files) == 2
    assert [(one.row, one.outcome) for one in found.results if one.is_dropped] == [
        (2, "no_hash"), (3, "gone"), (4, "refused"), (5, "split_view"), (6, "unreachable"),
    ]  # fmt: skip

    for left, kind in {
        "split_view": DigestMismatchError,
        "no_hash": UntrustedSourceError,
        "refused": HostileDataError,
        "unreachable": StoreError,
        "gone": InconclusiveError,
    }.items():
        again = fetch(server, rows, tmp_path / left, replace(PLAN, drop=every - {left}))
        assert type(again.error) is kind
        assert not (tmp_path / left).exists()
    few = fetch(server, rows, tmp_path / "few", replace(PLAN, drop=every, max_dropped_fraction=0.5))
    assert isinstance(few.error, InconclusiveError)
    assert few.error.reason == "too_many_dropped"


def test_the_gravest_outcome_gives_the_error(server: LocalHttps, tmp_path: Path) -> None:
    rows = [
        row(0, server.url("/gone"), b"g"),
        row(1, server.serve("/s", b"x"), b"y"),
        row(2, server.serve("/d", b"", status=500), b"z"),
    ]
    error = fetch(server, rows, tmp_path / "out").error
    assert isinstance(error, DigestMismatchError)
    assert "besides: 1 gone, 1 unreachable" in error.message


def test_a_list_of_which_nothing_is_left_is_refused(server: LocalHttps, tmp_path: Path) -> None:
    found = fetch(
        server, [row(0, server.url("/gone"), b"g")], tmp_path / "out", replace(PLAN, drop=frozenset({"gone"}))
    )
    assert isinstance(found.error, UsageError)


def test_a_second_run_hashes_what_is_there_and_fetches_only_what_is_missing(server: LocalHttps, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = two(server)
    server.routes.pop("/b.jsonl.gz?x=1")
    assert isinstance(fetch(server, rows, out).error, InconclusiveError)
    assert leftovers(out) == [".out.fetching"]
    server.requests.clear()
    server.serve("/b.jsonl.gz?x=1", B)
    found = fetch(server, rows, out)
    assert [path for path, _ in server.requests] == ["/b.jsonl.gz?x=1"]
    assert (found.fetched, found.reused, found.results[0].reason) == (1, 1, "here_already")
    assert leftovers(out) == []


def test_kept_bytes_that_were_changed_are_fetched_again(server: LocalHttps, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = two(server)
    server.routes.pop("/b.jsonl.gz?x=1")
    fetch(server, rows, out)
    (tmp_path / ".out.fetching" / "objects" / sha256(A)).write_bytes(b"tampered!!")
    server.serve("/b.jsonl.gz?x=1", B)
    assert fetch(server, rows, out).error is None
    assert hash_folder(out, exclude=frozenset({"millcert-manifest.json"}))


def test_a_whole_output_needs_no_network_and_a_damaged_one_needs_replace(server: LocalHttps, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = two(server)
    first = fetch(server, rows, out)
    with fetch_store(out) as store:
        found = fetch_rows(
            rows, name="web", store=store, transport=never, plan=PLAN, max_bytes=9, is_complete_expected=True
        )
        assert found.manifest is not None
        assert store.is_whole(found.manifest)
        assert found.manifest == first.manifest
    path = out / found.manifest.files[0].path
    path.write_bytes(b"damaged")
    with fetch_store(out) as store:
        assert not store.is_whole(found.manifest)
    with pytest.raises(UsageError, match="lacks 1 of"):
        fetch(server, rows, out, make=never, is_complete_expected=True)
    assert fetch(server, rows, out).error is None
    assert sha256(path.read_bytes()) in path.name


@pytest.mark.parametrize("what", ["no manifest", "another file", "a link"])
def test_a_folder_that_no_fetch_made_is_never_replaced(server: LocalHttps, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    fetch(server, two(server), out)
    if what == "no manifest":
        (out / "millcert-manifest.json").write_text("{}")
    elif what == "another file":
        (out / "mine.txt").write_text("keep me")
    else:
        (out / "linked").symlink_to(tmp_path)
    with fetch_store(out) as store, pytest.raises(UsageError, match="not what an earlier fetch made"):
        store.published()


@pytest.mark.parametrize("stop", ["after the old is set aside", "before"])
def test_a_crash_between_the_renames_is_healed_by_the_next_run(server: LocalHttps, tmp_path: Path, stop: str) -> None:
    out = tmp_path / "out"
    first = fetch(server, two(server), out)
    out.rename(tmp_path / ".out.replaced")
    if stop == "before":
        (tmp_path / "out").mkdir()
    work = tmp_path / ".out.fetching"
    (work / "new" / "half").mkdir(parents=True)
    (work / "part-xyz").write_text("half")
    with fetch_store(out) as store:
        if stop != "before":
            assert store.published() == first.manifest
        assert not (work / "new").exists()
        assert not (work / "part-xyz").exists()
    assert not (tmp_path / ".out.replaced").exists()


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    with fetch_store(tmp_path / "out"), pytest.raises(UsageError, match="Another fetch"), fetch_store(tmp_path / "out"):
        pass


def test_a_disk_that_takes_nothing_is_a_store_error(server: LocalHttps, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError), fetch_store(tmp_path / "file" / "out"):
        pass
    with fetch_store(tmp_path / "out") as store:
        (tmp_path / ".out.fetching" / "objects").rmdir()
        (tmp_path / ".out.fetching").rmdir()
        with pytest.raises(StoreError, match="what is verified already"):
            fetch_rows(two(server), name="w", store=store, transport=lambda: transport(server), plan=PLAN, max_bytes=99)


def test_files_are_copied_where_there_are_no_second_names(
    server: LocalHttps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr("os.link", no_links)
    assert fetch(server, two(server), tmp_path / "out").error is None
    assert hash_folder(tmp_path / "out", exclude=frozenset({"millcert-manifest.json"}))


def test_paths_come_from_the_list_and_the_same_bytes_are_fetched_once(server: LocalHttps, tmp_path: Path) -> None:
    url = server.serve("/a", A)
    rows = [
        row(0, server.url("/gone"), A, path="x/1.csv"),
        row(1, url, A, path="x/2.csv"),
        row(2, url, A, path="y.csv"),
    ]
    found = fetch(server, rows, tmp_path / "out", replace(PLAN, drop=frozenset({"gone"})))
    assert found.manifest is not None
    assert [entry.path for entry in found.manifest.files] == ["x/2.csv", "y.csv"]
    assert [path for path, _ in server.requests] == ["/gone", "/a"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a\\b"])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(ManifestError):
        row(0, "https://a.example/", A, path=path)


def test_rows_that_contradict_each_other_or_themselves_are_refused(server: LocalHttps, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="for other bytes"):
        check_rows([row(0, "https://a.example/", A, path="x"), row(1, "https://b.example/", B, path="x")])
    with pytest.raises(ManifestError, match="must be text"):
        url_row(0, "https://a.example/", sha256(A), None, "", 3)
    with pytest.raises(ManifestError, match="the manifest or its bundle"):
        fetch(server, [row(0, server.url("/a"), A, path="millcert-manifest.json")], tmp_path / "out")
    with pytest.raises(UsageError, match="no row"):
        check_rows([])
    url = server.serve("/a", A)
    for number, stated in enumerate((len(A) + 1, LIMITS.max_bytes + 1)):
        found = fetch(server, [row(0, url, A, size=stated)], tmp_path / str(number))
        assert found.results[0].outcome == "refused"
    fetch(server, [row(0, url, A)], tmp_path / "kept")
    again = fetch(server, [row(0, url, A, size=1)], tmp_path / "kept", make=never)
    assert again.results[0].outcome == "refused"


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (("https://a.example/", sha256(A), "many", "", ""), "size must be"),
        (("https://a.example/", sha256(A), -1, "", ""), "size must be"),
        (("https://a.example/", sha256(A), True, "", ""), "size must be"),
        (("https://a.example/", sha256(A), 1, "yesterday", ""), "fetched_at must be"),
        ((None, sha256(A), 1, "", ""), "there is no address"),
        (("http://a.example/", sha256(A), 1, "", ""), "only https"),
    ],
)
def test_a_row_says_what_is_wrong_with_it(values: tuple[Any, ...], fault: str) -> None:
    assert fault in url_row(0, *values).fault


def test_a_row_takes_what_tables_hold() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    found = url_row(7, "https://a.example/x", sha256(A).upper(), "12", when, None)
    assert (found.sha256, found.size_bytes, found.fetched_at, found.fault) == (
        sha256(A),
        12,
        "2026-01-02T03:04:05Z",
        "",
    )


def test_bounds_over_all_addresses_hold(server: LocalHttps, tmp_path: Path) -> None:
    rows = two(server)
    found = fetch(server, rows, tmp_path / "bytes", replace(PLAN, max_total_bytes=len(A) + 2, workers=1))
    assert [(one.outcome, one.reason) for one in found.results] == [("verified", ""), ("refused", "total_bytes")]
    found = fetch(server, rows, tmp_path / "time", replace(PLAN, max_total_seconds=0))
    assert {(one.outcome, one.reason) for one in found.results} == {("unreachable", "total_seconds")}


def test_a_plan_that_says_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no outcome 'everything'"):
        FetchPlan(drop=frozenset({"everything"}))
    with pytest.raises(UsageError, match="max_dropped_fraction"):
        FetchPlan(max_dropped_fraction=1.5)


def test_many_rows_come_out_the_same_in_any_number_of_threads(server: LocalHttps, tmp_path: Path) -> None:
    bodies = [f"body {number}".encode() for number in range(60)]
    rows = [row(number, server.serve(f"/{number}.txt", body), body) for number, body in enumerate(bodies)]
    told: list[tuple[int, int]] = []
    one = fetch(server, rows, tmp_path / "one", replace(PLAN, workers=1))
    many = fetch(server, rows, tmp_path / "many", replace(PLAN, workers=8), progress=lambda *said: told.append(said))
    assert one.manifest is not None
    assert one.manifest == many.manifest
    assert one.results == many.results
    assert told[-1] == (60, 60)


def test_an_interrupt_ends_the_fetches_that_run(server: LocalHttps, tmp_path: Path) -> None:
    """Without `abort` this waits an hour for the server that says nothing."""
    waiting, gone = threading.Event(), threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        waiting.set()
        handler.close_connection = True
        gone.set() if handler.connection.recv(1) == b"" else None

    def first(handler: BaseHTTPRequestHandler) -> None:
        waiting.wait()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + A)

    def interrupted(*_: int) -> None:
        raise KeyboardInterrupt

    server.routes |= {"/silent": silent, "/first": first}
    patient = replace(LIMITS, max_seconds=3600, stall_seconds=3600)
    rows = [row(0, server.url("/silent"), B), row(1, server.url("/first"), A)]
    with pytest.raises(KeyboardInterrupt):
        fetch(server, rows, tmp_path / "out", make=lambda: transport(server, patient), progress=interrupted)
    assert gone.wait(10)


# Results


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    given = [
        UrlResult(0, "https://a.example/", "verified", addresses=("1.1.1.1",)),
        UrlResult(3, "u", "gone", signs=("key",)),
    ]
    write_results(path, ABOUT, given)
    digest, found = read_results(path)
    assert (digest, found) == (ABOUT.sha256, {0: given[0], 3: given[1]})


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [b"{}", *lines[1:]],
        lambda lines: [lines[0].replace(b'"version":1', b'"version":2'), *lines[1:]],
        lambda lines: [lines[0], lines[1][:40]],
        lambda lines: [lines[0], lines[1].replace(b'"row":0', b'"row":"0"')],
        lambda lines: [lines[0], lines[1].replace(b'"addresses":[]', b'"addresses":[1]')],
        lambda lines: [lines[0], lines[1].replace(b'"row":0', b'"row":0,"more":1')],
        lambda lines: [lines[0], b"x" * 70_000],
        lambda _: [b"\xff\xfe"],
    ],
)
def test_a_damaged_result_file_is_refused(tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]]) -> None:
    path = tmp_path / "r.jsonl"
    write_results(path, ABOUT, [UrlResult(0, "https://a.example/", "verified")])
    path.write_bytes(b"\n".join(damage(path.read_bytes().splitlines())))
    with pytest.raises(IntegrityError):
        read_results(path)


def test_a_result_file_that_is_not_there_or_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_results(tmp_path / "absent")
    with pytest.raises(StoreError):
        read_results(tmp_path)
    (tmp_path / "kept").write_text("old")
    with pytest.raises(StoreError):
        write_results(tmp_path / "absent" / "r.jsonl", ABOUT, [])
    with pytest.raises(ValueError, match="not JSON"):
        write_results(tmp_path / "kept", ABOUT, _failing())
    assert (tmp_path / "kept").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def _failing() -> Iterator[UrlResult]:
    yield UrlResult(0, "u", "gone")
    raise ValueError("not JSON")


# Recheck


def recheck(
    server: LocalHttps, rows: list[UrlRow], before: dict[int, UrlResult] | None = None, **more: Any
) -> list[UrlResult]:
    with transport(server, **more) as ready:
        return list(
            recheck_rows(
                rows,
                ready,
                before=before or {},
                budget=Budget(1 << 20, 60),
                max_bytes=LIMITS.max_bytes,
                workers=3,
                now=lambda: NOW,
            )
        )


def outcomes(results: list[UrlResult]) -> list[str]:
    return [result.outcome for result in results]


def test_a_recheck_tells_same_changed_gone_and_unreachable(server: LocalHttps, tmp_path: Path) -> None:
    rows = [
        row(0, server.serve("/same", A), A),
        row(1, server.serve("/changed", B), A),
        row(2, server.url("/gone"), A),
        row(3, server.serve("/down", b"", status=500), A),
        row(4, server.serve("/moved", b"", status=302, headers={"Location": "https://other.example/"}), A),
        row(5, server.url("/nohash"), None),
        row(6, "http://plain.example/", A),
        row(7, server.serve("/longer", A + b"!"), A, size=len(A)),
        row(8, server.serve("/huge", b"x" * (LIMITS.max_bytes + 1)), A),
    ]
    found = recheck(server, rows)
    assert outcomes(found) == [
        "same", "changed", "gone", "unreachable", "changed", "no_hash", "refused", "changed", "refused",
    ]  # fmt: skip
    assert counts(found) == {
        "same": 1, "changed": 3, "re_registered": 0, "gone": 1, "unreachable": 1, "no_hash": 1, "refused": 2,
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seen", "code"),
    [({"same"}, 0), ({"same", "gone"}, 4), ({"gone", "unreachable"}, 5), ({"unreachable", "changed"}, 3),
     ({"re_registered"}, 3), ({"no_hash"}, 3), ({"refused"}, 3)],
)  # fmt: skip
def test_the_exit_code_of_a_recheck_is_that_of_its_gravest_word(seen: set[str], code: int) -> None:
    assert exit_code([UrlResult(0, "u", outcome) for outcome in seen]) == code


def test_a_host_with_another_key_and_issuer_that_serves_other_bytes_looks_re_registered(server: LocalHttps) -> None:
    rows = [row(0, server.serve("/a", A), A), row(1, server.serve("/b", B), B), row(2, server.serve("/c", B), B)]
    before = {result.row: result for result in recheck(server, rows)}
    server.change_certificate("second authority")
    server.serve("/a", B)
    server.routes.pop("/b")
    found = recheck(server, rows, before)
    assert outcomes(found) == ["re_registered", "re_registered", "same"]
    assert [result.signs for result in found] == [("key", "issuer")] * 3
    assert outcomes(recheck(server, rows)) == ["changed", "gone", "same"]  # without a before, the word is never used


SEEN = UrlResult(0, "u", "split_view", host="h", addresses=("2.2.2.2",), key_sha256="k2", issuer="i2")


@pytest.mark.parametrize(
    ("before", "outcome", "signs"),
    [
        (None, "changed", ()),
        ({"host": "other"}, "changed", ()),
        ({"key_sha256": "k2", "issuer": "i2", "addresses": ("1.1.1.1",)}, "changed", ("addresses",)),
        ({"key_sha256": "k1", "issuer": "i2", "addresses": ("2.2.2.2",)}, "changed", ("key",)),
        ({"key_sha256": "k1", "issuer": "i2", "addresses": ("1.1.1.1",)}, "re_registered", ("key", "addresses")),
        ({"key_sha256": "k1", "issuer": "i1", "addresses": ("2.2.2.2",)}, "re_registered", ("key", "issuer")),
        ({"key_sha256": "", "issuer": "", "addresses": ("1.1.1.1",)}, "changed", ("addresses",)),
    ],
)
def test_a_host_is_another_ones_only_with_another_key_and_one_sign_more(
    before: dict[str, Any] | None, outcome: str, signs: tuple[str, ...]
) -> None:
    past = None if before is None else replace(SEEN, **before)
    found = classify(SEEN, past)
    assert (found.outcome, found.signs) == (outcome, signs)
    assert classify(replace(SEEN, outcome="verified"), past).outcome == "same"
    assert classify(replace(SEEN, outcome="unreachable"), past).outcome == "unreachable"


def test_a_recheck_keeps_to_its_bounds(server: LocalHttps) -> None:
    rows = [row(0, server.serve("/a", A), A)]
    with transport(server) as ready:
        spent = recheck_rows(rows, ready, before={}, budget=Budget(3, 60), max_bytes=99, workers=1)
        late = recheck_rows(rows, ready, before={}, budget=Budget(99, 0), max_bytes=99, workers=1)
    assert [(one[0].outcome, one[0].reason) for one in (spent, late)] == [
        ("unreachable", "total_bytes"),
        ("unreachable", "total_seconds"),
    ]


def test_results_are_lines_of_json_that_anybody_can_read(server: LocalHttps, tmp_path: Path) -> None:
    found = fetch(server, two(server), tmp_path / "out")
    write_results(tmp_path / "r.jsonl", ABOUT, found.results)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "type": "millcert-url-results",
        "version": 1,
        "list": {"name": "list.csv", "sha256": "0" * 64, "identity": "", "issuer": ""},
    }
    assert [line["outcome"] for line in lines[1:]] == ["verified", "verified"]


def test_a_store_is_made_by_its_context_only(tmp_path: Path) -> None:
    with fetch_store(tmp_path / "out") as store:
        assert isinstance(store, FetchStore)
        assert store.published() is None
    assert leftovers(tmp_path / "out") == []


VECTORS = Path(__file__).parents[1] / "vectors" / "0.1.0" / "url-results"


def test_the_lists_and_result_files_of_every_release_are_read_for_ever(tmp_path: Path) -> None:
    from millcert.pipelines.url_table import read_url_list

    data = (VECTORS / "list.csv").read_bytes()
    digest, results = read_results(VECTORS / "list.results.jsonl")
    rows = read_url_list(data, name="list.csv")
    assert digest == sha256(data)
    assert [(one.path, one.sha256 != "", one.fault) for one in rows] == [
        ("cat/1.png", True, ""), ("dog/1.png", True, ""), ("", False, ""),
    ]  # fmt: skip
    assert [(one.outcome, one.is_dropped) for one in results.values()] == [
        ("verified", False), ("split_view", True), ("no_hash", True),
    ]  # fmt: skip
    about = ListIdentity("list.csv", digest, "curator@data.example", "https://accounts.private.test")
    write_results(tmp_path / "again", about, results.values())
    assert (tmp_path / "again").read_bytes() == (VECTORS / "list.results.jsonl").read_bytes()


@pytest.mark.parametrize(
    "paths", [("cat/1.png", "Cat/1.PNG"), ("cat", "cat/1.png"), ("caf\u00e9.png", "cafe\u0301.png")]
)
def test_paths_that_are_one_on_some_file_system_refuse_the_list_before_anything_is_fetched(
    paths: tuple[str, str],
) -> None:
    rows = [row(number, f"https://a.example/{number}", data, path=paths[number]) for number, data in enumerate((A, B))]
    with pytest.raises(ManifestError, match=r"some file systems|a directory"):
        check_rows(rows)


@pytest.mark.parametrize("path", [".git/config", "a/.git", "a/.GIT/hooks/post-checkout", ".cache/x"])
def test_a_path_that_version_control_obeys_is_never_data(path: str) -> None:
    with pytest.raises(ManifestError, match="never data"):
        row(0, "https://a.example/1", A, path=path)


@pytest.mark.parametrize("path", ["millcert-manifest.json/x", "Millcert-Manifest.json"])
def test_no_row_gets_the_place_of_the_manifest_nor_one_below_it(server: LocalHttps, tmp_path: Path, path: str) -> None:
    with pytest.raises(ManifestError, match="that of the manifest"):
        fetch(server, [row(0, server.serve("/a", A), A, path=path)], tmp_path / "out")
    assert server.requests == []


@pytest.mark.parametrize("is_link", [True, False])
def test_a_place_for_kept_bytes_that_somebody_else_made_is_not_used(
    server: LocalHttps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_link: bool
) -> None:
    """Who owns it could swap bytes after they were hashed, or have a folder of ours emptied."""
    precious = tmp_path / "precious"
    (precious / "new").mkdir(parents=True)
    (precious / "part-1").write_bytes(b"mine")
    place = tmp_path / ".out.fetching"
    if is_link:
        place.symlink_to(precious)
    else:
        place.mkdir()
        monkeypatch.setattr("os.geteuid", lambda: place.stat().st_uid + 1)
    with pytest.raises(UsageError, match="no folder of this user's own"):
        fetch(server, [row(0, server.serve("/a", A), A)], tmp_path / "out")
    assert (precious / "part-1").exists()
    assert (precious / "new").exists()
    assert server.requests == []


def test_a_name_that_no_manifest_may_have_is_told_before_anything_is_fetched(
    server: LocalHttps, tmp_path: Path
) -> None:
    with fetch_store(tmp_path / "out") as store, pytest.raises(ManifestError, match="The name"):
        fetch_rows(
            check_rows([row(0, server.serve("/a", A), A)]),
            name="a\x1bb",
            store=store,
            transport=never,
            plan=PLAN,
            max_bytes=LIMITS.max_bytes,
        )


def test_the_longest_values_of_a_row_fit_into_a_result_file(tmp_path: Path) -> None:
    """A list or server that makes its line longer than what is read back would take the memory of everybody else."""
    far = "\U0001f600"
    one = row(0, "https://" + far * 100_000, A, path="a/" + far * 1000)
    assert one.fault
    with fetch_store(tmp_path / "out") as store:
        found = fetch_rows([one], name="web", store=store, transport=never, plan=PLAN, max_bytes=1)
    most = replace(found.results[0], path=one.path, addresses=("2001:db8:1:2:3:4:5:6789",) * 64, issuer=far * 1000)
    write_results(tmp_path / "results.jsonl", ABOUT, [most])
    _, back = read_results(tmp_path / "results.jsonl")
    assert back[0].url == one.url[:8192]


def test_an_address_with_line_breaks_tells_no_line_of_its_own(tmp_path: Path) -> None:
    bad = row(0, "https://x\nnext: millcert admit\u202e\x1b[2J", A)
    with fetch_store(tmp_path / "out") as store:
        found = fetch_rows([bad], name="web", store=store, transport=never, plan=PLAN, max_bytes=1)
    assert found.error is not None
    assert "https://x\\u000anext: millcert admit\\u202e\\u001b[2J" in found.error.message
