"""Certificates made by the openssl command as tests need them: good, foreign, expired."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.environment import require

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate, its key, and the former's SHA-256 as openssl tells it."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        output = _openssl("x509", "-in", self.certificate, "-noout", "-fingerprint", "-sha256")
        return output.strip().partition("=")[2]

    def install(self, renewed: "Pair") -> None:
        """Take the other's place, as a renewal does: each file in one step."""
        for mine, new in ((self.certificate, renewed.certificate), (self.key, renewed.key)):
            copy = mine.with_suffix(".new")
            copy.write_bytes(new.read_bytes())
            copy.replace(mine)


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder of its own."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, days: int = 10) -> "Authority":
        folder.mkdir(parents=True)
        authority = cls(folder)
        _openssl("req", "-x509", *_KEY, "-keyout", authority._key, "-out", authority.certificate,
                 "-days", days, "-subj", f"/CN=Authority {folder.name}")  # fmt: skip
        return authority

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def _key(self) -> Path:
        return self.folder / "ca.key"

    def issue(self, name: str, days: int = 9) -> Pair:
        """A certificate for localhost that holds so many days; negative: expired."""
        request = self.folder / f"{name}.csr"
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        _openssl("req", *_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}",
                 "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                 "-CAcreateserial", "-copy_extensions", "copy", "-days", days,
                 "-out", pair.certificate)  # fmt: skip
        return pair

    def revocations(self, *pairs: Pair) -> str:
        """A certificate revocation list with these, in PEM form."""
        settings, database = self.folder / "ca.cnf", self.folder / "index.txt"
        settings.write_text(
            f"[ca]\ndefault_ca = own\n[own]\ndatabase = {database}\n"
            "default_md = sha256\ndefault_crl_days = 5\n"
        )
        database.write_text("")
        own = ("-config", settings, "-keyfile", self._key, "-cert", self.certificate)
        for pair in pairs:
            _openssl("ca", *own, "-revoke", pair.certificate)
        _openssl("ca", *own, "-gencrl", "-out", self.folder / "crl.pem")
        return (self.folder / "crl.pem").read_text()


def _openssl(*arguments: object) -> str:
    try:
        process = subprocess.run(
            ["openssl", *map(str, arguments)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        require(False, "openssl")
        raise
    assert process.returncode == 0, process.stderr
    return process.stdout
