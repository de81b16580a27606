"""When something was signed, by clocks that the trusted root trusts, and what of the root was valid then. No sigstore.

Rules this module keeps:
  1. A timestamp counts if an authority of the trusted root signed it over this very signature, at a time within that
     authority's window. Windows include both ends; a window without a start holds nothing.
  2. A log's time counts where a signed entry timestamp covers it; the caller owes that signature's verification.
  3. What is left of the root was valid at all of these times: one log, by its id; the certificate transparency logs;
     the authorities. The library alone takes keys whose time was over.
  4. Without any time (bare keys only) a log counts whose window has no end: nothing says that the entry is not from
     after it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from millcert.errors import SignatureError

if TYPE_CHECKING:
    from sigstore_models.rekor.v1 import TransparencyLogEntry
    from sigstore_models.trustroot.v1 import CertificateAuthority, TransparencyLogInstance, TrustedRoot

#: Each costs a signature verification. The bound of the reference verifiers.
MAX_TIMESTAMPS = 32


def trusted_times(
    timestamps: Sequence[bytes], signature: bytes, entry: "TransparencyLogEntry", root: "TrustedRoot"
) -> list[datetime]:
    """Return every trusted time of signing.

    Args:
        timestamps: RFC 3161 responses, DER.
        signature: the bytes that they must be over.
        entry: the log entry.
        root: the whole trusted root.

    Raises:
        SignatureError: a timestamp is malformed, there twice, or there are too many; `reason` is "bundle_malformed".
    """
    from rfc3161_client import decode_timestamp_response

    if len(timestamps) > MAX_TIMESTAMPS or len(set(timestamps)) != len(timestamps):
        _refuse("bundle_malformed", f"The bundle has a timestamp twice, or more than {MAX_TIMESTAMPS}.")
    times = []
    for data in timestamps:
        try:
            response = decode_timestamp_response(data)
        except ValueError as error:
            raise SignatureError(
                f"A timestamp in the bundle cannot be read: {error}.", reason="bundle_malformed"
            ) from error
        if any(_is_signed_by(authority, response, signature) for authority in root.timestamp_authorities):
            times.append(response.tst_info.gen_time)
    if entry.integrated_time and entry.inclusion_promise:
        if (entry.kind_version.kind, entry.kind_version.version) == ("hashedrekord", "0.0.2"):
            _refuse("bundle_malformed", "Rekor v2 signs no entry timestamps, and this entry of it has one.")
        times.append(_moment(entry.integrated_time))
    return times


def narrowed_log(root: "TrustedRoot", log_id: bytes, times: Sequence[datetime]) -> "TransparencyLogInstance":
    """Return the log of that id, if it was valid at all times (rules 3 and 4).

    Raises:
        SignatureError: the trusted root does not have it, or it was not valid; `reason` is "log_unknown" or
            "log_not_valid".
    """
    named = [log for log in root.tlogs if log.log_id.key_id == log_id]
    if not named:
        _refuse("log_unknown", f"The entry is of the log {log_id.hex()}, which the trusted root does not have.")
    for log in named:
        window = log.public_key.valid_for
        if is_valid(window, times) and (times or (window is not None and window.end is None)):
            return log
    when = rfc3339(min(times)) if times else "a time that nobody tells"
    return _refuse("log_not_valid", f"The log {named[0].base_url} was not valid at {when}.")


def narrowed_root(root: "TrustedRoot", log: "TransparencyLogInstance", times: Sequence[datetime]) -> "TrustedRoot":
    """Return the root with that log alone, and of the rest what was valid at all times (rule 3).

    Windows of timestamp authorities end one step of the clock later, because the library does not include their end.

    Raises:
        SignatureError: no certificate transparency log or no authority was valid; `reason` is "ct_log_not_valid" or
            "authority_not_valid".
    """
    when = rfc3339(min(times))
    ct_logs = [one for one in root.ctlogs if is_valid(one.public_key.valid_for, times)]
    if not ct_logs:
        _refuse("ct_log_not_valid", f"No certificate transparency log was valid at {when}.")
    authorities = [one for one in root.certificate_authorities if is_valid(one.valid_for, times)]
    if not authorities:
        _refuse("authority_not_valid", f"No certificate authority was valid at {when}.")
    # An authority without certificates can sign nothing, and the library fails on it.
    stamping = [
        one.model_copy(update={"valid_for": _with_its_end(one.valid_for)})
        for one in root.timestamp_authorities
        if one.cert_chain.certificates
    ]
    return root.model_copy(
        update={
            "tlogs": [log],
            "ctlogs": ct_logs,
            "certificate_authorities": authorities,
            "timestamp_authorities": stamping,
        }
    )


def is_valid(window: Any, times: Sequence[datetime]) -> bool:
    """Tell whether a window (start, end or None; both included) holds all times. No window at all is never valid."""
    if window is None or window.start is None:
        return False
    return all(window.start <= time and (window.end is None or time <= window.end) for time in times)


def rfc3339(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _with_its_end(window: Any) -> Any:
    return window if window.end is None else window.model_copy(update={"end": window.end + timedelta(microseconds=1)})


def _is_signed_by(authority: "CertificateAuthority", response: Any, signature: bytes) -> bool:
    from cryptography.x509 import load_der_x509_certificate
    from rfc3161_client import VerificationError, VerifierBuilder

    if not is_valid(authority.valid_for, [response.tst_info.gen_time]):
        return False
    chain = [load_der_x509_certificate(link.raw_bytes) for link in authority.cert_chain.certificates]
    if len(chain) < 2:  # a signing certificate and a root at least
        return False
    builder = VerifierBuilder().tsa_certificate(chain[0]).add_root_certificate(chain[-1])
    for link in chain[1:-1]:
        builder = builder.add_intermediate_certificate(link)
    try:
        return builder.build().verify_message(response, signature)
    except VerificationError:
        return False


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return _refuse("bundle_malformed", f"The log's time is no time: {seconds}.")


def _refuse(reason: str, message: str) -> NoReturn:
    raise SignatureError(message, hint="Ask the owner to sign again.", reason=reason)
