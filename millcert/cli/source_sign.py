"""`millcert source sign` and `keygen`: what an owner does, so that a gate can tell whose data it is."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.files import read_bounded
from millcert.cli.output import emit, json_option
from millcert.cli.source_places import FILE, FOLDER, bundle_of, own_files, pq_of, quoted
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.manifest import Manifest
    from millcert.provenance.pq_signature import PqKey
    from millcert.provenance.signing_key import SigningKey
    from millcert.provenance.source_signing import ByKey, Keyless, SignedContent

_MAX_CONFIG_BYTES = 4 << 20
_KINDS = ("p256", "p384", "p521", "ed25519", "rsa-3072", "ml-dsa-65")


@click.command("sign")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--name", required=True, help="What the source or data set is called; signed with its files.")
@click.option("--form", type=click.Choice(["manifest", "oms"]), default="manifest", show_default=True)
@click.option("--key", type=FILE, help="Sign with this private key: EC, RSA or Ed25519, PEM, mode 0600.")
@click.option(
    "--key-uri", metavar="URI", help="Sign with a key in a KMS or HSM: awskms:, gcpkms:, azurekms:, hsm:, hv:"
)
@click.option("--public-key", type=FILE, help="With --key-uri: its public half, PEM or DER.")
@click.option("--keyless", is_flag=True, help="Sign with a certificate for the identity of this CI job (ambient OIDC).")
@click.option("--identity-token-env", metavar="NAME", help="With --keyless: the variable that holds a token instead.")
@click.option("--log", "is_logged", is_flag=True, help="With a key: put the signature into the transparency log.")
@click.option("--trust-config", type=FILE, help="Sigstore client trust configuration.  [default: the public instance]")
@click.option("--password-env", metavar="NAME", help="The variable that holds the password or PIN of the key.")
@click.option("--pq-key", type=FILE, help="Sign a second time, with this ML-DSA-65 private key.")
@click.option("--pq-password-env", metavar="NAME", help="The variable that holds the password of --pq-key.")
@click.option("--out", type=FILE, help="Where the manifest goes, or with --form oms the signature.  [default: in DIR]")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite another signature that is already there.")
@json_option
def sign(folder: Path, name: str, form: str, out: Path | None, is_replaced: bool, as_json: bool, **how: Any) -> None:
    """Hash every file below DIR, sign the list of them, and write list and signature: both, or neither.

    --form oms writes an OpenSSF model signature (model.sig) in place of our manifest and its bundle. A manifest that is
    there without a bundle and lists these very files is signed as it is, with what it says of their rows.
    """
    from millcert.cli.promote import promote, remove_leftovers
    from millcert.provenance.digest import hash_folder
    from millcert.provenance.manifest import Manifest

    target = out if out is not None else folder / _default_name(form)
    _refuse_keys_among_data(folder, how["key"], how["pq_key"], how["trust_config"])
    own = (target, pq_of(target)) if form == "oms" else (target, bundle_of(target), pq_of(target))
    signer, pq = _signer(**how), _pq_key(how["pq_key"], how["pq_password_env"])
    if target.parent.is_dir():
        remove_leftovers(target.parent)
    ignored = own_files(folder, *own)
    manifest = Manifest(name, hash_folder(folder, exclude=ignored))
    if not manifest.files:
        raise UsageError(f"There is no file below {folder}.", hint="Name the folder that holds the data.")
    manifest = (form == "manifest" and not own[1].exists() and _waiting(target, manifest)) or manifest
    _refuse_other(own, manifest, is_replaced=is_replaced, form=form)
    files, signed = _signed(form, manifest, sorted(ignored), signer, pq, own)
    promote(files)
    for stale in [path for path in own if path not in files]:
        stale.unlink(missing_ok=True)  # a post-quantum signature over another list
    payload = {
        "files": len(manifest.files),
        "form": form,
        "manifest_root": manifest.root,
        "name": manifest.name,
        "signature": asdict(signed.signature),
        "written": [str(path) for path in files],
    }
    emit(payload, _answer(folder, form, manifest, signed, files), as_json=as_json)


@click.command("keygen")
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--kind", type=click.Choice(_KINDS), default="p256", show_default=True)
@click.option("--password-env", metavar="NAME", help="The variable that holds the password to encrypt the file with.")
@json_option
def keygen(path: Path, kind: Any, password_env: str | None, as_json: bool) -> None:
    """Make a key pair to sign sources with: the private half in FILE (mode 0600), the public one in FILE's .pub.

    Nothing is overwritten. ml-dsa-65 is for the second, post-quantum signature (--pq-key).
    """
    from millcert.provenance.checkpoint import encode_base64
    from millcert.provenance.signing_key import make_signing_key

    made = make_signing_key(path, kind, password=_secret(password_env))
    key = encode_base64(made.public_spki)
    is_pq = kind == "ml-dsa-65"
    in_policy = f'require_pq: "{key}"' if is_pq else f'signed_by: {{key: "{key}", unlogged: accept}}'
    option = "--key KEY --pq-key" if is_pq else "--key"
    emit(
        {
            "key": key,
            "kind": kind,
            "private": str(made.private_path),
            "public": str(made.public_path),
            "sha256": made.sha256,
        },
        f"made  {kind} key  key:sha256:{made.sha256}\n"
        f"  private: {made.private_path}\n"
        f"  public:  {made.public_path}\n"
        f"  in a policy: {in_policy}\n"
        f"next: millcert source sign DIR --name NAME {option} {quoted(path)}",
        as_json=as_json,
    )


def _signed(
    form: str,
    manifest: "Manifest",
    ignored: list[str],
    signer: "ByKey | Keyless",
    pq: "PqKey | None",
    places: tuple[Path, ...],
) -> "tuple[Mapping[Path, bytes], SignedContent]":
    """Return what is written where, a list before its signatures, and the signature."""
    from millcert.provenance.oms_write import model_statement
    from millcert.provenance.source_signing import sign_list, sign_model

    if form == "oms":
        signed = sign_model(model_statement(manifest, ignored), signer, pq=pq)
        files = {places[0]: signed.bundle}
    else:
        data = manifest.to_json()
        signed = sign_list(data, signer, pq=pq)
        # The signature first: a list without one could pass for a list that nobody signed.
        files = {places[1]: signed.bundle, places[0]: data}
    if signed.pq is not None:
        files = {places[-1]: signed.pq, **files}
    return files, signed


def _signer(
    *,
    key: Path | None,
    key_uri: str | None,
    public_key: Path | None,
    keyless: bool,
    identity_token_env: str | None,
    is_logged: bool,
    trust_config: Path | None,
    password_env: str | None,
    **_: object,
) -> "ByKey | Keyless":
    from millcert.provenance.signing_services import ambient_token, given_token, load_services
    from millcert.provenance.source_signing import ByKey, Keyless

    if (key is not None) + (key_uri is not None) + keyless != 1:
        raise UsageError("Name what signs by one of --key, --key-uri and --keyless.")
    faults = [
        (public_key is not None and key_uri is None, "--public-key is for --key-uri"),
        (key_uri is not None and public_key is None, "--key-uri needs --public-key"),
        (identity_token_env is not None and not keyless, "--identity-token-env is for --keyless"),
        (keyless and password_env is not None, "--password-env is for a key"),
        (keyless and is_logged, "--keyless always logs; leave out --log"),
        (trust_config is not None and not (keyless or is_logged), "--trust-config is for --keyless or --log"),
    ]
    for is_wrong, text in faults:
        if is_wrong:
            raise UsageError(f"{text}.")
    secret = _secret(password_env)
    held = None if keyless else _key(key, key_uri, public_key, secret)
    config = None
    if trust_config is not None:
        config = read_bounded(trust_config, _MAX_CONFIG_BYTES, what="trust configuration", hint="Check the path.")
    if held is not None:
        return ByKey(held, load_services(config) if is_logged else None)
    token = given_token(_secret(identity_token_env) or "") if identity_token_env else ambient_token()
    return Keyless(load_services(config), token)


def _key(key: Path | None, key_uri: str | None, public_key: Path | None, secret: str | None) -> "SigningKey":
    from millcert.provenance.public_key import parse_public_key
    from millcert.provenance.signing_key import load_signing_key
    from millcert.provenance.signing_uri import UriKey

    if key is not None:
        return load_signing_key(key, password=secret)
    data = read_bounded(public_key or Path(), 1 << 14, what="public key", hint="Check --public-key.")
    return UriKey(key_uri or "", parse_public_key(data), None if secret is None else lambda _: secret)


def _pq_key(path: Path | None, password_env: str | None) -> "PqKey | None":
    from millcert.provenance.pq_signature import load_pq_key

    if path is None:
        if password_env is not None:
            raise UsageError("--pq-password-env is for --pq-key.")
        return None
    return load_pq_key(path, password=_secret(password_env))


def _refuse_keys_among_data(folder: Path, *paths: Path | None) -> None:
    """Refuse to list and ship what signs: a key in the folder would be one of the data's files."""
    given = [path for path in paths if path is not None]
    inside = own_files(folder, *given, *(path.resolve() for path in given))  # also where a link outside leads inside
    if inside:
        raise UsageError(
            f"{min(inside)} stands among the data that it would sign.",
            hint="Move it out of the folder; whoever gets the data would get it, too.",
        )


def _secret(variable: str | None) -> str | None:
    """Return a secret from the environment: an argument could be read by everybody on the machine."""
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise UsageError(f"The environment variable {variable} is not set.", hint="Set it for this command only.")
    return value


def _waiting(target: Path, found: "Manifest") -> "Manifest | None":
    """Return the manifest that waits for its signature, if there is one, it has this name, and lists these files."""
    from millcert.errors import IntegrityError
    from millcert.provenance.manifest import MAX_MANIFEST_BYTES, compare_manifests, parse_manifest

    if not target.exists():
        return None
    data = read_bounded(target, MAX_MANIFEST_BYTES, what="manifest", hint="Check the path.")
    try:
        waiting = parse_manifest(data)
        compare_manifests(waiting, found)
    except IntegrityError:
        return None
    return waiting if (waiting.name, waiting.to_json()) == (found.name, data) else None


def _refuse_other(own: tuple[Path, ...], manifest: "Manifest", *, is_replaced: bool, form: str) -> None:
    """Refuse to overwrite another list or any signature; a signature without its list is a leftover."""
    if is_replaced or not own[0].exists():
        return
    if form == "manifest":
        present = read_bounded(own[0], len(manifest.to_json()), what="manifest", hint="Check the path.")
        if present == manifest.to_json() and not own[1].exists():
            return
    raise UsageError(f"There is another manifest or signature at {own[0]}.", hint="Use --replace to overwrite it.")


def _default_name(form: str) -> str:
    from millcert.provenance.oms import SIGNATURE_NAME
    from millcert.provenance.trust import MANIFEST_NAME

    return SIGNATURE_NAME if form == "oms" else MANIFEST_NAME


def _answer(folder: Path, form: str, manifest: "Manifest", signed: "SignedContent", files: Mapping[Path, bytes]) -> str:
    signature = signed.signature
    options = ["--form", form] if form != "manifest" else []
    if signature.issuer:
        options += ["--issuer", signature.issuer, "--identity", signature.identity]
    else:
        options += ["--key", "KEY.pub"]
    if signature.log_index is None:
        logged = "in no log: a policy must accept that (unlogged: accept)"
        options.append("--unsafe-unlogged")
    else:
        logged = f"log entry {signature.log_index} of {signature.log_key_id[:16]}, signed {signature.signed_at or '?'}"
        options += ["--trusted-root", "FILE", "--trusted-root-sha256", "HEX"]
    if signed.pq is not None:
        options += ["--pq-key", "PQ.pub"]
    lines = [
        f"signed  {manifest.name}  {len(manifest.files):,} files",
        f"  signer: {signature.identity}",
        *([f"  issuer: {signature.issuer}"] if signature.issuer else []),
        f"  {logged}",
        f"  root:   {manifest.root}",
        *(f"  wrote:  {path}" for path in files),
        f"next: millcert source verify {quoted(folder)} {' '.join(map(quoted, options))}",
    ]
    return "\n".join(lines)
