"""A radiology report as its sections and sentences, each with its place in the text as it was given.

Nothing is rewritten but control characters, which become spaces: `report.text[s.start : s.end] == s.text` for every
sentence. HTML and Markdown are text like any other.
"""

import re
import unicodedata
from dataclasses import dataclass

from backend.errors import BadInput
from backend.limits import LIMITS, Limits

_FIELD = "text"
_NAMES = (
    "FINDINGS", "FINDING", "IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS", "OPINION", "SUMMARY",
    "INDICATION", "INDICATIONS", "REASON FOR EXAM", "REASON FOR EXAMINATION", "HISTORY", "CLINICAL HISTORY",
    "CLINICAL INFORMATION", "CLINICAL INDICATION", "TECHNIQUE", "COMPARISON", "COMPARISONS", "EXAMINATION", "EXAM",
    "PROCEDURE", "RECOMMENDATION", "RECOMMENDATIONS", "NOTIFICATION", "ADDENDUM", "WET READ", "FINAL REPORT",
)  # fmt: skip
SHOWN = ("", "FINDINGS", "FINDING", "IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS", "OPINION", "SUMMARY")
# A heading: a known name at the start of a line with a colon or alone on it, or in capitals before a colon anywhere.
_KNOWN = "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True))
_HEADING = re.compile(
    rf"^[ \t#*_]*(?P<a>(?i:{_KNOWN}))[ \t*_]*(?::[ \t*_]*|$)"
    rf"|(?<![\w])(?P<b>{_KNOWN})[ \t]*:[ \t]*"
    r"|^[ \t#*_]*(?P<c>[A-Z][A-Z /&-]{2,40}):[ \t*_]*",
    re.MULTILINE,
)
_MARKER = re.compile(r"[ \t]*(?:\(?\d{1,2}[.)]|[-*•‣·–])[ \t]+")  # of a list item
_ABBREVIATIONS = frozenset(
    (
        "dr", "mr", "mrs", "ms", "prof", "st", "vs", "approx", "cf", "e.g", "i.e", "eg", "ie", "fig", "ca", "resp",
        "incl", "excl", "max", "min", "lat", "ant", "post", "sup", "inf", "dept", "ref", "wt", "ht", "hx", "dx", "tx",
        "rx", "pt", "pts", "a.m", "p.m", "b.i.d", "t.i.d", "q.d", "viz", "al", "jr", "sr",
    )
)  # fmt: skip
_END = re.compile(r"[.!?。！？]+[\"')\]]*(?=\s|$)")
_NUMBER_WORDS = frozenset({"no", "nos"})  # "No. 3" is a number, "no." ends a sentence


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, `text[start:end]` of its report; `is_shown`: it speaks of what is seen, not of why or how."""

    text: str
    start: int
    end: int
    section: str  # in capitals; empty: before any heading
    is_shown: bool


@dataclass(frozen=True, slots=True)
class Report:
    text: str
    sections: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    notes: tuple[str, ...] = ()


def read_report(data: bytes, limits: Limits = LIMITS) -> Report:
    """A report from an uploaded text file: UTF-8, UTF-16 with its mark, else Windows' Latin.

    Raises: BadInput: not a text, or see `parse_report`.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ("utf-16",)
    elif b"\x00" in data:
        raise BadInput("the file is not a text; save the report as plain text (.txt)", _FIELD)
    else:
        encodings = ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            return parse_report(data.decode(encoding), limits)
        except UnicodeDecodeError:
            continue
    raise BadInput("the file's letters cannot be read; save the report as UTF-8 text", _FIELD)


def parse_report(text: str, limits: Limits = LIMITS) -> Report:
    """Find the sections and sentences of a report.

    Raises: BadInput: empty, without a letter, or longer than `limits.max_report_characters`.

    >>> report = parse_report("FINDINGS: No effusion. A 1.5 cm nodule vs. scar.\\nIMPRESSION:\\n1. Nodule\\n2. Scar")
    >>> [(s.section, s.text) for s in report.sentences][1:3]
    [('FINDINGS', 'A 1.5 cm nodule vs. scar.'), ('IMPRESSION', 'Nodule')]
    """
    if not text.strip():
        raise BadInput("the report is empty; paste or upload one", _FIELD)
    if len(text) > limits.max_report_characters:
        raise BadInput(
            f"the report has {len(text):,} characters; up to {limits.max_report_characters:,} are read", _FIELD
        )
    clean = _without_controls(text)
    notes = ["control characters were taken for spaces"] if clean != _only_newlines(text) else []
    if not any(letter.isalpha() for letter in clean):
        raise BadInput("the report has no words in it", _FIELD)
    sections, sentences = [], []
    for name, start, end in _sections(clean):
        found = [
            Sentence(clean[a:b], a, b, name, name in SHOWN)
            for paragraph in _items(clean, start, end)
            for a, b in _sentences(clean, *paragraph)
        ]
        if name:
            sections.append(name)
        sentences += found
    if len(sentences) > limits.max_report_sentences:
        notes.append(f"{len(sentences)} sentences; the first {limits.max_report_sentences} are kept")
        sentences = sentences[: limits.max_report_sentences]
    if not any(sentence.is_shown for sentence in sentences):  # a report of unknown headings only
        sentences = [Sentence(s.text, s.start, s.end, s.section, True) for s in sentences]
    return Report(clean, tuple(dict.fromkeys(sections)), tuple(sentences), tuple(notes))


def _only_newlines(text: str) -> str:
    return text.replace("\r\n", " \n").replace("\r", "\n").replace("\t", " ")


def _without_controls(text: str) -> str:
    """Control characters as spaces, every kind of line end as a newline; the length stays."""
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf", "Zl", "Zp") or letter == "\u200d"
        else " "
        for letter in _only_newlines(text)
    )  # fmt: skip


def _sections(text: str) -> list[tuple[str, int, int]]:
    """Name, start and end of each section; what comes before the first heading has no name."""
    headings = list(_HEADING.finditer(text))
    found = [("", 0, headings[0].start() if headings else len(text))]
    ends = [*(heading.start() for heading in headings[1:]), *[len(text)] * bool(headings)]
    for heading, end in zip(headings, ends, strict=True):
        name = (heading["a"] or heading["b"] or heading["c"]).strip().upper()
        found.append((name, heading.end(), end))
    return found


def _items(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Stretches of text that no sentence crosses: paragraphs and items of lists, without their markers."""
    found: list[list[int]] = []
    at, begins_new = start, True
    for line in text[start:end].splitlines(keepends=True):
        marker = _MARKER.match(line)
        if not line.strip():
            begins_new = True
        else:
            offset = marker.end() if marker else 0
            if begins_new or marker:
                found.append([at + offset, at + len(line)])
            else:
                found[-1][1] = at + len(line)
            begins_new = bool(re.search(r"[.!?:;]\s*$", line))
        at += len(line)
    return [(a, b) for a, b in found if text[a:b].strip()]


def _sentences(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Start and end of each sentence of a stretch, without the space around it."""
    cuts, begin = [], start
    for mark in _END.finditer(text, start, end):
        if _ends_sentence(text, begin, mark.start(), mark.end(), end):
            cuts.append((begin, mark.end()))
            begin = mark.end()
    cuts.append((begin, end))
    trimmed = []
    for a, b in cuts:
        inline = _MARKER.match(text, a, b) if a != start else None  # "... seen. 2. No effusion."
        a = inline.end() if inline else a
        piece = text[a:b]
        left = len(piece) - len(piece.lstrip())
        if any(letter.isalnum() for letter in piece):
            trimmed.append((a + left, a + len(piece.rstrip())))
    return trimmed


def _ends_sentence(text: str, begin: int, dot: int, after: int, end: int) -> bool:
    if text[dot] != ".":
        return True
    rest = text[after:end].lstrip()
    before = text[begin:dot]
    word = re.search(r"[^\s(]*$", before)[0].lower()
    if not rest:
        return True
    if before.strip().isdigit() or re.fullmatch(r"\d{1,2}", word) and not before[: -len(word)].strip():
        return False  # the marker of an item inside a line
    if word in _NUMBER_WORDS:
        return not rest[0].isdigit()
    if word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word not in "ai"):
        return False
    return not rest[0].islower()
