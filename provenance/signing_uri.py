"""Keys that never leave their device or service: KMS and HSM, through securesystemslib's signers.

A URI names the private key (`awskms:`, `gcpkms:`, `azurekms:`, `hsm:`, `hv:`, `file2:`, or a scheme that a package
registered in SIGNER_FOR_URI_SCHEME); the public half is given by the caller, so a service that holds another key is
found out before anything is written (provenance/signing_key.py, rule 3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa

from millcert.errors import MillcertError, StoreError, UsageError
from millcert.provenance.public_key import PublicKey

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

#: Scheme -> the extra that brings what it needs.
_EXTRAS = {"awskms": "kms-aws", "gcpkms": "kms-gcp", "azurekms": "kms-azure", "hv": "kms-vault", "hsm": "hsm"}


@dataclass(frozen=True)
class UriKey:
    """A private key behind a URI.

    uri: names it. public: its public half. secret: gives a PIN or passphrase by its name; None where none is offered.
    """

    uri: str
    public: PublicKey
    secret: Callable[[str], str] | None = None

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message.

        Raises:
            UsageError: the scheme is not known, needs a package that is not there, or the URI does not fit the key.
            StoreError: the device or service failed.
        """
        from securesystemslib.exceptions import UnsupportedLibraryError

        try:
            return bytes.fromhex(self._signer.sign(message).signature)
        except MillcertError:
            raise
        except (UnsupportedLibraryError, ImportError) as error:
            extra = _EXTRAS.get(self._scheme)
            hint = f"pip install 'millcert[{extra}]'" if extra else "Install what the signer asks for."
            raise UsageError(f"The signer {self._scheme}: needs more than is installed: {error}.", hint=hint) from error
        except ValueError as error:
            raise UsageError(
                f"The signer {self._scheme}: refuses: {error}.", hint="Check the URI, and that the public key is its."
            ) from error
        except Exception as error:  # each signer has errors of its own library
            raise StoreError(
                f"The signer {self._scheme}: failed: {type(error).__name__}: {str(error)[:300]}.",
                hint="Check the credentials and the network, then run again. Nothing was written.",
            ) from error

    @property
    def _scheme(self) -> str:
        return self.uri.partition(":")[0]

    @cached_property
    def _signer(self) -> "Signer":
        from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signer, SSlibKey

        if self._scheme not in SIGNER_FOR_URI_SCHEME:
            raise UsageError(
                f"No signer is known for {self._scheme[:40]!r}.",
                hint=f"Known are {', '.join(sorted(f'{one}:' for one in SIGNER_FOR_URI_SCHEME))}.",
            )
        loaded = self.public.load()
        # The library's own choice for RSA is PSS, which no policy here accepts.
        scheme = "rsa-pkcs1v15-sha256" if isinstance(loaded, rsa.RSAPublicKey) else None
        key = SSlibKey.from_crypto(loaded, scheme=scheme)  # type: ignore[arg-type] # PublicKey.load lets these through
        return Signer.from_priv_key_uri(self.uri, key, self.secret)
