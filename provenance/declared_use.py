"""Declared use: somebody says that a model was trained on a certified data set, so that a revocation finds the model.

It is what a person says, signed; the ledger cannot see a training run. Format: docs/formats/acts.md.
"""

import re
from dataclasses import dataclass

from millcert.errors import IntegrityError, UsageError
from millcert.provenance.act import Act
from millcert.provenance.standing import JudgedAct, Standing, said_of

DECLARED_USE = "declared_use"

_HEX = re.compile(r"[0-9a-f]{64}")
_SAID = {"certificate": str, "dataset": str, "manifest_root": str, "model": str, "model_sha256": str}
_MAX_NAME = 200


@dataclass(frozen=True)
class DeclaredUse:
    """A model and what it was trained on.

    model: its name. model_sha256: digest of its files, as its owner names it, hex. certificate: leaf hash of the data
    set's certificate, hex. dataset, manifest_root: what that certificate is about.

    Raises:
        UsageError: a digest or name is malformed.
    """

    model: str
    model_sha256: str
    certificate: str
    dataset: str
    manifest_root: str

    def __post_init__(self) -> None:
        digests = (self.model_sha256, self.certificate, self.manifest_root)
        if not all(_HEX.fullmatch(one) for one in digests):
            raise UsageError("A model, a certificate and a data set are named by 64 lower-case hex digits.")
        if not 1 <= len(self.model) <= _MAX_NAME or not self.model.isprintable():
            raise UsageError(f"A model's name has 1 to {_MAX_NAME} printable characters, got {self.model[:80]!r}.")


def use_act(use: DeclaredUse, *, ledger: str, roles_sha256: str, recorded_at: str) -> Act:
    """Return the act, to be signed, that declares a use."""
    said = {field: getattr(use, field) for field in _SAID}
    return Act(DECLARED_USE, use.manifest_root, recorded_at, ledger, roles_sha256, said)


def declared_uses(standing: Standing) -> list[tuple[DeclaredUse, JudgedAct]]:
    """Return every use that somebody with the role declared, oldest first.

    Raises:
        IntegrityError: one of them says what no reader understands.
    """
    found = []
    for one in standing.counting(DECLARED_USE):
        try:
            use = DeclaredUse(**said_of(one, _SAID))
        except UsageError as error:
            message = f"The declared use at ledger entry {one.logged.index} is malformed: {error.message}"
            raise IntegrityError(message) from error
        found.append((use, one))
    return found
