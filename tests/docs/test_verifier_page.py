"""The second verifier, a page of plain JavaScript, gives the answers of the first on every vector."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "verifier.html"
VECTORS = sorted(path.parent for path in (ROOT / "tests" / "vectors").glob("*/evidence/cases.json"))

HARNESS = """
<script>
(async () => {
  const answers = {};
  for (const [name, text] of Object.entries(%s)) {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    try {
      const shown = await window.millcert.verifyEvidence(bytes, %s, %s, %s);
      answers[name] = { reason: null, shows: {
        origin: shown.origin, size: shown.size,
        runs: shown.runs.map((run) => ({
          index: run.index, decision: run.verdict.decision, absent: run.absent,
          samples: run.samples.map((one) => [
            one.digest, one.file, one.row, one.source, one.signer, ...(one.findings === null ? [] : [one.findings]),
          ]),
        })),
      } };
    } catch (error) { answers[name] = { reason: error.reason ?? String(error) }; }
  }
  const bytes = new TextEncoder().encode(JSON.stringify(answers));
  const done = document.createElement("p");
  done.id = "done";
  done.textContent = btoa(String.fromCharCode(...bytes));
  document.body.append(done);
})();
</script>
"""


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("MILLCERT_REQUIRE_CHROMIUM") == "1":
            pytest.fail("MILLCERT_REQUIRE_CHROMIUM=1, and there is no Chromium.")
        pytest.skip("There is no Chromium to run the page in.")
    return found


def answers_of_the_page(
    files: dict[str, bytes], vkey: str, folder: Path, *, witnesses: str = "", required: int = 0
) -> dict[str, Any]:
    """Run the page, with these files as its input, in a browser without a network."""
    encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    page = folder / "verifier.html"
    page.write_text(PAGE.read_text() + HARNESS % (*map(json.dumps, (encoded, vkey, witnesses, required)),))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    ran = subprocess.run(
        [
            browser(),
            *options,
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=60000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    _, _, rest = ran.stdout.partition('<p id="done">')
    answers: dict[str, Any] = json.loads(base64.b64decode(rest.partition("</p>")[0]))
    return answers


def flipped(data: bytes, step: int) -> dict[str, bytes]:
    """Return the data with one bit flipped in every `step`-th byte, each by the place of its flip."""
    return {
        f"byte {at}": data[:at] + bytes([data[at] ^ (1 << (at % 7))]) + data[at + 1 :]
        for at in range(0, len(data), step)
    }


@pytest.mark.parametrize("folder", VECTORS, ids=lambda folder: str(folder.parent.name))
def test_the_page_gives_the_stated_answer_for_every_vector(folder: Path, tmp_path: Path) -> None:
    cases = json.loads((folder / "cases.json").read_text())
    files = {name: (folder / name).read_bytes() for name in cases}

    answers = answers_of_the_page(files, (folder / "ledger.vkey").read_text(), tmp_path)

    assert answers == cases


def test_the_page_counts_witnesses_as_the_command_does(tmp_path: Path) -> None:
    from millcert.errors import SignatureError
    from millcert.provenance.cosignature import WitnessRule
    from millcert.provenance.evidence_verify import verify_evidence
    from millcert.provenance.state import load_ledger_vkeys
    from millcert.provenance.witness_folder import read_witness_vkeys

    folder = max((ROOT / "tests" / "vectors").glob("*/evidence-witnessed"))
    cases = json.loads((folder / "cases.json").read_text())
    files = {name: (folder / name).read_bytes() for name in cases}
    rule = WitnessRule(tuple(read_witness_vkeys(folder / "witnesses.vkey")), 2)
    vkeys = load_ledger_vkeys([folder / "ledger.vkey"])
    reasons: dict[str, object] = {}
    for name, data in files.items():
        try:
            verify_evidence(data, vkeys, rule)
            reasons[name] = None
        except SignatureError as error:
            reasons[name] = error.details["reason"]
    assert reasons == {name: case["reason"] for name, case in cases.items()}

    vkey, witnesses = (folder / "ledger.vkey").read_text(), (folder / "witnesses.vkey").read_text()
    answers = answers_of_the_page(files, vkey, tmp_path, witnesses=witnesses, required=2)

    assert answers == cases


def test_the_page_refuses_every_flipped_byte_for_the_reason_that_the_command_gives(tmp_path: Path) -> None:
    from millcert.errors import MillcertError
    from millcert.provenance.evidence_verify import verify_evidence
    from millcert.provenance.state import load_ledger_vkeys

    folder = VECTORS[-1]
    vkeys = load_ledger_vkeys([folder / "ledger.vkey"])
    files = flipped((folder / "both.json").read_bytes(), step=23)
    expected = {}
    for name, data in files.items():
        with pytest.raises(MillcertError) as refused:
            verify_evidence(data, vkeys)
        expected[name] = {"reason": refused.value.details["reason"]}

    answers = answers_of_the_page(files, (folder / "ledger.vkey").read_text(), tmp_path)

    assert answers == expected


def test_the_page_asks_nobody_else_for_anything() -> None:
    text = PAGE.read_text()

    assert "default-src 'none'" in text
    for word in ("http:", "https:", "src=", "@import", "fetch(", "innerHTML", "eval("):
        assert word not in text, word
