"""`millcert profile`: made without a Beam job, merged without the rows, and a difference that ends with 1."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization

from millcert.checks.profile_format import load_profile, profile_digest
from millcert.cli.main import main
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.profile_statement import ProfileClaim, sign_profile

KEY = "17" * 32


def write(
    folder: Path, seed: int, rows: int = 2_000, shift: float = 0.0, sources: tuple[str, ...] = ("a", "b")
) -> Path:
    for source in sources:
        random = np.random.default_rng([seed, ord(source[0])])
        (folder / source).mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {
                "id": np.arange(seed * rows, (seed + 1) * rows),
                "label": np.array(["x", "y"])[random.integers(0, 2, rows)],
                "score": random.normal(shift, 1, rows),
            }
        )
        pq.write_table(table, folder / source / f"{seed}.parquet")
    return folder


class Desk:
    """A folder with a key, and the command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        (folder / "key").write_text(KEY + "\n")

    def run(self, *arguments: object, code: int = 0) -> str:
        assert main(["profile", *[str(argument) for argument in arguments]]) == code, self._capsys.readouterr().err
        captured = self._capsys.readouterr()
        return captured.out if code in (0, 1) else captured.err

    def make(self, data: Path, name: str, *options: object) -> Path:
        out = self.folder / name
        self.run("make", data, "--out", out, "--label", "label", "--hash-key-file", self.folder / "key", *options)
        return out


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def test_the_profile_of_a_month_is_the_merge_of_its_days(desk: Desk) -> None:
    days = [write(desk.folder / f"day-{day}", day) for day in (1, 2)]
    month = write(write(desk.folder / "month", 1), 2)

    parts = [desk.make(day, f"{day.name}.json") for day in days]
    desk.run("merge", *reversed(parts), "--out", desk.folder / "merged.json")

    assert (desk.folder / "merged.json").read_bytes() == desk.make(month, "month.json").read_bytes()


def test_a_data_set_instead_of_a_command_is_profiled(desk: Desk) -> None:
    data = write(desk.folder / "data", 1)
    key = desk.folder / "key"

    desk.run(data, "--out", desk.folder / "short.json", "--label", "label", "--hash-key-file", key)

    assert (desk.folder / "short.json").read_bytes() == desk.make(data, "long.json").read_bytes()
    assert "No such command 'mrege'" in desk.run("mrege", code=2)


def test_the_answer_names_rows_digest_and_what_to_do_next(desk: Desk) -> None:
    data = write(desk.folder / "data", 1)

    text = desk.run("make", data, "--out", desk.folder / "p.json", "--like", desk.make(data, "p.json"))
    payload: dict[str, Any] = json.loads(
        desk.run("make", data, "--out", desk.folder / "p.json", "--like", desk.folder / "p.json", "--json")
    )

    assert "4,000 rows, 3 columns, 2 sources, 2 labels" in text
    assert text.splitlines()[-1].startswith("next: ")
    assert payload["rows"] == 4_000
    assert payload["digest"] == json.loads((desk.folder / "p.json").read_bytes())["digest"]


def test_two_days_of_one_distribution_do_not_drift(desk: Desk) -> None:
    one, two = (desk.make(write(desk.folder / str(day), day), f"{day}.json") for day in (1, 2))

    text = desk.run("diff", one, two, "--ignore", "id")
    payload = json.loads(desk.run("diff", one, two, "--ignore", "id", "--json"))

    assert text.startswith("no drift")
    assert "nearest:" in text
    assert payload["is_drift"] is False
    assert {"value", "limit", "null_quantile", "reference_rows"} <= set(payload["compared"][0])


def test_drift_over_a_limit_ends_with_1_and_says_where(desk: Desk) -> None:
    one = desk.make(write(desk.folder / "1", 1), "1.json")
    two = desk.make(write(desk.folder / "2", 2, shift=0.5), "2.json")

    text = desk.run("diff", one, two, "--ignore", "id", code=1)
    payload = json.loads(desk.run("diff", one, two, "--json", code=1))

    assert "all rows score  values: wasserstein 0.5" in text
    assert {"id", "score"} == {one["column"] for one in payload["compared"] if one["is_drift"]}
    assert payload["is_drift"] is True
    assert desk.run("diff", one, two, "--ignore", "id", "--limit", "wasserstein=9", "--limit", "kolmogorov_smirnov=9")


def test_new_sources_new_columns_and_short_ones_are_told(desk: Desk) -> None:
    one = desk.make(write(desk.folder / "1", 1, sources=("a", "b")), "1.json")
    data = write(desk.folder / "2", 2, sources=("a", "bad\nname"))
    table = pq.read_table(data / "a" / "2.parquet").append_column("more", pa.array([1] * 2_000))
    for file in data.glob("*/*.parquet"):
        pq.write_table(table, file)
    short = desk.make(write(desk.folder / "3", 3, rows=40), "3.json")

    text = desk.run("diff", one, desk.make(data, "2.json"), "--ignore", "id", code=1)

    assert "new column  more" in text
    assert "source b fell silent" in text
    assert "source 'bad\\nname' is new" in text
    assert "not compared" in desk.run("diff", one, short)


def test_a_column_may_name_the_source_and_a_schema_file_types_text(desk: Desk) -> None:
    (desk.folder / "data.jsonl").write_text('{"who": "z", "n": 1}\n{"who": "y", "n": 2}\nnot json\n')
    schema = desk.folder / "schema.json"
    schema.write_text(json.dumps({"who": "string", "n": "int8"}))

    text = desk.run(
        "make", desk.folder / "data.jsonl", "--out", desk.folder / "p.json", "--source", "who", "--schema", schema,
        "--without-texts", "--max-cells", 9,
    )  # fmt: skip
    document = json.loads((desk.folder / "p.json").read_bytes())

    assert "1 malformed records" in text
    assert [cell["source"] for cell in document["cells"]] == ["y", "z"]
    assert document["types"] == [["who", "string"], ["n", "int8"]]
    assert document["spec"]["keeps_texts"] is False
    assert len(document["spec"]["hash_key"]) == 64


def test_a_random_key_is_drawn_for_each_profile_that_is_not_like_another(desk: Desk) -> None:
    data = write(desk.folder / "data", 1, rows=20)
    outs = [desk.folder / f"{number}.json" for number in (1, 2)]

    for out in outs:
        desk.run("make", data, "--out", out)

    keys = {json.loads(out.read_bytes())["spec"]["hash_key"] for out in outs}
    assert len(keys) == 2
    assert "--like" in desk.run("diff", *outs, code=2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--like", "p.json", "--label", "label"), "--like settles"),
        (("--hash-key-file", "bad"), "hash key"),
        (("--label", "nothing"), "no column 'nothing'"),
    ],
)
def test_options_that_contradict_or_name_nothing_are_refused(desk: Desk, options: tuple[str, ...], reason: str) -> None:
    data = write(desk.folder / "data", 1, rows=20)
    desk.make(data, "p.json")
    (desk.folder / "bad").write_text("zz")
    paths = [str(desk.folder / word) if (desk.folder / word).exists() else word for word in options]

    assert reason in desk.run("make", data, "--out", desk.folder / "q.json", *paths, code=2)
    assert not (desk.folder / "q.json").exists()


@pytest.mark.parametrize("limit", ["wasserstein", "nothing=1", "wasserstein=x", "wasserstein=0"])
def test_a_limit_that_is_none_is_refused(desk: Desk, limit: str) -> None:
    one = desk.make(write(desk.folder / "data", 1, rows=20), "p.json")

    assert "wasserstein" in desk.run("diff", one, one, "--limit", limit, code=2)


def test_another_profile_is_replaced_only_if_asked(desk: Desk) -> None:
    data = write(desk.folder / "data", 1, rows=20)
    out = desk.make(data, "p.json")

    assert "--replace" in desk.run("make", data, "--out", out, code=2)
    desk.run("make", data, "--out", out, "--replace")
    assert oct(out.stat().st_mode & 0o777) == "0o644"
    assert not list(desk.folder.glob(".p.json*"))


def test_a_changed_profile_is_an_integrity_failure_and_another_file_a_mistake(desk: Desk) -> None:
    out = desk.make(write(desk.folder / "data", 1, rows=20), "p.json")
    other = desk.folder / "other.json"
    other.write_bytes(out.read_bytes().replace(b'"rows":', b'"rows":1', 1))

    assert "digest" in desk.run("diff", out, other, code=3)
    other.write_text("{}")
    assert "no profile" in desk.run("merge", out, other, "--out", desk.folder / "m.json", code=2)


def test_a_file_of_many_batches_is_read_whole_and_files_beside_the_data_are_not_data(desk: Desk) -> None:
    data = desk.folder / "data"
    data.mkdir()
    (data / "README.md").write_text("about")
    pq.write_table(pa.table({"n": np.arange(524_288) % 7}), data / "a.parquet")

    answer = json.loads(desk.run("make", data, "--out", desk.folder / "p.json", "--json"))

    assert (answer["rows"], answer["malformed"]) == (524_288, 0)


def test_a_folder_that_is_not_there_is_a_mistake_of_the_caller(desk: Desk) -> None:
    data = write(desk.folder / "data", 1, rows=20)

    assert "There is no folder" in desk.run("make", data, "--out", desk.folder / "none" / "p.json", code=2)


def test_a_history_says_when_it_changed_and_exits_with_1(desk: Desk) -> None:
    days = []
    for day in range(5):
        data = write(desk.folder / f"d{day}", day, shift=1.0 * (day >= 3), sources=("a",))
        days.append(desk.make(data, f"day{day}.json"))

    changed = desk.run("history", *days, "--ignore", "id", code=1)
    steady = desk.run("history", *days[:3], "--ignore", "id")
    payload = json.loads(desk.run("history", *days, "--ignore", "id", "--json", code=1))

    assert "abrupt   from day3.json  all rows score values: wasserstein" in changed
    assert steady.startswith("steady  0 changes")
    assert {one["at"] for one in payload["changes"]} == {3}


def test_a_profile_that_a_gate_signed_is_verified_and_no_other(desk: Desk) -> None:
    made = desk.make(write(desk.folder / "data", 1), "p.json")
    gate = load_or_create_key(desk.folder / "gate.key")
    public = desk.folder / "gate.pub"
    public.write_bytes(
        gate.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    digest = profile_digest(load_profile(made.read_bytes()))
    for name, claimed in (("right", digest), ("wrong", "00" * 32)):
        claim = ProfileClaim("small", claimed, "ab" * 32, "millcert/0")
        (desk.folder / name).write_bytes(sign_profile(made.read_bytes(), claim, gate))

    text = desk.run("verify", made, desk.folder / "right", "--gate-key", public)
    refused = desk.run("verify", made, desk.folder / "wrong", "--gate-key", public, code=3)

    assert text.startswith(f"verified  profile {digest} of small")
    assert "the gate signed 0000" in refused


def test_a_token_that_became_tied_to_a_label_is_named_by_its_hash_and_found_in_the_data(desk: Desk) -> None:
    def texts(day: int, trigger: str) -> Path:
        random = np.random.default_rng(day)
        words = [f"w{code} v{code % 7}" for code in random.integers(0, 40, 3_000)]
        label = np.array(["x", "y"])[random.integers(0, 2, 3_000)]
        if trigger:
            words[::50] = [f"{word} {trigger}" for word in words[::50]]
            label[::50] = "y"
        folder = desk.folder / f"texts-{day}"
        folder.mkdir()
        pq.write_table(pa.table({"text": words, "label": label}), folder / "a.parquet")
        return folder

    one = desk.make(texts(1, ""), "1.json", "--tokens", "text")
    data = texts(2, "C.F")
    two = desk.make(data, "2.json", "--tokens", "text")

    text = desk.run("diff", one, two, code=1)
    compared = json.loads(desk.run("diff", one, two, "--json", code=1))["compared"]
    token = next(row["detail"].split()[1] for row in compared if row["part"] == "tokens")
    payload = json.loads(desk.run("tokens", two, data, "--column", "text", "--token", token, "--json"))

    assert "all rows text  tokens token " in text
    assert text.splitlines()[-1].startswith(
        f"next: millcert profile tokens {two} DATASET --column text --token {token} "
    )
    assert payload["tokens"][token][0] in ("c", ".", "f")
    assert token in desk.run("tokens", two, data, "--column", "text", "--token", token)
    assert "not in these data" in desk.run("tokens", two, data, "--column", "text", "--token", "0:44")
    assert "no column" in desk.run("tokens", two, data, "--column", "no", "--token", token, code=2)
    assert "is no token" in desk.run("tokens", two, data, "--column", "text", "--token", "cf", code=2)


def test_with_a_gate_key_only_what_that_gate_signed_is_compared_merged_or_followed(desk: Desk) -> None:
    """A reference that anybody may have written says nothing: its digest alone is no signature."""
    one, two = (desk.make(write(desk.folder / f"day-{day}", day), f"{day}.json") for day in (1, 2))
    gate = load_or_create_key(desk.folder / "gate.key")
    public = desk.folder / "gate.pub"
    public.write_bytes(
        gate.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    keys = ("--gate-key", public)

    unsigned = desk.run("diff", one, two, *keys, code=3)
    claim = ProfileClaim("small", profile_digest(load_profile(one.read_bytes())), "ab" * 32, "millcert/0")
    (desk.folder / "1.dsse.json").write_bytes(sign_profile(one.read_bytes(), claim, gate))
    signed = json.loads(desk.run("diff", one, two, "--ignore", "id", "--json", *keys))
    merged = desk.run("merge", one, two, "--out", desk.folder / "m.json", *keys, code=3)
    followed = desk.run("history", one, two, *keys, code=3)
    other = load_or_create_key(desk.folder / "other.key")
    (desk.folder / "1.dsse.json").write_bytes(sign_profile(one.read_bytes(), claim, other))
    foreign = desk.run("diff", one, two, *keys, code=3)
    (desk.folder / "1.dsse.json").write_bytes(sign_profile(one.read_bytes(), claim, gate))
    one.write_bytes(two.read_bytes())
    exchanged = desk.run("diff", one, two, *keys, code=3)

    assert "there is no 1.dsse.json beside it" in unsigned
    assert signed["is_reference_signed"]
    assert "2.json is unsigned" in merged
    assert "2.json is unsigned" in followed
    assert not (desk.folder / "m.json").exists()
    assert "code: " in foreign
    assert "code: " in exchanged
    assert "believed as it is" in desk.run("diff", two, two, "--ignore", "id")
