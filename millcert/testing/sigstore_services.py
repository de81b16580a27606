"""A private Sigstore's services on the loopback interface, so that real signing clients are tested end to end.

`LoopbackServices(kit)` answers, on 127.0.0.1 and a free port, as Fulcio, Rekor (v1 and v2), a timestamp authority, and
the endpoint that gives a GitHub Actions job its identity token do; only as far as a signing client asks. It believes
every token and checks no signature: it stands for services, not for their security.
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from millcert.testing import der
from millcert.testing.sigstore import PrivateSigstore, Rekor

_SHA2 = {"SHA_256": "SHA2_256", "SHA_384": "SHA2_384", "SHA_512": "SHA2_512", "SHA256": "SHA2_256"}
_TOKEN_SECONDS = 600
#: The token that a job must show to get its identity token.
REQUEST_TOKEN = "of the job"  # noqa: S105 - stands for a secret, and is none


@dataclass
class LoopbackServices:
    """The services, from entering the context to leaving it.

    kit: signs. identity, issuer: what the ambient identity token says. failing: path suffixes of services that answer
    503, such as "timestamp". requests: the path of each request that came, in order.
    """

    kit: PrivateSigstore
    identity: str
    issuer: str
    failing: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        services = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

            def _answer(self, body: bytes) -> None:
                status, content = services.answer(self.path, body, dict(self.headers))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where all of them are, without a final slash."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self) -> Mapping[str, str]:
        """Return the variables by which a job of GitHub Actions finds its identity token."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        }

    def trust_config(self, *, rekor: Rekor = 2) -> bytes:
        """Return the client trust configuration (JSON) that names these services and the kit's trusted root."""
        start = (self.kit.now - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

        def service(url: str, version: int) -> dict[str, Any]:
            return {"url": url, "majorApiVersion": version, "validFor": {"start": start}, "operator": "private.test"}

        config = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [service(self.url, 1)],
            "rekorTlogUrls": [service(self.url, rekor)],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [service(f"{self.url}/timestamp", 1)],
            "tsaConfig": {"selector": "ANY"},
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": json.loads(self.kit.trusted_root()),
                "signingConfig": config,
            }
        ).encode()

    def identity_token(self) -> str:
        """Return an identity token (a JWT that nobody signed) for Sigstore's audience."""
        return self._token("sigstore")

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and content for one request."""
        parts = urlsplit(path)
        self.requests.append(parts.path)
        if any(parts.path.endswith(one) for one in self.failing):
            return 503, b'{"message": "out of service"}'
        routes: dict[str, Callable[[], bytes]] = {
            "/token": lambda: _json({"value": self._token(parse_qs(parts.query)["audience"][0])}),
            "/api/v2/signingCert": lambda: self._certificate(body, headers),
            "/api/v2/log/entries": lambda: _json(self._entry_v2(json.loads(body))),
            "/api/v1/log/entries": lambda: _json(self._entry_v1(json.loads(body))),
            "/timestamp": lambda: self._timestamp(body),
        }
        route = routes.get(parts.path)
        return (404, b"{}") if route is None else (201 if "log" in parts.path else 200, route())

    def _token(self, audience: str) -> str:
        now = int(time.time())
        claims = {
            "aud": audience,
            "iss": self.issuer,
            "sub": self.identity,
            "email": self.identity,
            "iat": now,
            "nbf": now,
            "exp": now + _TOKEN_SECONDS,
        }
        parts = (json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims))
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, b"unsigned"))

    def _certificate(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        token = headers["Authorization"].removeprefix("Bearer ").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(token + "=="))
        request = x509.load_pem_x509_csr(base64.b64decode(json.loads(body)["certificateSigningRequest"]))
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("This authority certifies elliptic curve keys only.")
        chain = self.kit.issue(key, identity=claims["sub"], issuer=claims["iss"])
        pem = [one.public_bytes(serialization.Encoding.PEM).decode() for one in chain]
        return _json({"signedCertificateEmbeddedSct": {"chain": {"certificates": pem}}})

    def _entry_v2(self, request: Mapping[str, Any]) -> dict[str, Any]:
        asked = request["hashedRekordRequestV002"]
        details = asked["signature"]["verifier"]["keyDetails"]
        algorithm = next(name for ending, name in _SHA2.items() if details.endswith(ending))
        record = {"data": {"algorithm": algorithm, "digest": asked["digest"]}, "signature": asked["signature"]}
        body = {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}}
        return self.kit.log(body, rekor=2)

    def _entry_v1(self, request: Mapping[str, Any]) -> dict[str, Any]:
        entry = self.kit.log(_canonical_v1(request), rekor=1)
        proof = entry["inclusionProof"]
        return {
            "0": {
                "body": entry["canonicalizedBody"],
                "integratedTime": int(entry["integratedTime"]),
                "logID": base64.b64decode(entry["logId"]["keyId"]).hex(),
                "logIndex": int(entry["logIndex"]),
                "verification": {
                    "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
                    "inclusionProof": {
                        "logIndex": int(proof["logIndex"]),
                        "treeSize": int(proof["treeSize"]),
                        "rootHash": base64.b64decode(proof["rootHash"]).hex(),
                        "hashes": [base64.b64decode(one).hex() for one in proof["hashes"]],
                        "checkpoint": proof["checkpoint"]["envelope"],
                    },
                },
            }
        }

    def _timestamp(self, request: bytes) -> bytes:
        _, content, _ = der.element(request)
        _, _, rest = der.element(content)  # the version
        _, imprint, rest = der.element(rest)
        _, _, digest = der.element(imprint)  # the algorithm, which the client fixes to SHA-256
        nonce = rest[: len(rest) - len(der.element(rest)[2])] if rest[:1] == b"\x02" else b""
        return self.kit.timestamp(der.element(digest)[1], nonce=nonce)


def _canonical_v1(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the body that Rekor v1 logs for a proposed entry."""
    if request["kind"] != "dsse":
        return request
    proposed = request["spec"]["proposedContent"]
    envelope = json.loads(proposed["envelope"])
    spec = {
        "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(proposed["envelope"].encode()).hexdigest()},
        "payloadHash": {
            "algorithm": "sha256",
            "value": hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest(),
        },
        "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": proposed["verifiers"][0]}],
    }
    return {"apiVersion": request["apiVersion"], "kind": "dsse", "spec": spec}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()
