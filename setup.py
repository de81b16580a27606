"""Build millcert: three top-level folders become sub-packages of one import name.

Metadata stands in pyproject.toml. Why the folders are mapped and linked: docs/adr/0001-layout.md.
"""

from setuptools import find_packages, setup

FOLDERS = ("checks", "pipelines", "provenance")

setup(
    packages=[
        *find_packages(include=["millcert", "millcert.cli*", "millcert.report*", "millcert.testing*"]),
        *(f"millcert.{package}" for package in find_packages(include=[g for f in FOLDERS for g in (f, f"{f}.*")])),
    ],
    package_dir={f"millcert.{folder}": folder for folder in FOLDERS},
    package_data={"millcert": ["py.typed", "report/templates/*"]},
)
