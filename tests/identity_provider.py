"""An identity provider of a page of code: its configuration, its public keys, and tokens with whatever claims."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

AUDIENCE = "zeropoint"


@cache
def private_key(name: str) -> RSAPrivateKey:
    """Return a key by its name; making one takes long."""
    return generate_private_key(public_exponent=65537, key_size=2048)


class IdentityProvider:
    """A provider that listens on loopback; `asked` counts what it answered."""

    def __init__(self) -> None:
        self.keys: dict[str, RSAPrivateKey] = {}
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                body = json.dumps(provider.answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.add_key("first")

    def add_key(self, name: str) -> None:
        self.keys[name] = private_key(name)

    def answer(self, path: str) -> dict[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        public = {name: RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) for name, key in self.keys.items()}
        return {"keys": [{**key, "kid": name, "alg": "RS256", "use": "sig"} for name, key in public.items()]}

    def token(self, key: str = "first", *, signed_with: Any = None, algorithm: str = "RS256", **claims: Any) -> str:
        """Return a token that holds; claims replace or (None) remove those that it needs."""
        usual = {"iss": self.issuer, "aud": AUDIENCE, "sub": "someone", "exp": time.time() + 600}
        usual |= {"zeropoint_project": "ours", "zeropoint_role": "submitter"}
        kept = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(kept, signed_with or self.keys[key], algorithm=algorithm, headers={"kid": key})


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    """Run a provider."""
    provider = IdentityProvider()
    thread = threading.Thread(target=provider.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        provider.server.shutdown()
        provider.server.server_close()
        thread.join()
