"""Find the sentences of passages that speak to a question."""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ragqueue.language import bm25
from ragqueue.language.detect import detect
from ragqueue.language.sentences import split
from ragqueue.language.tokens import SPACELESS, tokenize

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]

PASSAGES = 3  # the best ones hold the answer; more cost time and gain nothing
SENTENCES = 24  # embedding so many costs about 125 ms of CPU
LONGEST = 400  # characters of a sentence that are embedded
KEYWORD_WEIGHT = 0.5

_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_BULLET = re.compile(r"(?:>\s*)*(?:[-*+•]\s+|\d{1,3}[.)]\s+)?(?:\[[ xX]\]\s+)?")
_MARKUP = re.compile(r"#|\||\{[*%#{]|///|:::|!!!|<!--|```|~~~|---|===")
_NO_WORDS = re.compile(r"<[^<>]*>|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|https?://\S+|`[^`]*`")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A stretch of one of the passages, and how near it is to the question."""

    passage: int  # which one of them
    start: int
    text: str
    language: str
    keyword: float = 0.0  # BM25 over its bound, 0..1
    cosine: float | None = None  # None without an embedder that speaks the language

    @property
    def score(self) -> float:
        return (self.cosine or 0.0) + KEYWORD_WEIGHT * self.keyword


async def weigh(question: str, passages: Sequence[str], embed: Embed | None, languages: Collection[str] | None = None) -> list[Sentence]:
    """Return the sentences of the first passages with their scores, in order; at most `SENTENCES` of them.

    `languages` are those that `embed` speaks (None: all); with a passage in another one there are no cosines.
    """
    sentences = _by_keywords(question, [sentence for at, text in enumerate(passages[:PASSAGES]) for sentence in candidates(at, text)])
    foreign = languages is not None and any(sentence.language not in languages for sentence in sentences)
    if embed is None or not sentences or foreign:
        return sentences
    vectors = await embed([question, *(sentence.text[:LONGEST] for sentence in sentences)])
    cosines = vectors[1:] @ vectors[0]
    return [replace(sentence, cosine=float(cosine)) for sentence, cosine in zip(sentences, cosines, strict=True)]


def candidates(passage: int, text: str) -> list[Sentence]:
    """Return the sentences of a passage that are prose; when there is none, whatever has letters."""
    language = detect(text)
    fences = [match.span() for match in _FENCE.finditer(text)]
    prose, rest = [], []
    for start, end in split(text):
        bullet = _BULLET.match(text, start, end)
        start = bullet.end() if bullet else start
        sentence = Sentence(passage, start, text[start:end], language)
        if _is_prose(sentence.text) and not any(low <= start < high for low, high in fences):
            prose.append(sentence)
        elif any(map(str.isalpha, sentence.text)):
            rest.append(sentence)
    return prose or rest


def _is_prose(text: str) -> bool:
    if _MARKUP.match(text) or text.endswith(("?", "？")):  # a question is a heading of its answer
        return False
    if SPACELESS.search(text):
        return sum(map(str.isalpha, text)) >= 5
    words = _NO_WORDS.sub(" ", text)
    letters = sum(map(str.isalpha, words))
    return letters >= 12 and letters * 2 >= len(words) and len(words.split()) >= 3


def _by_keywords(question: str, sentences: list[Sentence]) -> list[Sentence]:
    """Return the `SENTENCES` nearest by their words, in order, with their keyword scores."""
    tokens = [tokenize(sentence.text, sentence.language) for sentence in sentences]
    frequencies = Counter(token for words in tokens for token in set(words))
    average = sum(map(len, tokens)) / max(1, len(tokens))
    weights = {
        language: {term: bm25.idf(len(tokens), frequencies[term]) for term in tokenize(question, language)}
        for language in {sentence.language for sentence in sentences}
    }

    def keyword(sentence: Sentence, words: list[str]) -> float:
        terms = weights[sentence.language]
        return bm25.score(terms, words, length=len(words), average=average) / bm25.bound(terms) if terms else 0.0

    scored = [replace(sentence, keyword=keyword(sentence, words)) for sentence, words in zip(sentences, tokens, strict=True)]
    best = sorted(range(len(scored)), key=lambda at: -scored[at].keyword)[:SENTENCES]
    return [scored[at] for at in sorted(best)]
