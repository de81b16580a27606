"""What is built is what is in the checkout, and every module of it can be imported where only the package is
installed."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("checks", "pipelines", "provenance")
IMPORT_ALL = """
import importlib, pkgutil, sys
import millcert
names = sorted(m.name for m in pkgutil.walk_packages(millcert.__path__, "millcert.") if m.name != "millcert.__main__")
for name in names:
    importlib.import_module(name)
assert not {"checks", "pipelines", "provenance"} & set(sys.modules), "a bare folder was imported"
print(millcert.__file__, *names)
"""


def modules_of_checkout() -> set[str]:
    found = set()
    for top, prefix in [(ROOT / "millcert", "millcert"), *((ROOT / name, f"millcert.{name}") for name in FOLDERS)]:
        for path in top.rglob("*.py"):
            parts = path.relative_to(top).with_suffix("").parts
            if top.name == "millcert" and parts[0] in FOLDERS:
                continue
            name = ".".join([prefix, *(part for part in parts if part != "__init__")])
            found.add(name)
    return found - {"millcert", "millcert.__main__"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source archive, and the wheel from it, as `python -m build` does."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
    )
    return target


def install(package: Path, folder: Path) -> Path:
    """Install one file into a clean environment that borrows only the dependencies; return its interpreter."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    library = next(folder.glob("lib/python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(library), str(package)], check=True, capture_output=True
    )
    # A path that a .pth file adds does not run the .pth files in it, so the checkout's own installation stays away.
    (library / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_every_module_imports_where_only_the_built_package_is_installed(built: Path, tmp_path: Path, kind: str) -> None:
    python = install(next(built.glob(f"*.{kind}")), tmp_path / "env")

    found = subprocess.run([python, "-I", "-c", IMPORT_ALL], check=True, capture_output=True, text=True, cwd=tmp_path)

    location, *names = found.stdout.split()
    assert Path(location).is_relative_to(tmp_path)
    assert {name for name in names if name not in {f"millcert.{folder}" for folder in FOLDERS}} | {
        f"millcert.{folder}" for folder in FOLDERS
    } >= modules_of_checkout()


@pytest.mark.slow
def test_wheel_and_source_archive_hold_each_module_once_and_the_report_template(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as opened:
        wheel = opened.namelist()
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        archive = source.getnames()

    assert len(wheel) == len(set(wheel))
    assert any(name.startswith("millcert/report/templates/") for name in wheel)
    assert "millcert/py.typed" in wheel
    assert not [name for name in wheel if name.startswith((*FOLDERS, "tests"))]
    assert not [name for name in archive if "/millcert/checks" in name or "/millcert/pipelines" in name]
    assert [name for name in archive if name.endswith("/checks/base.py")]


def test_the_links_lead_to_the_real_folders() -> None:
    assert {name: (ROOT / "millcert" / name).readlink() for name in FOLDERS} == {
        name: Path("..") / name for name in FOLDERS
    }


def test_no_module_of_the_house_asks_for_annotations_of_the_future() -> None:
    """Rule: never `from __future__ import annotations`: Beam then reads every annotation as Any."""
    sources = [path for name in ("millcert", *FOLDERS) for path in (ROOT / name).rglob("*.py")]

    assert len(sources) > 50
    assert [path for path in sources if "from __future__" in path.read_text()] == []
