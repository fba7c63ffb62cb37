"""Texts to token ids and back to words: which sub-tokens a word became, and what did not fit."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_WORD = re.compile(r"[a-z]+|[0-9]+|[.,]")
_SPELLING = "abcdefghijklmnopqrstuvwxyz0123456789.,-'/"


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text: its characters `text[start:end]` and its sub-tokens `ids[first:last]`."""

    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as a model reads it, without padding.

    `ids` hold the special tokens, which belong to no word, at their ends. `n_cut` sub-tokens did not fit.
    """

    text: str
    ids: tuple[int, ...]
    words: tuple[Word, ...]
    n_cut: int = 0

    def word(self, k: int) -> str:
        return self.text[self.words[k].start : self.words[k].end]

    @property
    def is_special(self) -> tuple[bool, ...]:
        """Which of `ids` belong to no word."""
        inside = {i for word in self.words for i in range(word.first, word.last)}
        return tuple(i not in inside for i in range(len(self.ids)))


class Tokenizer(ABC):
    """Start token, sub-tokens, end token, padding up to `context_length`."""

    context_length: int
    start_id: int
    end_id: int
    pad_id: int = 0

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before a text and behind it."""
        return (self.start_id,), (self.end_id,)

    @abstractmethod
    def split(self, text: str) -> tuple[str, list[tuple[int, int, list[int]]]]:
        """The text that spans refer to, and for each of its words: start, end, ids of its sub-tokens."""

    @abstractmethod
    def piece(self, token: int) -> str:
        """How a sub-token is written, without marks of where in a word it stands."""

    def tokenize(self, text: str) -> TokenizedText:
        """One text with its words. What does not fit is cut off at the end and counted.

        A word of which only some sub-tokens fit keeps those.
        """
        shown, found = self.split(text)
        before, behind = self.around
        ids, words, n_cut = [*before], [], 0
        for start, end, pieces in found:
            room = self.context_length - len(behind) - len(ids)
            n_cut += max(0, len(pieces) - room)
            pieces = pieces[: max(0, room)]
            if pieces:
                words.append(Word(start, end, len(ids), len(ids) + len(pieces)))
                ids += pieces
        return TokenizedText(shown, (*ids, *behind), tuple(words), n_cut)

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """(N, context_length) int64, padded."""
        texts = [texts] if isinstance(texts, str) else texts
        rows = torch.full((len(texts), self.context_length), self.pad_id, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = self.tokenize(text).ids
            row[: len(ids)] = torch.tensor(ids)
        return rows


class WordTokenizer(Tokenizer):
    """Whole words of a small vocabulary; others are spelled letter by letter.

    The end token has the highest id: open_clip's pooling finds it by arg-max.

    >>> tokenizer = WordTokenizer(["clear", "lungs"], context_length=8)
    >>> tokenized = tokenizer.tokenize("Lungs ok")
    >>> [tokenized.word(k) for k in range(2)], len(tokenized.ids)
    (['Lungs', 'ok'], 5)
    """

    pad_id, start_id = 0, 1

    def __init__(self, words: Iterable[str], context_length: int = 64) -> None:
        self.context_length = context_length
        self.vocabulary = sorted(set(words))
        names = ["<pad>", "<start>", *("##" + letter for letter in _SPELLING), *self.vocabulary]
        self._ids = {name: k for k, name in enumerate(names)}
        self._names = (*names, "<end>")
        self.end_id = len(names)
        self.vocab_size = len(names) + 1

    def split(self, text: str) -> tuple[str, list[tuple[int, int, list[int]]]]:
        return text, [(m.start(), m.end(), self._pieces(m[0])) for m in _WORD.finditer(_lower(text))]

    def piece(self, token: int) -> str:
        return self._names[token].removeprefix("##")

    def _pieces(self, word: str) -> list[int]:
        if word in self._ids:
            return [self._ids[word]]
        return [self._ids["##" + letter] for letter in word]


def _lower(text: str) -> str:
    """Lower case, letter by letter, so that every character keeps its place."""
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def words_of(texts: Iterable[str]) -> set[str]:
    """The words of texts without numbers, as `WordTokenizer` sees them.

    >>> sorted(words_of(["No 3 mm nodule."]))
    ['.', 'mm', 'no', 'nodule']
    """
    return {word for text in texts for word in _WORD.findall(_lower(text)) if not word.isdigit()}


class BytePairTokenizer(Tokenizer):
    """open_clip's own byte-pair tokenizer (`SimpleTokenizer`), with its words kept."""

    def __init__(self, tokenizer: Any, context_length: int = 77) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length
        self.start_id, self.end_id = tokenizer.sot_token_id, tokenizer.eot_token_id
        self.vocab_size = tokenizer.vocab_size

    def split(self, text: str) -> tuple[str, list[tuple[int, int, list[int]]]]:
        cleaned = self._tokenizer.clean_fn(text)
        found = [(m.start(), m.end(), self._pieces(m[0])) for m in self._tokenizer.pat.finditer(cleaned)]
        return _place_words(text, cleaned, found)

    def piece(self, token: int) -> str:
        return self._tokenizer.decode([token]).strip()

    def _pieces(self, word: str) -> list[int]:
        tokenizer = self._tokenizer
        spelled = "".join(tokenizer.byte_encoder[byte] for byte in word.encode("utf-8"))
        return [tokenizer.encoder[piece] for piece in tokenizer.bpe(spelled).split(" ")]


class HubTokenizer(Tokenizer):
    """A fast tokenizer of `transformers` (word pieces, byte pairs or sentence pieces), with its words kept.

    What it calls a word is what it splits a text into before it looks for sub-tokens.
    """

    def __init__(self, tokenizer: Any, context_length: int, clean: Callable[[str], str] = lambda text: text) -> None:
        """Args: tokenizer: a `PreTrainedTokenizerFast`. clean: what the model does to texts before."""
        self._tokenizer, self._clean = tokenizer, clean
        self.context_length = context_length
        self.pad_id = tokenizer.pad_token_id or 0
        self.vocab_size = len(tokenizer)
        self._around = self._find_special()
        self.start_id, self.end_id = (ids[0] if ids else self.pad_id for ids in self._around)

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self._around

    def split(self, text: str) -> tuple[str, list[tuple[int, int, list[int]]]]:
        cleaned = self._clean(text)
        read = self._tokenizer(cleaned, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        found: list[tuple[int, int, list[int]]] = []
        last = None
        for token, word, (start, end) in zip(read["input_ids"], read.word_ids(), read["offset_mapping"], strict=True):
            start += len(cleaned[start:end]) - len(cleaned[start:end].lstrip())  # sentence pieces hold the space
            if found and word == last:
                found[-1] = (found[-1][0], end, [*found[-1][2], token])
            else:
                found.append((start, end, [token]))
            last = word
        return _place_words(text, cleaned, found)

    def piece(self, token: int) -> str:
        return self._tokenizer.decode([token]).strip().removeprefix("##")

    def _find_special(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        bare, whole = self._tokenizer("a", add_special_tokens=False)["input_ids"], self._tokenizer("a")["input_ids"]
        at = next(k for k in range(len(whole)) if whole[k : k + len(bare)] == bare)
        return tuple(whole[:at]), tuple(whole[at + len(bare) :])


def _place_words(
    text: str, cleaned: str, found: list[tuple[int, int, list[int]]]
) -> tuple[str, list[tuple[int, int, list[int]]]]:
    """Spans in the text as it was given; in the cleaned one where cleaning changed more than case and spaces."""
    low, at, placed = _lower(text), 0, []
    for start, end, pieces in found:
        at = low.find(cleaned[start:end], at)
        if at < 0:
            return cleaned, found
        placed.append((at, at + end - start, pieces))
        at += end - start
    return text, placed
