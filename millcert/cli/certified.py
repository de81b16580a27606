"""A certificate on the command line, verified with the keys of a state folder and found again in its ledger."""

from pathlib import Path
from typing import TYPE_CHECKING

from millcert.cli.files import read_bounded
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.certificate import Certificate
    from millcert.provenance.ledger import Ledger
    from millcert.provenance.state import StateFolder


def read_certificate(path: Path, folder: "StateFolder", ledger: "Ledger") -> "Certificate":
    """Return a certificate of this gate, logged in this ledger.

    Raises:
        UsageError: there is no such file, or it is of another ledger.
        IntegrityError: it does not verify.
    """
    from millcert.provenance.certificate import MAX_CERTIFICATE_BYTES, verify_certificate
    from millcert.provenance.state import load_gate_keys

    data = read_bounded(path, MAX_CERTIFICATE_BYTES, what="certificate", hint="Check the path.")
    certificate = verify_certificate(
        data, gate_keys=load_gate_keys([folder.gate_public_key]), ledger_vkeys=ledger.vkeys
    )
    logged = ledger.get(certificate.index) if certificate.index < ledger.size else None
    if logged is None or logged.entry.subject != certificate.manifest.root or logged.entry.kind != "certificate":
        raise UsageError(
            f"The certificate {path} is not in this ledger at #{certificate.index}.",
            hint="Give the --state folder of the gate that issued it.",
        )
    return certificate
