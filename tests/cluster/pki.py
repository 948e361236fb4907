"""Keys and certificates of one cluster, made by openssl and thrown away with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stuntime.sandbox.process import run

_DAYS = "30"
_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


def make_authority(directory: Path, name: str) -> Pair:
    """Make a certificate authority."""
    pair = _pair(directory, name)
    subject = ["-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"]
    _openssl(["req", "-x509", *_CURVE, "-days", _DAYS, *subject, *_out(pair)])
    return pair


def make_certificate(
    authority: Pair, directory: Path, name: str, *, subject: str | None = None, alternatives: Sequence[str] = ()
) -> Pair:
    """Make a certificate for a server and client that the authority vouches for."""
    pair = _pair(directory, name)
    request, extensions = directory / f"{name}.csr", directory / f"{name}.ext"
    lines = ["keyUsage=critical,digitalSignature", "extendedKeyUsage=serverAuth,clientAuth"]
    lines += [f"subjectAltName={','.join(alternatives)}"] if alternatives else []
    extensions.write_text("\n".join(lines) + "\n")
    _openssl(
        ["req", "-new", *_CURVE, "-subj", subject or f"/CN={name}", "-keyout", str(pair.key), "-out", str(request)]
    )
    signer = ["-CA", str(authority.certificate), "-CAkey", str(authority.key), "-CAcreateserial"]
    signed = ["-days", _DAYS, "-extfile", str(extensions), "-out", str(pair.certificate)]
    _openssl(["x509", "-req", "-in", str(request), *signer, *signed])
    return pair


def make_signing_key(directory: Path, name: str) -> Pair:
    """Make a key pair: `certificate` is the public key."""
    pair = _pair(directory, name)
    _openssl(["genrsa", "-out", str(pair.key), "2048"])
    _openssl(["rsa", "-in", str(pair.key), "-pubout", "-out", str(pair.certificate)])
    return pair


def _pair(directory: Path, name: str) -> Pair:
    return Pair(directory / f"{name}.crt", directory / f"{name}.key")


def _out(pair: Pair) -> list[str]:
    return ["-keyout", str(pair.key), "-out", str(pair.certificate)]


def _openssl(arguments: list[str]) -> None:
    run(["openssl", *arguments])
