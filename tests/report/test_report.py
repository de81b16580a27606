"""The report shows what it is given, counts what it leaves out, and lets nothing of the data act in a browser."""

import base64
import dataclasses
import re
import struct
import zlib
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import InternalError
from millcert.report import render_report
from millcert.report.chart import histogram_svg
from millcert.report.images import data_uri, encode_png, image_header, pixels_of, why_not_shown
from millcert.report.model import (
    Check,
    Cluster,
    Counts,
    Expectation,
    Finding,
    Group,
    Histogram,
    MalformedRow,
    PixelArray,
    Provenance,
    Reason,
    ReportData,
    SampleField,
    Source,
    Work,
)  # fmt: skip
from millcert.report.visible import number, percent, plain, shown, shown_lines, size

TAGS = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "h1", "nav", "main", "section", "h2", "h3", "div",
    "p", "strong", "ul", "li", "span", "table", "caption", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "br",
    "article", "pre", "code", "img", "bdi", "svg", "defs", "pattern", "rect", "path", "line", "text",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "href", "id", "role", "aria-label", "aria-labelledby",
    "tabindex", "scope", "src", "alt", "loading", "viewbox", "width", "height", "patternunits", "d", "x", "y", "x1",
    "x2", "y1", "y2", "fill", "text-anchor",
}  # fmt: skip
VOID = {"meta", "br", "img"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></svg><svg onload=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(1)",
    "<!-- <![CDATA[ ]]> &lt;script&gt; &#60;b&#62;",
    "a\u202egnp.exe\u2066\u200b\ufeff\x00\x1b[31m\r\n\u2028\U000e0041",
    "<a href=https://evil.example/>x</a>",
    "A" * 100_000,
    "e" + "\u0301" * 5_000,
]  # fmt: skip


class Page(HTMLParser):
    """Collects what a browser would act on, and checks that tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def assert_inert(html: str) -> Page:
    """Falsify: nothing but our own tags and attributes, and no address but fragments and images in data URIs."""
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag in TAGS
        assert set(attributes) <= ATTRIBUTES
        for name, value in attributes.items():
            if name == "href":
                assert re.fullmatch(r"#[a-z-]+", value)
            if name == "src":
                assert re.fullmatch(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+", value)
            if name == "fill":
                assert re.fullmatch(r"url\(#hatch-\d+\)", value)
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert len(styles) == 1
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.all("a"):
        assert attributes["href"][1:] in ids
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]", html
    )
    html.encode()
    return page


def png(width: int = 2, height: int = 2) -> bytes:
    return encode_png(PixelArray(width, height, 1, bytes(width * height)))


def full_report(word: str = "word") -> ReportData:
    """Return a report with `word` in every field that holds text."""
    group = Group(word, word, word, 10, ((word, 8.46), ("nan", float("nan"))), True, 3.5, 1.0, 6.0, 0.001)
    histogram = Histogram((0.0, 0.5, 1.0), (90, 10), (0, 8), 0.7)
    fields = (
        SampleField(word, word), SampleField("n", None), SampleField("i", 10**5000), SampleField("f", float("-inf")),
        SampleField("b", True), SampleField("png", png()), SampleField("bytes", word.encode("utf-8", "replace")),
        SampleField("array", PixelArray(2, 1, 3, bytes(range(6)))), SampleField("list", (1, 2.5, word)),
        SampleField("svg", b"<svg onload=alert(1)>"), SampleField("empty", b""),
    )  # fmt: skip
    finding = Finding(
        word, 12345, word, word, word, word, 9.25, float("inf"), word, fields, word, (word, "b"), word, (word,)
    )
    places = ((word, 7), ("b", 1))
    cluster = Cluster(word, "reject", places, places, 8, places, 9.0, 1.0, 11.0, 0.01, ((word, ((word, 2.5),)),))
    return ReportData(
        dataset=word,
        decision="rejected",
        reasons=(Reason(word, word),),
        counts=Counts(1000, 990, 8, 2),
        files=3,
        size_bytes=5_000_000,
        provenance=Provenance(word, word, word, word, word, word, word, 7, word + "\n" + word, word),
        sources=(
            Source(word, "verified", word, word, 2, 900, 8, 2, word),
            Source("b", "unknown", "", "", 1, 100),
            Source("c", "refused", "", "", 1, 0),
        ),
        expectations=(
            Expectation(word, word, True, word, 0, 0.0, "exact", word, word),
            Expectation("e", "", False, "", 12, 0.0125, "sketch"),
            Expectation("f", "", None, message=word),
        ),
        checks=(
            Check(word, word, word, "failed", 998, 8, 0.005, 3, (group,), word, histogram),
            Check("other", "1", "warn", "passed", 0, 0, None, 0, ()),
        ),
        clusters=(cluster, Cluster("label_noise", "warn", (), (("", 1),), 1, (), 1.0, 0.0, 1.0)),
        clusters_total=9,
        not_covered=(word,),
        findings=(finding,),
        findings_total=8,
        malformed=(MalformedRow(word, 4, word, word),),
        next_commands=(word,),
        code_version=word,
        work=(Work(word, 1, 2000), Work("score", 3, 0)),
    )


def empty_report() -> ReportData:
    return ReportData("nothing", "inconclusive", (), Counts(0, 0, 0, 0), 0, 0, Provenance("", ""))


@pytest.mark.parametrize("word", HOSTILE, ids=lambda word: ascii(word)[:24])
def test_hostile_text_in_every_field_stays_text(word: str) -> None:
    html = render_report(full_report(word))

    page = assert_inert(html)

    assert len(html) < 200_000
    if len(word) < 100 and word.isprintable():
        assert page.text.count(re.sub(r"\s+", " ", word)) >= 30


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=80))
def test_any_text_at_all_stays_text(word: str) -> None:
    """Rule 2: a template cannot forget to escape."""
    assert_inert(render_report(full_report(word)))


def test_every_text_field_of_the_model_reaches_the_hostile_test() -> None:
    """A field that is added to the model must be filled by `full_report`, or the tests above say nothing of it."""
    enums = {"decision", "status", "method", "action"}

    def texts(value: Any) -> None:
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            for item in inner if isinstance(inner, tuple) else (inner,):
                if dataclasses.is_dataclass(item):
                    seen.add(type(item))
            if field.type is str and field.name not in enums:
                assert isinstance(inner, str)
                words[type(value), field.name] = words.get((type(value), field.name), False) or "word" in inner
            for item in inner if isinstance(inner, tuple) else (inner,):
                if dataclasses.is_dataclass(item):
                    texts(item)

    seen: set[type] = set()
    words: dict[tuple[type, str], bool] = {}
    texts(full_report())

    assert {
        Source,
        Check,
        Cluster,
        Group,
        Finding,
        Expectation,
        MalformedRow,
        Reason,
        Provenance,
        Counts,
        Histogram,
        Work,
    } <= seen
    assert [key for key, has_word in words.items() if not has_word] == []


def test_the_policy_of_the_page_allows_nothing_but_its_own_style_and_data_images() -> None:
    page = Page(render_report(full_report()))

    policies = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]

    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    ]


def test_the_same_data_gives_the_same_bytes() -> None:
    assert render_report(full_report()) == render_report(full_report())


def test_the_verdict_shows_decision_reasons_and_the_equation_of_rows() -> None:
    page = Page(render_report(full_report("because")))

    assert "rejected" in page.text
    assert "because (because)" in page.text
    assert "1,000 rows in = 990 admitted + 8 quarantined + 2 malformed" in page.text
    assert "do not add up" not in page.text


def test_counts_that_do_not_add_up_are_said_to() -> None:
    report = dataclasses.replace(full_report(), counts=Counts(10, 5, 1, 1))

    assert "These counts do not add up" in Page(render_report(report)).text


def test_sources_expectations_and_checks_show_their_figures() -> None:
    text = Page(render_report(full_report())).text

    for words in (
        "verified", "unknown", "refused", "no signer", "inconclusive", "1.25 %", "sketch", "whole table",
        "8 of 998 scored (0.8016 %); limit 0.5 %", "word = 8.46; nan = not a number", "1 to 6", "0.001", "3.5",
        "Showing 1 of 3; 2 more are not shown.", "4.8 MiB (5,000,000 bytes)", "limit none",
    ):  # fmt: skip
        assert words in text


def test_the_work_of_the_run_is_counted_by_step() -> None:
    text = Page(render_report(full_report())).text

    assert "StepReadReused word12,000 score30" in text
    assert "Reused" not in Page(render_report(empty_report())).text


def test_a_finding_shows_its_place_score_and_sample() -> None:
    page = Page(render_report(full_report()))

    for words in (
        "word, row 12345", "9.25, threshold infinite", "an integer of 16,610 bits", "minus infinite", "null", "true",
        "3 items: 1, 2.5, word", "21 bytes: not a PNG, JPEG, GIF or WebP image", "0 bytes", "begin with nothing",
        "Showing 1 of 8; 7 more are not shown.", "Showing 1 of 2; 1 more are not shown.",
    ):  # fmt: skip
        assert words in page.text
    assert [image["alt"] for image in page.all("img")] == [
        "Field png of row 12345: png image of 2 x 2 pixels",
        "Field array of row 12345: image of 2 x 1 pixels",
    ]


def test_an_empty_report_says_so_in_every_section() -> None:
    page = assert_inert(render_report(empty_report()))

    for words in (
        "Nothing speaks against it under the policy.",
        "0 rows in = 0 admitted + 0 quarantined + 0 malformed", "No source was read.",
        "The policy has no expectations.", "No check ran.", "No check ran, so no attack is covered.",
        "Nothing was flagged.", "Every record could be read.", "not logged", "none was issued", "Nothing to do.",
    ):  # fmt: skip
        assert words in page.text


def test_full_coverage_is_claimed_only_where_a_check_ran() -> None:
    report = dataclasses.replace(full_report(), not_covered=())

    assert "None that millcert knows of." in Page(render_report(report)).text


def test_malformed_rows_that_are_only_counted_are_counted() -> None:
    report = dataclasses.replace(full_report(), malformed=())

    text = Page(render_report(report)).text

    assert "Showing 0 of 2; 2 more are not shown." in text
    assert "Every record could be read." not in text


def test_ten_thousand_findings_are_capped_and_counted() -> None:
    finding = full_report().findings[0]
    rows = tuple(dataclasses.replace(finding, row=row, sample=()) for row in range(10_000))
    report = dataclasses.replace(full_report(), findings=rows, findings_total=0)

    page = Page(render_report(report))

    assert "Showing 200 of 10,000; 9,800 more are not shown." in page.text
    assert len([1 for article in page.all("article") if article.get("class") == "finding"]) == 200


def test_long_lists_of_any_kind_are_capped_and_counted() -> None:
    base = full_report("x")
    check = dataclasses.replace(base.checks[0], evidence=base.checks[0].evidence * 80, groups=80)
    group = dataclasses.replace(base.checks[0].evidence[0], statistic=(("s", 1.0),) * 20)
    many = dataclasses.replace(base.findings[0], sample=(SampleField("f", tuple(range(100))),) * 20)
    report = dataclasses.replace(
        base, sources=base.sources * 400, expectations=base.expectations * 400, findings=(many,), findings_total=1,
        checks=(check, dataclasses.replace(check, evidence=(group,), groups=1)), malformed=base.malformed * 300,
        counts=Counts(300, 0, 0, 300), not_covered=("a",) * 501, next_commands=("b",) * 502, reasons=base.reasons * 503,
    )  # fmt: skip

    text = Page(render_report(report)).text

    for words in ("50 of 80", "500 of 1,200", "100 of 300", "16 of 20", "and 68 more", "4 more", "501", "502", "503"):
        assert words in text


def test_headings_tables_and_charts_can_be_read_aloud() -> None:
    page = Page(render_report(full_report()))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(th.get("scope") in {"col", "row"} for th in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-labelledby"].startswith("chart-") for svg in page.all("svg"))
    assert page.all("html") == [{"lang": "en"}]


def luminance(colour: str) -> float:
    raw = colour.lstrip("#")
    raw = "".join(c * 2 for c in raw) if len(raw) == 3 else raw
    parts = [int(raw[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_has_the_contrast_of_wcag_aa(scheme: int) -> None:
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    html = render_report(empty_report())
    colours = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", html, re.DOTALL)]

    for ground in ("page", "panel"):
        for name in ("text", "quiet", "good", "bad", "warn", "link"):
            light, dark = sorted((luminance(colours[scheme][name]), luminance(colours[scheme][ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a<b", "<bdi>a&lt;b</bdi>"),
        ("a\u202eb", '<bdi>a<span class="code">U+202E</span>b</bdi>'),
        ("\ud800", '<bdi><span class="code">U+D800</span></bdi>'),
        ("\u3164\u00a0", '<bdi><span class="code">U+3164 U+00A0</span></bdi>'),
        ("\U000e0041", '<bdi><span class="code">U+E0041</span></bdi>'),
        ("n\u0303", "<bdi>n\u0303</bdi>"),
        ("", "<bdi></bdi>"),
        ("\u200b\u200d", '<bdi><span class="code">U+200B U+200D</span></bdi>'),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, html: str) -> None:
    assert shown(text) == html


def test_text_is_cut_at_its_limit_and_the_rest_is_counted() -> None:
    assert shown("abcdef", 4) == '<bdi>abcd<span class="cut"> [2 more characters]</span></bdi>'
    assert plain("<\u202e>", 2) == "&lt;[U+202E] [1 more characters]"
    assert shown("\0" * 10, 12) == (
        '<bdi><span class="code">U+0000 U+0000</span><span class="cut"> [8 more characters]</span></bdi>'
    )
    assert shown_lines("\n\r\n") == (
        '<bdi><span class="code">U+000A</span>\n<span class="code">U+000D U+000A</span>\n</bdi>'
    )
    assert shown_lines("a\nb") == '<bdi>a<span class="code">U+000A</span>\nb</bdi>'


def test_figures_are_short_and_exact() -> None:
    assert [number(v) for v in (None, 1234567, 0.1234567, float("-inf"), True)] == [
        "none", "1,234,567", "0.123457", "minus infinite", "true",
    ]  # fmt: skip
    assert [percent(v) for v in (None, 0.0, 0.011, 1.0)] == ["none", "0 %", "1.1 %", "100 %"]
    assert [size(v) for v in (0, 1023, 1024, 5 * 1024**5)] == [
        "0 bytes", "1,023 bytes", "1.0 KiB (1,024 bytes)", "5,120.0 TiB (5,629,499,534,213,120 bytes)",
    ]  # fmt: skip


def jpeg(width: int, height: int) -> bytes:
    comment = b"\xff\xe0" + struct.pack(">H", 4) + b"ab"
    return b"\xff\xd8" + comment + b"\xff\xff\xc2" + struct.pack(">HBHH", 11, 8, height, width) + bytes(4)


def webp(kind: bytes, width: int, height: int) -> bytes:
    body = {
        b"VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + bytes(5),
        b"VP8 ": bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", width, height),
    }[kind]
    return b"RIFF" + bytes(4) + b"WEBP" + kind + bytes(4) + body


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("png", png(30, 20)), ("gif", b"GIF89a" + struct.pack("<HH", 30, 20)), ("jpeg", jpeg(30, 20)),
        *(("webp", webp(chunk, 30, 20)) for chunk in (b"VP8X", b"VP8L", b"VP8 ")),
    ],
)  # fmt: skip
def test_the_size_of_an_image_is_read_from_its_header(kind: str, data: bytes) -> None:
    assert image_header(data) == (kind, 30, 20)
    assert why_not_shown(data) == ""
    assert data_uri(data) == f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
        (b"\x89PNG\r\n\x1a\n", "not a PNG"),
        (b"\xff\xd8\xff\xd9" + bytes(20), "not a PNG"),
        (b"\xff\xd8\xff", "not a PNG"),
        (b"RIFF" + bytes(4) + b"WEBPVP9 " + bytes(20), "not a PNG"),
        (png(1, 1)[:16] + bytes(40), "empty"),
        (b"GIF89a" + struct.pack("<HH", 65535, 1), "too large"),
        (png(1, 1)[:16] + struct.pack(">II", 1_000_000_000, 1_000_000_000), "too large"),
        (b"GIF89a" + struct.pack("<HH", 2000, 2000), "too large"),
        (png() + bytes(65_536), "larger than 64 KiB"),
    ],
)
def test_bytes_that_are_no_small_image_are_described(data: bytes, why: str) -> None:
    assert why in why_not_shown(data)
    report = dataclasses.replace(full_report().findings[0], sample=(SampleField("x", data),))
    page = assert_inert(render_report(dataclasses.replace(full_report(), findings=(report,))))
    assert page.all("img") == []
    assert why in page.text


@given(
    st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF1234WEBP"])
)
def test_no_bytes_break_the_reader_of_headers(data: bytes, magic: bytes) -> None:
    """Rule 1 of images: a header is read or refused."""
    header = image_header(magic + data)

    assert header is None or (header.width >= 0 and header.height >= 0)


def read_png(data: bytes) -> tuple[int, int, int, bytes]:
    """Decode what `encode_png` writes, by the standard and not by its code."""
    at, body, header = 8, b"", b""
    while at < len(data):
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        chunk = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(name + chunk)
        header, body = (chunk, body) if name == b"IHDR" else (header, body + chunk)
        at += 12 + length
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", header)
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    rows, stride = zlib.decompress(body), width * channels + 1
    assert all(rows[i] == 0 for i in range(0, len(rows), stride))
    return width, height, channels, b"".join(rows[i + 1 : i + stride] for i in range(0, len(rows), stride))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_is_drawn_as_a_png_of_its_own_pixels(channels: int) -> None:
    image = PixelArray(5, 3, channels, bytes(range(15 * channels)))

    assert read_png(encode_png(image)) == (5, 3, channels, image.pixels)


def test_numbers_become_pixels_in_the_range_that_they_have() -> None:
    assert pixels_of([0, 128, 255, 1], width=2, height=2).pixels == bytes([0, 128, 255, 1])
    assert pixels_of([0.0, 0.5, 1.0], width=3, height=1).pixels == bytes([0, 128, 255])
    assert pixels_of([-1.0, 0.0, 1.0], width=1, height=1, channels=3).pixels == bytes([0, 128, 255])
    assert pixels_of([-5.0, float("nan"), float("inf")], width=3, height=1).pixels == bytes(3)
    with pytest.raises(InternalError, match="needs that many bytes"):
        pixels_of([1, 2], width=3, height=1)


def test_an_array_that_is_too_large_and_images_beyond_the_budget_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millcert.report.render.MAX_IMAGES_BYTES", 2 * len(png()))
    wide = PixelArray(1024 * 1025, 1, 1, bytes(1024 * 1025))
    fields = (SampleField("a", wide), *(SampleField("b", png()),) * 3)
    finding = dataclasses.replace(full_report().findings[0], sample=fields)

    page = Page(render_report(dataclasses.replace(full_report(), findings=(finding,))))

    assert "image of 1,049,600 x 1 pixels, too large to show" in page.text
    assert "this report holds no more images" in page.text
    assert len(page.all("img")) == 2


def test_a_chart_draws_its_bars_its_flagged_part_and_its_threshold() -> None:
    page = Page(histogram_svg(Histogram((0.0, 1.0, 2.0), (9, 4), (0, 4), 1.5), 3))

    line = page.all("line")[0]
    bars = [rect for rect in page.all("rect") if rect.get("class") == "bar"]
    assert float(line["x1"]) == pytest.approx(8 + 0.75 * 624)
    assert [rect["fill"] for rect in page.all("rect") if "fill" in rect] == ["url(#hatch-3)"]
    assert float(bars[0]["height"]) > float(bars[1]["height"])
    assert "13 samples scored, 4 flagged; scores from 0 to 2; threshold 1.5." in page.text


@pytest.mark.parametrize(
    "histogram",
    [
        Histogram((0.0,), (), ()),
        Histogram((1.0, 1.0), (5,), (5,), 1.0),
        Histogram((-1.7e308, 1.7e308), (5,), (0,), 0.0),
        Histogram((0.0, 1.0), (0,), (0,), float("inf")),
        Histogram((0.0, 1.0), (3,), (0,), -100.0),
    ],
    ids=["no bins", "one point", "whole range", "no threshold", "threshold outside"],
)
def test_a_chart_of_any_shape_stays_on_its_canvas(histogram: Histogram) -> None:
    page = Page(histogram_svg(histogram, 0))

    for tag, attributes in page.tags:
        for name in ("x", "x1", "width"):
            if name in attributes and tag in {"rect", "line", "text"}:
                assert 0 <= float(attributes[name]) <= 640


@pytest.mark.parametrize(
    ("edges", "counts", "flagged"),
    [
        ((0.0,), (1,), (0,)),
        ((0.0, 1.0), (1,), ()),
        ((1.0, 0.0), (1,), (0,)),
        ((0.0, float("nan")), (1,), (0,)),
        ((0.0, float("inf")), (1,), (0,)),
        ((0.0, 1.0), (1,), (2,)),
        ((0.0, 1.0), (-1,), (-1,)),
    ],
)
def test_a_histogram_that_contradicts_itself_is_refused(
    edges: tuple[float, ...], counts: tuple[int, ...], flagged: tuple[int, ...]
) -> None:
    with pytest.raises(InternalError, match="histogram"):
        Histogram(edges, counts, flagged)


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 0, 1), (1, 1, 2), (2, 2, 1)])
def test_an_image_that_contradicts_itself_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InternalError, match="image"):
        PixelArray(*shape, b"\x00")
