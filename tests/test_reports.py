"""Reports cut into sections and sentences: as radiologists write them, and as nobody should."""

import pytest

from backend.errors import BadInput
from backend.limits import Limits
from backend.reports import parse_report, read_report

REPORT = """EXAMINATION: CHEST (PA AND LAT)

INDICATION: 63-year-old man with cough, r/o pneumonia.

COMPARISON: Radiograph of ___ at 10:30 a.m.

FINDINGS:
The heart size is normal. There is a 1.5 cm nodule in the right upper lobe, approx. 2
cm from the hilum. No pleural effusion or pneumothorax.  Dr. Smith was informed at 3 p.m. today.

IMPRESSION:
1. Right upper lobe nodule, CT is recommended.
2. No acute
   cardiopulmonary process
"""


def texts(report: str, section: str | None = None) -> list[str]:
    return [s.text for s in parse_report(report).sentences if section is None or s.section == section]


def test_a_usual_report():
    report = parse_report(REPORT)
    assert report.sections == ("EXAMINATION", "INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION")
    assert [s.text for s in report.sentences if s.section == "FINDINGS"] == [
        "The heart size is normal.",
        "There is a 1.5 cm nodule in the right upper lobe, approx. 2\ncm from the hilum.",
        "No pleural effusion or pneumothorax.",
        "Dr. Smith was informed at 3 p.m. today.",
    ]
    assert [s.text for s in report.sentences if s.section == "IMPRESSION"] == [
        "Right upper lobe nodule, CT is recommended.",
        "No acute\n   cardiopulmonary process",
    ]
    assert {s.section for s in report.sentences if s.is_shown} == {"FINDINGS", "IMPRESSION"}


@pytest.mark.parametrize(
    "text",
    [
        REPORT,
        "a\r\nb\tc\x00d. Next\x07one.",
        "<b>bold</b> **very** <script>alert(1)</script>. # no heading",
        "Nodule 🙂. Über-Größe. 心臓は正常です。 肺は清です。",
    ],
)
def test_every_sentence_stands_where_it_says(text):
    report = parse_report(text)
    assert report.sentences and all(report.text[s.start : s.end] == s.text for s in report.sentences)
    assert all(a.end <= b.start for a, b in zip(report.sentences, report.sentences[1:], strict=False))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("No effusion. No. 3 is old.", ["No effusion.", "No. 3 is old."]),
        ("Nodule of 0.8 x 1.2 cm. Stable.", ["Nodule of 0.8 x 1.2 cm.", "Stable."]),
        ("Is there a nodule? Yes! Small.", ["Is there a nodule?", "Yes!", "Small."]),
        ("Opacity vs. atelectasis, e.g. at the base. Clear otherwise.",
         ["Opacity vs. atelectasis, e.g. at the base.", "Clear otherwise."]),
        ("- small nodule\n- no effusion\n* clear", ["small nodule", "no effusion", "clear"]),
        ("1. Nodule. 2. No effusion. 3) Clear.", ["Nodule.", "No effusion.", "Clear."]),
        ("lungs are clear\nno effusion.\n\nheart normal", ["lungs are clear\nno effusion.", "heart normal"]),
        ("The nodule (3 mm.) is stable.", ["The nodule (3 mm.) is stable."]),
        ("the and of", ["the and of"]),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert texts(text) == expected


@pytest.mark.parametrize(
    "text, sections",
    [
        ("Findings: clear. IMPRESSION: normal.", ("FINDINGS", "IMPRESSION")),
        ("## Findings\nclear\n\n**Impression:** normal", ("FINDINGS", "IMPRESSION")),
        ("CHEST RADIOGRAPH: clear.", ("CHEST RADIOGRAPH",)),
        ("no headings here.", ()),
        ("findings\nare normal", ("FINDINGS",)),
    ],
)
def test_sections(text, sections):
    assert parse_report(text).sections == sections


def test_a_report_of_unknown_headings_is_shown_whole():
    assert all(s.is_shown for s in parse_report("RADIOGRAPH: Clear. No effusion.").sentences)


def test_fifty_pages():
    report = parse_report("FINDINGS: " + "There is no focal consolidation in the left lung. " * 3000)
    assert len(report.sentences) == Limits().max_report_sentences and report.notes


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x01", "... 123 ---", "🙂🙂"])
def test_what_has_no_words_is_refused(text):
    with pytest.raises(BadInput) as refusal:
        parse_report(text)
    assert refusal.value.field == "text"


def test_what_is_endless_is_refused():
    with pytest.raises(BadInput, match="characters"):
        parse_report("a " * 300_000)


@pytest.mark.parametrize(
    "data", ["Größe 3 mm.".encode(), "Größe 3 mm.".encode("utf-16"), "Größe 3 mm.".encode("cp1252"),
             b"\xef\xbb\xbf" + "Größe 3 mm.".encode()],
)  # fmt: skip
def test_uploaded_files_in_their_encodings(data):
    assert read_report(data).sentences[0].text == "Größe 3 mm."


def test_binary_files_are_refused():
    with pytest.raises(BadInput, match="plain text"):
        read_report(b"%PDF-1.4\x00\x01\x02")
