"""`millcert source verify`: verify one source as the gate does, with the signer named here in place of a policy."""

import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.files import read_bounded
from millcert.cli.output import emit, json_option
from millcert.cli.source_hashing import cache_options, hashed_folder, remembered
from millcert.cli.source_places import FILE, FOLDER, own_files
from millcert.errors import ManifestError, PolicyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from millcert.provenance.manifest import FileEntry
    from millcert.provenance.pq_signature import PqPublicKey
    from millcert.provenance.trust import Signer, SourceRule, TrustRoot, VerifiedSource

_FORMS = {
    "manifest": "manifest",
    "oms": "model_signing",
    "checksums": "checksums",
    "bagit": "bagit",
    "croissant": "croissant",
}
_MAX_KEY_BYTES = 1 << 14
_MAX_AUTHORITY_BYTES = 1 << 16


@click.command("verify")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--form", type=click.Choice(list(_FORMS)), default="manifest", show_default=True, help="What is signed.")
@click.option("--manifest", type=FILE, help="The signed list.  [default: the form's own name in DIR]")
@click.option("--bundle", type=FILE, help="Its Sigstore bundle.  [default: the list's path and .sigstore.json]")
@click.option("--trusted-root", type=FILE, help="The Sigstore trusted root, JSON.")
@click.option("--trusted-root-sha256", metavar="HEX", help="The digest that the trusted root must have.")
@click.option("--issuer", help="The OIDC issuer that vouches for the signer.")
@click.option("--identity", help="The signer: an email address or a URI, compared exactly.")
@click.option("--identity-pattern", help="The signer, with * for any characters but / and @, ** for any at all.")
@click.option("--key", type=FILE, help="The signer's public key, PEM or DER, instead of issuer and identity.")
@click.option("--unsafe-unlogged", is_flag=True, help="With --key: accept a signature that no transparency log has.")
@click.option(
    "--unsafe-authority", type=FILE, help="A certificate (PEM) that may begin a chain; nothing of it is logged."
)
@click.option("--subject", help="With --unsafe-authority: the signing certificate's subject, such as CN=data,O=lab.")
@click.option(
    "--digest",
    "digests",
    type=click.Choice(["sha256", "sha384", "sha512", "blake3"]),
    multiple=True,
    help="A digest that counts in the list, repeatable.  [default: sha256]",
)
@click.option("--pq-key", type=FILE, help="Require a second signature of this ML-DSA-65 public key, PEM or DER.")
@cache_options
@json_option
def verify(
    folder: Path,
    form: str,
    manifest: Path | None,
    bundle: Path | None,
    digests: tuple[Any, ...],
    state: Path | None,
    no_cache: bool,
    as_json: bool,
    **who: Any,
) -> None:
    """Verify the signature over DIR's list of files, its signer, and every file below DIR. No network is used."""
    from millcert.provenance.bundle_form import MAX_BUNDLE_BYTES, MAX_ENVELOPE_BUNDLE_BYTES
    from millcert.provenance.digest_algorithms import other_digests
    from millcert.provenance.manifest import MAX_MANIFEST_BYTES, Manifest
    from millcert.provenance.pq_signature import MAX_PQ_BYTES
    from millcert.provenance.trust import verify_source

    signer, pq_keys = _signer(**who), _pq_keys(who["pq_key"])
    rule = _rule(folder, _FORMS[form], (manifest, bundle), signer, pq_keys=pq_keys, digests=digests or ("sha256",))
    root = _trust_root(rule, who["trusted_root"], who["trusted_root_sha256"])
    list_path, bundle_path = Path(rule.manifest_path), Path(rule.bundle_path)
    max_bundle_bytes = MAX_ENVELOPE_BUNDLE_BYTES if form == "oms" else MAX_BUNDLE_BYTES
    list_bytes = _read(list_path, max_bundle_bytes if form == "oms" else MAX_MANIFEST_BYTES)
    bundle_bytes = _read(bundle_path, max_bundle_bytes)
    pq_bytes = _read(Path(rule.pq_path), MAX_PQ_BYTES)
    _verify_signature(rule, list_bytes, bundle_bytes, root)
    own = own_files(folder, list_path, bundle_path, Path(rule.pq_path))
    hashed = hashed_folder(folder, own, state=state, no_cache=no_cache)
    files = Manifest("found", _payload(form, hashed.entries))
    others = other_digests(folder, files.files, rule.digests)
    found = verify_source(files, list_bytes, bundle_bytes, rule, root, pq_bytes=pq_bytes, digests=others)
    signature = found.signature
    if signature is None:
        raise AssertionError("A rule with a signer never gives an unsigned source.")
    emit(
        {
            "files": len(files.files),
            "files_remembered": hashed.reused,
            "manifest_root": found.manifest_root,
            "pq_key": found.pq_key,
            "signature": asdict(signature),
            "source": found.source,
            "status": found.status,
        },
        _answer(folder, len(files.files), found, remembered(hashed)),
        as_json=as_json,
    )


def _answer(folder: Path, count: int, found: "VerifiedSource", how: str) -> str:
    signature = found.signature
    if signature is None:
        raise AssertionError("A rule with a signer never gives an unsigned source.")
    if signature.log_index is None:
        signed = "in no log and at a time that nobody vouches for"
    else:
        signed = f"{signature.signed_at or 'at an unknown time'}, "
        signed += f"log entry {signature.log_index} of {signature.log_key_id[:16]}"
    lines = [
        f"verified  {folder}  {count:,} files{how}",
        f"  signer: {signature.identity}",
        *([f"  issuer: {signature.issuer}"] if signature.issuer else []),
        f"  signed: {signed}",
        *([f"  post-quantum: key:sha256:{found.pq_key}"] if found.pq_key else []),
        f"  root:   {found.manifest_root}",
        "next: name this signer for the source in the policy, then millcert vet",
    ]
    return "\n".join(lines)


def _signer(
    *,
    issuer: str | None,
    identity: str | None,
    identity_pattern: str | None,
    key: Path | None,
    unsafe_unlogged: bool,
    unsafe_authority: Path | None,
    subject: str | None,
    **_: object,
) -> "Signer":
    from millcert.provenance.public_key import parse_public_key
    from millcert.provenance.trust import AuthorityRule, KeyRule, SignerRule

    by_name = issuer is not None or identity is not None or identity_pattern is not None
    if by_name + (key is not None) + (unsafe_authority is not None) != 1:
        raise PolicyError("Name the signer in one way: --issuer with an identity, --key, or --unsafe-authority.")
    if unsafe_unlogged and key is None:
        raise PolicyError("--unsafe-unlogged is for --key: only a key's signatures are ever in no log.")
    if (unsafe_authority is None) != (subject is None):
        raise PolicyError("--unsafe-authority and --subject belong together.")
    if key is not None:
        data = read_bounded(key, _MAX_KEY_BYTES, what="public key", hint="Check --key.")
        return KeyRule(parse_public_key(data), is_unlogged_accepted=unsafe_unlogged)
    if unsafe_authority is not None:
        return AuthorityRule((_certificate(unsafe_authority),), subject or "")
    if bool(identity) == bool(identity_pattern):
        raise PolicyError("Name the signer by one of --identity and --identity-pattern.")
    return SignerRule(issuer or "", identity, identity_pattern)


def _certificate(path: Path) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    data = read_bounded(path, _MAX_AUTHORITY_BYTES, what="certificate", hint="Check --unsafe-authority.")
    try:
        return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
    except ValueError as error:
        raise PolicyError(f"{path} is no certificate in PEM: {error}.") from error


def _pq_keys(path: Path | None) -> "tuple[PqPublicKey, ...]":
    from millcert.provenance.pq_signature import parse_pq_key

    if path is None:
        return ()
    return (parse_pq_key(read_bounded(path, _MAX_KEY_BYTES, what="post-quantum key", hint="Check --pq-key.")),)


def _rule(
    folder: Path, form: Any, places: tuple[Path | None, Path | None], signer: "Signer", **demands: Any
) -> "SourceRule":
    """Return the rule of one source that is everything below a folder."""
    from millcert.provenance.trust import SourceRule

    manifest, bundle = places
    # The form's own name, as a rule without a place has it.
    usual = folder / SourceRule("any", "**", signed_by=(signer,), form=form, **demands).manifest_path
    if form == "model_signing":
        if manifest is not None:
            raise PolicyError("A model signature is list and bundle in one; name it with --bundle.")
        manifest_place, bundle_place = "", str(bundle or usual)
    else:
        manifest_place, bundle_place = str(manifest or usual), "" if bundle is None else str(bundle)
    return SourceRule(
        str(folder), "**", signed_by=(signer,), manifest=manifest_place, bundle=bundle_place, form=form, **demands
    )


def _trust_root(rule: "SourceRule", path: Path | None, sha256: str | None) -> "TrustRoot | None":
    from millcert.provenance.bundle_form import MAX_BUNDLE_BYTES
    from millcert.provenance.trust import load_trust_root

    if (path is None) != (sha256 is None):
        raise PolicyError(
            "--trusted-root and --trusted-root-sha256 belong together: a root that is not pinned is none."
        )
    if path is None or sha256 is None:
        if rule.needs_trust_root:
            raise PolicyError(
                "A logged signature is verified against a trusted root: give --trusted-root and --trusted-root-sha256.",
                hint="For a key whose signature is in no log: --unsafe-unlogged.",
            )
        return None
    return load_trust_root(
        read_bounded(path, MAX_BUNDLE_BYTES, what="trusted root", hint="Check --trusted-root."), sha256
    )


def _verify_signature(
    rule: "SourceRule", list_bytes: bytes | None, bundle_bytes: bytes | None, root: "TrustRoot | None"
) -> None:
    """Spend some milliseconds that spare the hashing of all files where the signature is bad."""
    from millcert.provenance.bundle import verify_bundle

    if list_bytes is not None and bundle_bytes is not None and rule.form != "model_signing":
        verify_bundle(list_bytes, bundle_bytes, root=root, identity=rule.signed_by or ())


def _payload(form: str, entries: "Sequence[FileEntry]") -> "tuple[FileEntry, ...]":
    """Return the files that a list of this form is about: what a bag has beside its payload is no data."""
    return tuple(entry for entry in entries if form != "bagit" or entry.path.startswith("data/"))


def _read(path: Path, max_bytes: int) -> bytes | None:
    """Return a file's bytes, None where there is none; one byte above the bound is enough to be refused later."""
    try:
        # A pipe in the place of a signature must not make the verifier wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ManifestError(f"{path} is no regular file.", hint="Replace it by the file that is meant.")
        return stream.read(max_bytes + 1)
