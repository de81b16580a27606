"""The error tree and its exit codes. Imports nothing.

A verdict is a value; an error is a broken promise. Every class has a stable code, and every error says what was
expected, what was found, where, and what to do (`hint`). The command line turns any of them into text and the exit
code of its class.
"""

from typing import ClassVar


class MillcertError(Exception):
    """Base of everything that millcert raises on purpose.

    Attributes:
        message: what was expected, what was found, and where.
        hint: what to do about it; may be empty.
        details: the values behind the message, by name; each is also an attribute of the error.
        code: stable, dotted; scripts may depend on it.
        exit_code: what the command line returns (design: verdict and exit codes).
    """

    code: ClassVar[str] = "internal.error"
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __getattr__(self, name: str) -> object:
        # Called only for names that are not attributes: serve the values given at the raise.
        details: dict[str, object] = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.details))

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def _rebuild(kind: type[MillcertError], message: str, hint: str, details: dict[str, object]) -> MillcertError:
    return kind(message, hint=hint, **details)


class UsageError(MillcertError):
    """The call cannot be carried out as it was made: a wrong argument, an existing output, a missing file."""

    code = "usage.error"
    exit_code = 2


class PolicyError(UsageError):
    """A policy file or a check's configuration is wrong. `faults` lists every fault with its line."""

    code = "policy.invalid"


class UnknownCheckError(UsageError):
    """No check is registered under that name, or two are."""

    code = "policy.unknown_check"


class MissingColumnError(UsageError):
    """A check needs a column that the data set does not have or that has another type."""

    code = "data.missing_column"


class NotEnoughSamplesError(MillcertError):
    """A statistic is undefined on so few samples or classes; the check is inconclusive, never passed."""

    code = "data.not_enough_samples"
    exit_code = 4


class InvalidSampleError(UsageError):
    """A value that a check was given is outside its declared domain (NaN, wrong width, no distribution)."""

    code = "data.invalid_sample"


class IntegrityError(MillcertError):
    """Bytes, signatures or a ledger are not what they claim to be. Nothing of them may reach training."""

    code = "integrity.error"
    exit_code = 3


class DigestMismatchError(IntegrityError):
    """A file's bytes are not the bytes that were signed or hashed before."""

    code = "integrity.digest_mismatch"


class ManifestError(IntegrityError):
    """A manifest is malformed, or the set of files differs from the one it lists."""

    code = "integrity.manifest"


class SignatureError(IntegrityError):
    """A signature, bundle, certificate chain, timestamp or log proof does not verify."""

    code = "integrity.signature"


class UntrustedSourceError(IntegrityError):
    """The signature may be sound, but the policy does not let this identity (or no identity) sign this source."""

    code = "integrity.untrusted_source"


class HostileDataError(IntegrityError):
    """A file breaks a bound on its decoded size, or has a structure that only an attack has."""

    code = "integrity.hostile_data"


class LedgerError(IntegrityError):
    """The ledger's tree, checkpoint or a proof does not verify."""

    code = "integrity.ledger"


class InclusionError(LedgerError):
    """An inclusion proof does not lead to the checkpoint's root."""

    code = "integrity.inclusion"


class ConsistencyError(LedgerError):
    """A newer checkpoint does not extend an older one."""

    code = "integrity.consistency"


class RollbackError(LedgerError):
    """The ledger is smaller than a checkpoint that was seen before."""

    code = "integrity.rollback"


class RevokedError(IntegrityError):
    """The data was admitted once, and that was taken back: a revocation touches it, or its override is over."""

    code = "integrity.revoked"


class InconclusiveError(MillcertError):
    """Evidence that the policy asks for could not be had; the gate stays closed."""

    code = "verdict.inconclusive"
    exit_code = 4


class StoreError(MillcertError):
    """A store or service failed; nothing was half-written, and a retry is safe."""

    code = "store.error"
    exit_code = 5


class InternalError(MillcertError):
    """A bug of ours."""

    code = "internal.error"
    exit_code = 70
