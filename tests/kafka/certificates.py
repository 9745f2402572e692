"""Certificates for the tests, made with the openssl program: an authority of our own and what it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
LOCALHOST = "DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Certificate:
    """PEM files: the certificate, its key, and both in one file, as a broker's key store wants them."""

    certificate: Path
    key: Path

    @property
    def key_store(self) -> Path:
        both = self.certificate.with_suffix(".store.pem")
        both.write_text(self.key.read_text() + self.certificate.read_text())
        return both


class Authority:
    """Signs certificates; its own is what a client trusts."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self.certificate, self._key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        _openssl("req", "-x509", *_CURVE, "-nodes", "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}", "-days", "2")

    def sign(self, name: str, hosts: str = LOCALHOST, *, days: int = 2, key_password: str | None = None) -> Certificate:
        """A certificate of this name; expired since yesterday with days=-1."""
        certificate, key, request = (self._folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
        locked = ["-nodes"] if key_password is None else ["-passout", f"pass:{key_password}"]
        _openssl("req", *_CURVE, *locked, "-keyout", key, "-out", request, "-subj", f"/CN={name}", "-addext", f"subjectAltName={hosts}")
        signer = ["-CA", self.certificate, "-CAkey", self._key, "-copy_extensions", "copyall"]
        _openssl("x509", "-req", "-in", request, *signer, "-days", days, "-out", certificate)
        return Certificate(certificate, key)


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
