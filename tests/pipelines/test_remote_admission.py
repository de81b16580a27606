"""Admission over Beam's filesystems, here on local paths; on a store by tests/pipelines/test_object_store.py."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apache_beam.io.filesystems import FileSystems

from millcert.errors import DigestMismatchError, ManifestError, MillcertError, StoreError, UsageError
from millcert.pipelines.remote_admission import admit_remote, read_remote_certificate
from millcert.provenance.admission import admit_path
from millcert.provenance.certificate import Certificate, verify_certificate
from millcert.provenance.state import StateFolder, load_gate_keys, load_ledger_vkeys

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


@pytest.fixture
def certificate(bench: Workbench) -> Certificate:
    bench.vet()
    state = StateFolder(bench.top / "state")
    data = read_remote_certificate(str(bench.out / "certificate.json"))
    return verify_certificate(
        data, gate_keys=load_gate_keys([state.gate_public_key]), ledger_vkeys=load_ledger_vkeys([state.ledger_vkey])
    )


def test_what_was_published_is_admitted_as_from_a_folder(bench: Workbench, certificate: Certificate) -> None:
    admitted = bench.out / "admitted"

    assert admit_remote(f"{admitted}/", certificate).root == admit_path(admitted, certificate).root
    assert admit_remote(str(admitted), certificate) == admit_path(admitted, certificate)


CHANGES: list[tuple[Callable[[Path], object], type[MillcertError], str]] = [
    (lambda top: (top / "more.parquet").write_bytes(b"x"), ManifestError, "'more.parquet': not in the certificate"),
    (lambda top: (top / "south/c.arrow").unlink(), ManifestError, "'south/c.arrow': missing"),
    (lambda top: (top / "south/c.arrow").write_bytes(b"x"), DigestMismatchError, "'south/c.arrow'"),
    (
        lambda top: (top / "south/c.arrow").write_bytes((top / "south/c.arrow").read_bytes() + b"x"),
        DigestMismatchError,
        "'south/c.arrow'",
    ),
]


@pytest.mark.parametrize(("change", "error", "told"), CHANGES, ids=["added", "missing", "changed", "grown"])
def test_what_is_not_what_was_certified_is_refused(
    bench: Workbench, certificate: Certificate, change: Callable[[Path], object], error: type[MillcertError], told: str
) -> None:
    change(bench.out / "admitted")

    with pytest.raises(error, match=told):
        admit_remote(str(bench.out / "admitted"), certificate)


def test_a_place_without_data_or_filesystem_is_a_usage_error(
    bench: Workbench, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="There is no data"):
        admit_remote(str(bench.top / "nothing"), certificate)
    with pytest.raises(UsageError, match="no certificate"):
        read_remote_certificate(str(bench.top / "nothing/certificate.json"))
    with pytest.raises(UsageError, match="no file system"):
        admit_remote("nosuch://bucket/admitted", certificate)

    def fail(uri: str, **_: object) -> None:
        raise OSError(f"{uri} is gone")

    monkeypatch.setattr(FileSystems, "open", fail)
    with pytest.raises(StoreError, match="is gone"):
        admit_remote(str(bench.out / "admitted"), certificate)
