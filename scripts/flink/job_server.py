"""Join the jars that pom.xml names into one job-server jar, every byte of it pinned.

Maven checks what it downloads against digests from the same place; here each jar must also meet the SHA-256 that was
reviewed with this repository (jars.sha256). Entries are stored, not compressed, in a fixed order and with a fixed time,
so the same parts give the same jar on every machine, and its own SHA-256 is pinned too (job-server.sha256).

A second jar has Beam's runner without Flink itself. It belongs into the lib/ of a cluster with parent-first class
loading: there Beam may keep Python workers between the stages of a job instead of starting new ones for each.

Usage: python job_server.py check|pin JARS_FOLDER JOB_SERVER.jar RUNNER.jar
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
    if len(sys.argv) != 5 or sys.argv[1] not in {"check", "pin"}:
        sys.exit(__doc__)
    mode, jars, outputs = sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]]
    found = {path.name: sha256(path) for path in sorted(jars.glob("*.jar"))}
    if mode == "pin":
        PARTS.write_text("".join(f"{digest}  {name}\n" for name, digest in found.items()))
    pinned = {name: digest for digest, name in (line.split() for line in PARTS.read_text().splitlines())}
    wrong = sorted(name for name in found.keys() | pinned.keys() if found.get(name) != pinned.get(name))
    if wrong:
        named = ", ".join(wrong[:5])
        sys.exit(f"{len(wrong)} of {len(pinned)} jars are not the pinned ones: {named}. Nothing was built.")
    ordered = [jars / name for name in sorted(found, key=rank)]
    partials = [output.with_suffix(".partial") for output in outputs]
    for partial, parts in zip(
        partials, (ordered, [jar for jar in ordered if not is_flinks_own(jar.name)]), strict=True
    ):
        partial.unlink(missing_ok=True)
        build(parts, partial)
    digests = {output.name: sha256(partial) for output, partial in zip(outputs, partials, strict=True)}
    if mode == "pin":
        WHOLE.write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    expected = {name: digest for digest, name in (line.split() for line in WHOLE.read_text().splitlines())}
    if digests != expected:
        sys.exit(f"The jars came out as {digests}, expected {expected}. Nothing was installed.")
    for output, partial in zip(outputs, partials, strict=True):
        partial.rename(output)
    print(f"{outputs[0]}\n  --flink_job_server_sha256={digests[outputs[0].name]}")


def is_flinks_own(name: str) -> bool:
    """Say whether a cluster has this part already; a second copy in lib/ would shadow it."""
    return name.startswith(("flink-", "slf4j-", "log4j-", "kryo-", "chill-", "minlog-", "objenesis-"))


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
