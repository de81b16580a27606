"""`millcert admit`: the training job's door. Verifies a certificate and that the data is what it certifies."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.clearing import Known, clear, clearance_line, clearance_payload
from millcert.cli.opened import state_option
from millcert.cli.output import emit, json_option
from millcert.cli.witnessed import witness_options, witness_rule
from millcert.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from millcert.provenance.admission import Admission
    from millcert.provenance.certificate import Certificate
    from millcert.provenance.checkpoint import VerifierKey


@click.command(
    epilog="Exit codes: 0 admitted, 2 usage, 3 revoked or not what was certified, 4 nobody knows what was revoked, "
    "5 not readable. Train only on 0."
)
@click.argument("path")
@click.option(
    "--certificate",
    "certificate_path",
    default=None,
    help="The certificate.  [default: certificate.json in the folder that holds PATH]",
)
@state_option
@click.option(
    "--gate-key",
    "gate_key_paths",
    type=click.Path(path_type=Path),
    multiple=True,
    help="The gate's public key (PEM), in place of --state; may be repeated.",
)
@click.option(
    "--ledger-key",
    "ledger_key_paths",
    type=click.Path(path_type=Path),
    multiple=True,
    help="The ledger's public key (name+hash+key), in place of --state; may be repeated.",
)
@click.option(
    "--revocations",
    "list_path",
    type=click.Path(path_type=Path),
    default=None,
    help="A revocation list that counts now.  [default: the ledger in the state folder]",
)
@click.option(
    "--max-age",
    "max_age_hours",
    type=click.IntRange(min=1),
    default=None,
    help="Of the newest entry of the ledger, in hours.  [default: 168; none where the ledger's private key is]",
)
@click.option(
    "--unsafe-no-revocations", is_flag=True, help="Admit though nothing is known of what was revoked since. Unsafe."
)
@witness_options
@json_option
def admit(
    path: str,
    certificate_path: str | None,
    state: Path | None,
    gate_key_paths: tuple[Path, ...],
    ledger_key_paths: tuple[Path, ...],
    list_path: Path | None,
    max_age_hours: int | None,
    unsafe_no_revocations: bool,
    witness_keys: tuple[Path, ...],
    witnesses_required: int | None,
    as_json: bool,
) -> None:
    """Refuse PATH unless it is, byte for byte, a data set that the gate certified and that nobody took back since.

    PATH is the admitted folder, on this machine or on an object store (s3://, gs://, azfs://, hdfs://). The keys are
    those that you trust; none is ever taken from the certificate. Run this on the machine that trains, right before it
    does, and start nothing if it fails.
    """
    from millcert.provenance.certificate import verify_certificate

    gate_keys, ledger_vkeys = _trusted_keys(state, gate_key_paths, ledger_key_paths)
    witnesses = witness_rule(witness_keys, witnesses_required)
    data = _read(certificate_path or _beside(path))
    certificate = verify_certificate(data, gate_keys=gate_keys, ledger_vkeys=ledger_vkeys, witnesses=witnesses)
    known = Known(state, list_path, max_age_hours, is_told_by_keys=bool(gate_key_paths))
    clearance = None
    if not unsafe_no_revocations:
        clearance = clear(certificate, known, gate_keys, ledger_vkeys)
    admission = _admitted(path, certificate)
    payload = {**_payload(admission, certificate), "revocations": clearance_payload(clearance)}
    text = _text(admission, certificate, clearance_line(clearance))
    emit(payload, text, as_json=as_json)


def _trusted_keys(
    state: Path | None, gate_key_paths: tuple[Path, ...], ledger_key_paths: tuple[Path, ...]
) -> "tuple[list[Ed25519PublicKey], list[VerifierKey]]":
    from millcert.provenance.state import load_gate_keys, load_ledger_vkeys, state_folder

    if state is not None and (gate_key_paths or ledger_key_paths):
        raise UsageError(
            "Keys come from --state or from --gate-key and --ledger-key, not from both.", hint="Leave one of them out."
        )
    if bool(gate_key_paths) != bool(ledger_key_paths):
        missing = "--ledger-key" if gate_key_paths else "--gate-key"
        raise UsageError(f"{missing} is missing.", hint="Give --gate-key and --ledger-key together.")
    if gate_key_paths:
        return load_gate_keys(gate_key_paths), load_ledger_vkeys(ledger_key_paths)
    folder = state_folder(state)
    for needed in (folder.gate_public_key, folder.ledger_vkey):
        if not needed.exists():
            raise UsageError(
                f"There is no public key at {needed}, and keys are never taken from the certificate.",
                hint="Copy keys/gate.pub and ledger.vkey from the gate's state folder over a way that you trust, and "
                "give --gate-key FILE --ledger-key FILE, or --state DIR.",
                path=str(needed),
            )
    return load_gate_keys([folder.gate_public_key]), load_ledger_vkeys([folder.ledger_vkey])


def _is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def _beside(path: str) -> str:
    """Return where the certificate of an admitted folder lies by default."""
    if _is_remote(path):
        return f"{path.rstrip('/').rpartition('/')[0]}/certificate.json"
    # Not resolved: what the user calls the parent is where the certificate lies, whatever PATH links to.
    return str(Path(path.removeprefix("file://")).absolute().parent / "certificate.json")


def _admitted(path: str, certificate: "Certificate") -> "Admission":
    if _is_remote(path):
        from millcert.pipelines.remote_admission import admit_remote  # heavy: Beam

        return admit_remote(path, certificate)
    from millcert.provenance.admission import admit_path

    return admit_path(Path(path.removeprefix("file://")), certificate)


def _read(source: str) -> bytes:
    from millcert.provenance.certificate import MAX_CERTIFICATE_BYTES

    if _is_remote(source):
        from millcert.pipelines.remote_admission import read_remote_certificate  # heavy: Beam

        return read_remote_certificate(source)
    path = Path(source.removeprefix("file://"))
    try:
        with path.open("rb") as file:
            return file.read(MAX_CERTIFICATE_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(
            f"There is no certificate at {path}; without one nothing is admitted.",
            hint="Give --certificate FILE, or run `millcert vet` first.",
            path=str(path),
        ) from error
    except OSError as error:
        raise StoreError(f"The certificate {path} cannot be read: {error.strerror}.", path=str(path)) from error


def _payload(admission: "Admission", certificate: "Certificate") -> dict[str, Any]:
    return {
        "version": 1,
        "admitted": True,
        "path": admission.path,
        "dataset": admission.name,
        "manifest_root": admission.root,
        "files": admission.files,
        "size_bytes": admission.size_bytes,
        "time_verified": certificate.summary.time_verified,
        "policy_digest": certificate.summary.policy_sha256,
        "code_version": certificate.summary.verifier_version,
        "ledger": {
            "origin": certificate.checkpoint.origin,
            "index": certificate.index,
            "size": certificate.checkpoint.size,
            "witnesses": sorted({one.witness for one in certificate.cosignatures}),
        },
    }


def _text(admission: "Admission", certificate: "Certificate", clearance: str) -> str:
    summary = certificate.summary
    witnesses = sorted({one.witness for one in certificate.cosignatures})
    return "\n".join(
        (
            f"admitted  {admission.name}  {admission.files:,} files, {admission.size_bytes:,} bytes",
            f"  manifest root: {admission.root}",
            f"  policy: {summary.policy_sha256}   verified: {summary.time_verified}",
            f"  ledger: {certificate.checkpoint.origin} #{certificate.index}",
            *([f"  cosigned by: {', '.join(witnesses)}"] if witnesses else []),
            clearance,
            f"  next: train on {admission.path}; let nothing else write to it until the job has read it",
        )
    )
