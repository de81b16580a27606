"""`millcert source`: what an owner writes, the gate verifies, and every other outcome has its exit code."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from millcert.cli.source import source
from millcert.errors import (
    DigestMismatchError,
    IntegrityError,
    ManifestError,
    PolicyError,
    SignatureError,
    UntrustedSourceError,
    UsageError,
)
from millcert.provenance.manifest import parse_manifest
from millcert.testing.sigstore import PrivateSigstore

ISSUER = "https://accounts.private.test"
EMAIL = "curator@data.example"


def run(*arguments: object, fails: type[Exception] | None = None) -> Result:
    result = CliRunner().invoke(source, [str(argument) for argument in arguments])
    if fails is None:
        assert result.exception is None, result.exception
    else:
        assert isinstance(result.exception, fails), (result.exception, result.output)
    return result


def birds(folder: Path) -> Path:
    data = folder / "birds"
    (data / "cat").mkdir(parents=True)
    (data / "cat" / "1.csv").write_text("a,b\n1,2\n")
    (data / "list.txt").write_text("cat\n")
    return data


class Signed:
    """A folder with manifest, bundle and trusted root, and the options that verify it."""

    def __init__(self, folder: Path) -> None:
        self.data = birds(folder)
        run("manifest", self.data, "--name", "birds")
        self.kit = PrivateSigstore()
        self.root = folder / "trusted_root.json"
        self.root.write_bytes(self.kit.trusted_root())
        self.sign(EMAIL)

    @property
    def manifest(self) -> Path:
        return self.data / "millcert-manifest.json"

    @property
    def bundle(self) -> Path:
        return self.data / "millcert-manifest.json.sigstore.json"

    def sign(self, identity: str) -> None:
        self.bundle.write_bytes(self.kit.sign_artifact(self.manifest.read_bytes(), identity=identity, issuer=ISSUER))

    def options(self, **changes: str) -> list[str]:
        options = {
            "--trusted-root": str(self.root),
            "--trusted-root-sha256": hashlib.sha256(self.root.read_bytes()).hexdigest(),
            "--issuer": ISSUER,
            "--identity": EMAIL,
            **changes,
        }
        return [part for option, value in options.items() if value for part in (option, value)]


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


def test_a_manifest_lists_every_file_and_says_how_to_sign_it(tmp_path: Path) -> None:
    data = birds(tmp_path)

    result = run("manifest", data, "--name", "birds")

    path = data / "millcert-manifest.json"
    manifest = parse_manifest(path.read_bytes())
    assert [entry.path for entry in manifest.files] == ["cat/1.csv", "list.txt"]
    assert manifest.name == "birds"
    assert result.output.splitlines()[-1].startswith(f"next: sigstore sign {path}, or millcert source sign {data}")
    assert manifest.root in result.output
    assert [child.name for child in data.iterdir() if child.name.startswith(".")] == []


def test_a_second_run_over_the_same_files_changes_nothing(signed: Signed) -> None:
    """The manifest and its bundle are no files of the data."""
    before = signed.manifest.read_bytes()
    run("manifest", signed.data, "--name", "birds")
    assert signed.manifest.read_bytes() == before


def test_another_manifest_is_replaced_only_on_demand(signed: Signed) -> None:
    (signed.data / "new.txt").write_text("x")
    before = signed.manifest.read_bytes()
    result = run("manifest", signed.data, "--name", "birds", fails=UsageError)
    assert "--replace" in str(result.exception)
    assert signed.manifest.read_bytes() == before
    run("manifest", signed.data, "--name", "birds", "--replace")
    assert len(parse_manifest(signed.manifest.read_bytes()).files) == 3


def test_a_manifest_can_be_written_elsewhere_and_answers_in_json(tmp_path: Path) -> None:
    data, out = birds(tmp_path), tmp_path / "my manifest.json"
    result = run("manifest", data, "--name", "birds", "--out", out, "--json")
    answer = json.loads(result.stdout)
    assert answer == {
        "files": 2,
        "files_remembered": 0,
        "manifest": str(out),
        "name": "birds",
        "root": parse_manifest(out.read_bytes()).root,
        "size_bytes": 12,
    }


def test_an_empty_folder_a_link_and_a_bad_name_have_no_manifest(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run("manifest", empty, "--name", "x", fails=UsageError)
    (empty / "link").symlink_to("/etc/hostname")
    run("manifest", empty, "--name", "x", fails=ManifestError)
    run("manifest", birds(tmp_path), "--name", "", fails=ManifestError)
    assert list(empty.glob("*.json")) == []


def test_a_manifest_that_cannot_be_moved_into_place_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = birds(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    run("manifest", data, "--name", "birds", fails=OSError)
    assert sorted(path.name for path in data.iterdir()) == ["cat", "list.txt"]


def test_a_signed_folder_verifies(signed: Signed) -> None:
    result = run("verify", signed.data, *signed.options())
    assert f"signer: {EMAIL}" in result.output
    assert "2 files" in result.output
    assert result.output.splitlines()[-1].startswith("next: ")


def test_a_signer_can_be_named_by_a_pattern_and_the_answer_be_json(signed: Signed) -> None:
    options = signed.options(**{"--identity": "", "--identity-pattern": "*@data.example"})
    answer: dict[str, Any] = json.loads(run("verify", signed.data, *options, "--json").stdout)
    assert answer["status"] == "verified"
    assert answer["files"] == 2
    assert answer["signature"]["identity"] == EMAIL
    assert answer["manifest_root"] == parse_manifest(signed.manifest.read_bytes()).root


def test_manifest_and_bundle_can_be_elsewhere(signed: Signed, tmp_path: Path) -> None:
    manifest, bundle = tmp_path / "m.json", tmp_path / "b.json"
    signed.manifest.rename(manifest)
    signed.bundle.rename(bundle)
    run("verify", signed.data, *signed.options(), "--manifest", manifest, "--bundle", bundle)


def test_a_changed_an_added_and_a_missing_file_are_refused(signed: Signed) -> None:
    path = signed.data / "list.txt"
    path.write_text("dog\n")
    run("verify", signed.data, *signed.options(), fails=DigestMismatchError)
    path.unlink()
    run("verify", signed.data, *signed.options(), fails=ManifestError)
    path.write_text("cat\n")
    (signed.data / "more.txt").write_text("")
    run("verify", signed.data, *signed.options(), fails=ManifestError)


def test_another_signer_or_none_is_refused(signed: Signed) -> None:
    run("verify", signed.data, *signed.options(**{"--identity": "x@data.example"}), fails=UntrustedSourceError)
    run("verify", signed.data, *signed.options(**{"--issuer": "https://x.example"}), fails=UntrustedSourceError)
    signed.sign("mallory@data.example")
    run("verify", signed.data, *signed.options(), fails=UntrustedSourceError)
    signed.bundle.unlink()
    run("verify", signed.data, *signed.options(), fails=UntrustedSourceError)


def test_an_edited_manifest_and_a_missing_one_are_refused(signed: Signed) -> None:
    signed.manifest.write_bytes(signed.manifest.read_bytes() + b"\n")
    run("verify", signed.data, *signed.options(), fails=SignatureError)
    signed.manifest.unlink()
    run("verify", signed.data, *signed.options(), fails=ManifestError)


def test_another_trusted_root_is_refused(signed: Signed, tmp_path: Path) -> None:
    run("verify", signed.data, *signed.options(**{"--trusted-root-sha256": "0" * 64}), fails=IntegrityError)
    run("verify", signed.data, *signed.options(**{"--trusted-root-sha256": "0"}), fails=PolicyError)
    run("verify", signed.data, *signed.options(**{"--trusted-root": str(tmp_path / "no")}), fails=UsageError)


def test_the_signer_must_be_named_in_one_way(signed: Signed) -> None:
    run("verify", signed.data, *signed.options(**{"--identity": ""}), fails=PolicyError)
    run("verify", signed.data, *signed.options(), "--identity-pattern", "*@data.example", fails=PolicyError)
