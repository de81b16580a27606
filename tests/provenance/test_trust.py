"""Trust rules: which rule speaks for a file, who may sign, and what becomes of a source in every case."""

import fnmatch
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import (
    DigestMismatchError,
    IntegrityError,
    ManifestError,
    PolicyError,
    SignatureError,
    UntrustedSourceError,
)
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.trust import (
    SignerRule,
    SourceRule,
    TrustRoot,
    VerifiedSource,
    load_trust_root,
    match_sources,
    provenance_paths,
    verify_source,
)
from millcert.provenance.trust_patterns import (
    identity_matches,
    identity_pattern_fault,
    literal_directory,
    path_matches,
    path_pattern_fault,
)
from millcert.testing.sigstore import PrivateSigstore

ISSUER = "https://accounts.private.test"
EMAIL = "curator@data.example"
CURATOR = SignerRule(ISSUER, EMAIL)
FILES = Manifest("birds", (FileEntry("cat/1.png", 1, "a" * 64), FileEntry("dog/1.png", 2, "b" * 64)))
SIGNED = SourceRule("birds", "birds/**", signed_by=(CURATOR,))
UNSIGNED = SourceRule("birds", "birds/**", unsigned_accepted=True)
EITHER = SourceRule("birds", "birds/**", signed_by=(CURATOR,), unsigned_accepted=True)


def kit_and_root() -> tuple[PrivateSigstore, TrustRoot]:
    kit = PrivateSigstore(now=datetime(2026, 3, 4, tzinfo=UTC))
    data = kit.trusted_root()
    return kit, load_trust_root(data, hashlib.sha256(data).hexdigest())


# Path patterns


@pytest.mark.parametrize(
    ("pattern", "path", "is_match"),
    [
        ("data.csv", "data.csv", True),
        ("data.csv", "Data.csv", False),
        ("data.csv", "a/data.csv", False),
        ("*.csv", "data.csv", True),
        ("*.csv", ".csv", True),
        ("*.csv", "a/data.csv", False),
        ("data?.csv", "data1.csv", True),
        ("data?.csv", "data.csv", False),
        ("?", "/", False),
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/*", "a", False),
        ("a/**", "a/b", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("a/**", "ab/c", False),
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("**/x", "x", True),
        ("**/x", "a/b/x", True),
        ("**/x", "a/b/xy", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x/y/c", False),
        ("**/a/**/b/*.png", "x/a/a/b/c/b/1.png", True),
        ("**/a/**/b/*.png", "x/a/c/1.png", False),
        ("**/**", "a", True),
        ("a/**/**", "a/b", True),
        ("*a*b*c*", "xaybzcw", True),
        ("*a*b*c*", "xaybz", False),
        ("a*?", "a", False),
        ("a*?", "ab", True),
        ("a.c", "abc", False),
        ("a+", "aa", False),
        ("(a|b)", "a", False),
    ],
)
def test_a_path_pattern_means_what_the_format_page_says(pattern: str, path: str, is_match: bool) -> None:
    assert path_matches(pattern, path) == is_match


SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab", "*", "a*", "?", "**"]), min_size=1, max_size=5).map("/".join)
PATHS = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=5).map("/".join)


def by_regular_expression(pattern: str, path: str) -> bool:
    """The same language, said in another way: short inputs only, where backtracking does no harm."""
    segments = pattern.split("/")
    expression = ""
    for segment in segments[:-1]:
        expression += "(?:[^/]+/)*" if segment == "**" else segment.replace("*", "[^/]*").replace("?", "[^/]") + "/"
    last = segments[-1]
    expression += (
        "(?:[^/]+/)*[^/]+" if last == "**" else "".join({"*": "[^/]*", "?": "[^/]"}.get(one, one) for one in last)
    )
    expression = expression.replace("[^[^/]]", "[^/]")
    return re.fullmatch(expression, path) is not None


@settings(max_examples=300, deadline=None)
@given(SEGMENTS, PATHS)
def test_the_matcher_agrees_with_a_regular_expression(pattern: str, path: str) -> None:
    assert path_matches(pattern, path) == by_regular_expression(pattern, path)


@settings(max_examples=200, deadline=None)
@given(
    st.text("ab*?", min_size=1, max_size=8).filter(lambda text: "**" not in text), st.text("ab", min_size=1, max_size=8)
)
def test_one_segment_agrees_with_fnmatch(pattern: str, text: str) -> None:
    assert path_matches(pattern, text) == fnmatch.fnmatchcase(text, pattern)


def test_no_pattern_and_no_path_makes_a_match_slow() -> None:
    """A backtracking matcher would need more steps here than there are atoms, and this test would never end."""
    assert not path_matches("/".join(["**", "*a*a*a*a*a*b"] * 40), "/".join(["a" * 200] * 60))
    assert not identity_matches("https://h/" + "**a" * 200 + "b", "https://h/" + "a" * 2000)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "./a",
        "../a",
        "a/../b",
        "a**",
        "**a/b",
        "a/b**c",
        "***",
        "[ab]",
        "{a,b}",
        "a\\b",
        "x" * 1025,
    ],
)
def test_a_path_pattern_that_could_be_misread_is_refused(pattern: str) -> None:
    assert path_pattern_fault(pattern)
    with pytest.raises(PolicyError, match="is refused"):
        SourceRule("s", pattern, unsigned_accepted=True)


@pytest.mark.parametrize(
    ("pattern", "directory"),
    [
        ("**", ""),
        ("a.csv", ""),
        ("a/**", "a"),
        ("a/b/*.csv", "a/b"),
        ("a/b?/c", "a"),
        ("*/a/b", ""),
        ("a/b/c.csv", "a/b"),
    ],
)
def test_the_manifest_stands_where_the_pattern_stops_being_literal(pattern: str, directory: str) -> None:
    rule = SourceRule("s", pattern, unsigned_accepted=True)
    assert literal_directory(pattern) == rule.directory == directory
    assert rule.manifest_path == f"{directory}/millcert-manifest.json".lstrip("/")
    assert rule.bundle_path == rule.manifest_path + ".sigstore.json"


def test_manifest_and_bundle_can_stand_elsewhere() -> None:
    rule = SourceRule("s", "a/**", unsigned_accepted=True, manifest="sig/m.json", bundle="sig/m.bundle")
    assert (rule.manifest_path, rule.bundle_path, rule.directory) == ("sig/m.json", "sig/m.bundle", "sig")
    assert provenance_paths([rule, SIGNED]) == {
        "sig/m.json",
        "sig/m.bundle",
        "sig/m.json.pq.json",
        "birds/millcert-manifest.json.pq.json",
        "birds/millcert-manifest.json",
        "birds/millcert-manifest.json.sigstore.json",
    }


# Signers


@pytest.mark.parametrize(
    ("pattern", "identity", "is_match"),
    [
        ("*@data.example", "curator@data.example", True),
        ("*@data.example", "@data.example", True),
        ("*@data.example", "a@b@data.example", False),
        ("*@data.example", "https://evil.example/x@data.example", False),
        ("*@data.example", "curator@data.example.evil.example", False),
        ("ci-*@data.example", "ci-1@data.example", True),
        ("ci-*@data.example", "xci-1@data.example", False),
        ("https://h.example/o/*/w.yml@refs/tags/*", "https://h.example/o/r/w.yml@refs/tags/v1", True),
        ("https://h.example/o/*/w.yml@refs/tags/*", "https://h.example/o/r/s/w.yml@refs/tags/v1", False),
        ("https://h.example/o/*/w.yml@refs/tags/*", "https://h.example/o/r/w.yml@refs/tags/a/b", False),
        ("https://h.example/o/*/w.yml@refs/tags/**", "https://h.example/o/r/w.yml@refs/tags/a/b", True),
        ("https://h.example/o/*@refs/heads/main", "https://h.example/o/x@refs/heads/y@refs/heads/main", False),
        ("https://h.example/o/r?x=*", "https://h.example/o/r?x=1", True),
        ("https://h.example/o/r?x=*", "https://h.example/o/rrx=1", False),
        ("https://h.example/**a*b", "https://h.example/x/a/ab", True),
        ("https://h.example/**a*b", "https://h.example/x/a/b", False),
        ("https://h.example/*", "https://h.example/", True),
        ("https://h.example/*", "https://h.example/*", True),
        ("https://h.example/*x", "https://h.example/", False),
    ],
)
def test_an_identity_pattern_matches_all_of_an_identity(pattern: str, identity: str, is_match: bool) -> None:
    rule = SignerRule(ISSUER, identity_pattern=pattern)
    assert rule.matches(issuer=ISSUER, identity=identity) == is_match
    assert not rule.matches(issuer="https://other.example", identity=identity)


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "**",
        "***@data.example",
        "**@data.example",
        "*@*",
        "*@*.example",
        "*@localhost",
        "@data.example*",
        "curator@data.example",
        "https://*",
        "https://*/x",
        "https://*.example/x",
        "https://h.example*",
        "*://h.example/x",
        "://h.example/*",
        "https:///*",
        "https://h.example/" + "*a" * 600,
    ],
)
def test_an_identity_pattern_that_is_too_wide_is_refused(pattern: str) -> None:
    """Rule 4: no pattern reaches across hosts."""
    assert identity_pattern_fault(pattern)
    with pytest.raises(PolicyError, match="is refused"):
        SignerRule(ISSUER, identity_pattern=pattern)


@pytest.mark.parametrize(
    ("issuer", "identity", "pattern"),
    [("", EMAIL, None), (ISSUER, None, None), (ISSUER, "", ""), (ISSUER, EMAIL, "*@data.example")],
)
def test_a_signer_needs_an_issuer_and_one_way_to_name_the_identity(
    issuer: str, identity: str | None, pattern: str | None
) -> None:
    with pytest.raises(PolicyError):
        SignerRule(issuer, identity, pattern)


def test_an_exact_identity_has_no_wildcards() -> None:
    assert not SignerRule(ISSUER, "*@data.example").matches(issuer=ISSUER, identity=EMAIL)
    assert str(CURATOR) == f"{EMAIL} by {ISSUER}"


# Sources


def test_a_source_that_nobody_signs_must_be_accepted_in_so_many_words() -> None:
    with pytest.raises(PolicyError, match="no signer"):
        SourceRule("s", "a/**")
    with pytest.raises(PolicyError, match="empty"):
        SourceRule("s", "a/**", signed_by=(), unsigned_accepted=True)
    with pytest.raises(PolicyError, match="needs a name"):
        SourceRule("", "a/**", unsigned_accepted=True)


def test_every_file_gets_the_one_rule_that_matches_it() -> None:
    one = SourceRule("one", "a/**", unsigned_accepted=True)
    two = SourceRule("two", "*.csv", unsigned_accepted=True)
    assert match_sources(["b.csv", "a/x", "a/b.csv"], [one, two]) == {"b.csv": two, "a/x": one, "a/b.csv": one}


def test_all_files_without_a_single_rule_are_named() -> None:
    """Rule 1."""
    one = SourceRule("one", "a/**", unsigned_accepted=True)
    two = SourceRule("two", "**/*.csv", unsigned_accepted=True)
    with pytest.raises(UntrustedSourceError) as caught:
        match_sources(["a/x.csv", "b.csv", "c", "d/e"], [one, two])
    assert caught.value.unmatched == ("c", "d/e")
    assert caught.value.ambiguous == {"a/x.csv": ("one", "two")}
    assert "2 match none (c; d/e)" in caught.value.message
    assert "1 match several (a/x.csv: one, two)" in caught.value.message


def test_no_rules_match_nothing_and_long_lists_are_shortened() -> None:
    with pytest.raises(UntrustedSourceError, match=r"25 match none .* and 5 more"):
        match_sources([f"{index}" for index in range(25)], [])
    assert match_sources([], []) == {}


def test_an_ambiguous_file_alone_is_refused() -> None:
    rules = [SourceRule(name, "**", unsigned_accepted=True) for name in ("one", "two")]
    with pytest.raises(UntrustedSourceError, match="1 match several"):
        match_sources(["x"], rules)


def test_two_rules_with_one_name_are_refused() -> None:
    with pytest.raises(PolicyError, match="one name"):
        match_sources([], [UNSIGNED, SIGNED])


# Trusted root


def test_a_trusted_root_must_have_the_pinned_digest() -> None:
    digest = hashlib.sha256(b"{}").hexdigest()
    assert load_trust_root(b"{}", digest) == TrustRoot(b"{}", digest)
    with pytest.raises(IntegrityError, match="is pinned") as caught:
        load_trust_root(b"{} ", digest)
    assert caught.value.expected == digest
    for malformed in ("", digest.upper(), digest[:-1], digest + "\n"):
        with pytest.raises(PolicyError, match="64 lower-case hex digits"):
            load_trust_root(b"{}", malformed)


# One source


@pytest.mark.parametrize("rule", [SIGNED, EITHER], ids=["signed", "either"])
def test_a_source_with_a_trusted_signature_over_its_files_is_verified(rule: SourceRule) -> None:
    kit, root = kit_and_root()
    manifest = FILES.to_json()
    bundle = kit.sign_artifact(manifest, identity=EMAIL, issuer=ISSUER)

    verified = verify_source(FILES, manifest, bundle, rule, root)

    assert (verified.source, verified.status, verified.manifest_root) == ("birds", "verified", FILES.root)
    assert verified.signature is not None
    assert verified.signature.identity == EMAIL


def test_an_unsigned_source_is_refused_unless_that_is_accepted() -> None:
    """Rule 2."""
    for manifest in (None, FILES.to_json()):
        with pytest.raises(UntrustedSourceError, match="has no signature") as caught:
            verify_source(FILES, manifest, None, SIGNED, None)
        assert caught.value.reason == "unsigned"
        for rule in (UNSIGNED, EITHER):
            assert verify_source(FILES, manifest, None, rule, None) == VerifiedSource(
                "birds", "unknown", None, FILES.root
            )


def test_files_that_differ_from_an_unsigned_manifest_are_refused() -> None:
    with pytest.raises(ManifestError, match="1 missing"):
        verify_source(Manifest("birds", FILES.files[:1]), FILES.to_json(), None, UNSIGNED, None)


@pytest.mark.parametrize("rule", [SIGNED, EITHER], ids=["signed", "either"])
def test_a_signature_that_is_there_but_bad_is_refused_even_where_none_would_be_accepted(rule: SourceRule) -> None:
    """Rule 3: no downgrade."""
    kit, root = kit_and_root()
    manifest = FILES.to_json()
    good = kit.sign_artifact(manifest, identity=EMAIL, issuer=ISSUER)
    for bad in (b"", b"{}", good[:-1], kit.sign_artifact(b"other", identity=EMAIL, issuer=ISSUER)):
        with pytest.raises(SignatureError):
            verify_source(FILES, manifest, bad, rule, root)
    other = kit.sign_artifact(manifest, identity="mallory@data.example", issuer=ISSUER)
    with pytest.raises(UntrustedSourceError):
        verify_source(FILES, manifest, other, rule, root)


def test_a_signature_that_no_rule_can_judge_is_refused() -> None:
    kit, root = kit_and_root()
    bundle = kit.sign_artifact(FILES.to_json(), identity=EMAIL, issuer=ISSUER)
    with pytest.raises(UntrustedSourceError, match="names no signer") as caught:
        verify_source(FILES, FILES.to_json(), bundle, UNSIGNED, root)
    assert caught.value.reason == "no_signer_named"
    with pytest.raises(SignatureError, match="no trusted root") as unpinned:
        verify_source(FILES, FILES.to_json(), bundle, SIGNED, None)
    assert unpinned.value.reason == "no_trusted_root"
    with pytest.raises(ManifestError, match=r"no manifest at birds/millcert-manifest\.json"):
        verify_source(FILES, None, bundle, SIGNED, root)


def test_files_other_than_the_signed_ones_are_refused() -> None:
    kit, root = kit_and_root()
    manifest = FILES.to_json()
    bundle = kit.sign_artifact(manifest, identity=EMAIL, issuer=ISSUER)
    swapped = Manifest("birds", (FileEntry("cat/1.png", 2, "b" * 64), FileEntry("dog/1.png", 1, "a" * 64)))
    with pytest.raises(DigestMismatchError, match="2 changed"):
        verify_source(swapped, manifest, bundle, SIGNED, root)
    part = Manifest("birds", FILES.files[:1])
    with pytest.raises(ManifestError, match="1 missing"):
        verify_source(part, manifest, bundle, SIGNED, root)
    assert verify_source(part, manifest, bundle, SIGNED, root, is_selection=True).manifest_root == FILES.root


def test_a_signed_text_that_is_no_manifest_is_refused() -> None:
    kit, root = kit_and_root()
    bundle = kit.sign_artifact(b"not a manifest", identity=EMAIL, issuer=ISSUER)
    with pytest.raises(ManifestError):
        verify_source(FILES, b"not a manifest", bundle, SIGNED, root)


def test_the_format_page_names_every_reason() -> None:
    """docs/formats/trust.md, "Reasons": the codes that scripts may depend on."""
    folder = Path(__file__).parents[2]
    modules = [
        path for name in ("trust", "bundle", "public_key") for path in (folder / "provenance").glob(f"{name}*.py")
    ]
    code = "".join(path.read_text() for path in modules)
    reasons = set(re.findall(r'reason(?: =|=|: str =)\s*"([a-z_]+)"|_refuse\(\s*"([a-z_]+)"', code))
    page = (folder / "docs" / "formats" / "trust.md").read_text()
    assert len(reasons) > 20
    assert [reason for pair in reasons for reason in pair if reason and f"`{reason}`" not in page] == []
