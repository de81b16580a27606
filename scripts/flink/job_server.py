"""Join the jars that pom.xml names into one job-server jar, every byte of it pinned.

Maven checks what it downloads against digests from the same place; here each jar must also meet the SHA-256 that was
reviewed with this repository (jars.sha256). Entries are stored, not compressed, in a fixed order and with a fixed time,
so the same parts give the same jar on every machine, and its own SHA-256 is pinned too (job-server.sha256).

Usage: python job_server.py check|pin JARS_FOLDER OUTPUT.jar
"""

# ruff: noqa: INP001, T201 - a script of its own, which talks to a terminal
import hashlib
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PARTS, WHOLE = HERE / "jars.sha256", HERE / "job-server.sha256"
MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
SIGNATURES = (".SF", ".RSA", ".DSA", ".EC")
#: Files of one name in several jars that must be joined, because Java looks for all of them.
JOINED = "META-INF/services/"
LEFT_OUT = frozenset({"META-INF/MANIFEST.MF", "META-INF/INDEX.LIST"})
TIME = (1980, 1, 1, 0, 0, 0)


def main() -> None:
    """Check or pin, then build."""
    if len(sys.argv) != 4 or sys.argv[1] not in {"check", "pin"}:
        sys.exit(__doc__)
    mode, jars, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    found = {path.name: sha256(path) for path in sorted(jars.glob("*.jar"))}
    if mode == "pin":
        PARTS.write_text("".join(f"{digest}  {name}\n" for name, digest in found.items()))
    pinned = {name: digest for digest, name in (line.split() for line in PARTS.read_text().splitlines())}
    wrong = sorted(name for name in found.keys() | pinned.keys() if found.get(name) != pinned.get(name))
    if wrong:
        sys.exit(
            f"{len(wrong)} of {len(pinned)} jars are not the pinned ones: {', '.join(wrong[:5])}. Nothing was built."
        )
    partial = output.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    build([jars / name for name in sorted(found, key=rank)], partial)
    digest = sha256(partial)
    if mode == "pin":
        WHOLE.write_text(f"{digest}  {output.name}\n")
    expected = WHOLE.read_text().split()[0]
    if digest != expected:
        partial.unlink()
        sys.exit(f"The job-server jar came out as {digest}, expected {expected}. Nothing was installed.")
    partial.rename(output)
    print(f"{output}  {output.stat().st_size / 1e6:,.0f} MB\n  --flink_job_server_sha256={digest}")


def rank(name: str) -> tuple[bool, str]:
    """Order the parts: Beam's classes win over copies of them elsewhere."""
    return (not name.startswith("beam-"), name)


def build(jars: list[Path], output: Path) -> None:
    """Write one jar of many: the first file of a name wins, lists of services are joined."""
    services: dict[str, list[str]] = {}
    seen: set[str] = set()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as target:
        add(target, "META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\r\nMain-Class: {MAIN}\r\n\r\n".encode())
        for jar in jars:
            with zipfile.ZipFile(jar) as source:
                for name in entries(source):
                    if name.startswith(JOINED):
                        lines = services.setdefault(name, [])
                        lines += [line for line in source.read(name).decode().splitlines() if line not in lines]
                    elif name not in seen:
                        seen.add(name)
                        add(target, name, source.read(name))
        for name in sorted(services):
            add(target, name, ("\n".join(services[name]) + "\n").encode())


def entries(source: zipfile.ZipFile) -> Iterator[str]:
    """Yield the names to take: no folders, manifests, signatures (they would not fit the whole) or module files."""
    for name in sorted(set(source.namelist())):
        is_signature = name.startswith("META-INF/") and name.upper().endswith(SIGNATURES)
        is_left_out = name.endswith(("/", "module-info.class")) or name in {
            "META-INF/MANIFEST.MF",
            "META-INF/INDEX.LIST",
        }
        if not is_signature and not is_left_out:
            yield name


def add(target: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Write one stored entry."""
    entry = zipfile.ZipInfo(name, TIME)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    target.writestr(entry, data)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    os.umask(0o022)
    main()
