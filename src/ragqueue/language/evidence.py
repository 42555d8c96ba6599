"""Find the sentences of some passages that speak to a question.

They are spans only, so that a quote is always a slice of its text.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragqueue.language.bm25 import bm25, weight
from ragqueue.language.detect import detect
from ragqueue.language.markup import fences, says_nothing
from ragqueue.language.scripts import SPACELESS
from ragqueue.language.sentences import OPENS, split
from ragqueue.language.tokens import asked, tokenize

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]
PASSAGES = 3  # the best ones hold the answer; more cost time and gain nothing
SENTENCES = 24  # embedding so many costs about 125 ms of CPU
LONGEST = 400  # characters of a sentence that are embedded
KEYWORD_WEIGHT = 0.5
LONGEST_TITLE = 80  # characters of a heading
# What is no prose: bullets, lines that begin with markup, and within a line what holds no words.
_BULLET = re.compile(r"(?:>\s*)*(?:[-*+•]\s+|\d{1,3}[.)]\s+)?(?:\[[ xX]\]\s+)?")
_MARKUP = re.compile(r"#|\||\{[*%#{]|///|:::|!!!|<!--|```|~~~|---|===")
_NO_WORDS = re.compile(r"<[^<>]*>|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|https?://\S+|`[^`]*`")
# Empty lines around a line.
_EMPTY_ABOVE = re.compile(r"(?:\A|\n[ \t]*\n)[ \t]*\Z")
_EMPTY_BELOW = re.compile(r"[ \t]*\n[ \t]*\n\s*\S")


@dataclass(slots=True)
class Sentence:
    """A stretch of one of the passages, and how near it is to the question."""

    passage: int  # which one of them
    start: int
    text: str
    score: float = 0.0  # by words, and by meaning where the embedder speaks the language
    cosine: float | None = None


def candidates(passage: int, text: str) -> list[Sentence]:
    """Return the sentences of a passage that are prose.

    When there is none, return whatever has letters, and code in whole blocks.
    """
    code = fences(text)
    prose = []
    rest = [Sentence(passage, start, text[start:end].rstrip()) for start, end in code]
    for start, end in split(text):
        body = _BULLET.sub("", text[start:end], count=1)
        if _is_within(start, code) or says_nothing(body):
            continue
        sentence = Sentence(passage, end - len(body), body)
        if _is_prose(body) and not _is_title(text, start, end):
            prose.append(sentence)
        else:
            rest.append(sentence)
    return prose or [sentence for sentence in rest if any(map(str.isalpha, sentence.text))]


def _is_within(at: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= at < end for start, end in spans)


def _is_prose(body: str) -> bool:
    """Tell whether a sentence says something in words."""
    # A question is a heading of its answer.
    if _MARKUP.match(body) or body.endswith(("?", "？")):
        return False
    words = _NO_WORDS.sub(" ", body)
    letters = sum(map(str.isalpha, words))
    if SPACELESS.search(body):
        return letters >= 5
    return letters >= 12 and letters * 2 >= len(words) and len(words.split()) >= 3


def _is_title(text: str, start: int, end: int) -> bool:
    """Tell whether a sentence is a heading that no markup shows.

    That is a short line without a stop that stands alone above more text.
    """
    line = text[start:end]
    if len(line) > LONGEST_TITLE or "\n" in line or OPENS.match(line):
        return False
    ends_with_stop = not line[-1].isalnum()
    if ends_with_stop:
        return False
    empty_above = _EMPTY_ABOVE.search(text[:start]) is not None
    empty_below = _EMPTY_BELOW.match(text, end) is not None
    return empty_above and empty_below


async def weigh(
    question: str,
    passages: Sequence[str],
    embed: Embed | None,
    languages: Collection[str] | None = None,
) -> list[Sentence]:
    """Return the `SENTENCES` of the first passages that are nearest by their words, in order.

    They carry their scores. `languages` are those that `embed` speaks (None: all).
    A sentence in another has no cosine, and ranks as if it had an average one.
    """
    passages = passages[:PASSAGES]
    spoken = [detect(text) for text in passages]
    sentences: list[Sentence] = []
    for i, text in enumerate(passages):
        sentences += candidates(i, text)
    _score_by_words(question, sentences, spoken)

    nearest = sorted(sentences, key=lambda sentence: -sentence.score)[:SENTENCES]
    nearest.sort(key=lambda sentence: (sentence.passage, sentence.start))
    if embed is not None:
        understood = nearest
        if languages is not None:
            understood = [sentence for sentence in nearest if spoken[sentence.passage] in languages]
        await _score_by_meaning(question, nearest, understood, embed)
    return nearest


def _score_by_words(question: str, sentences: Sequence[Sentence], spoken: Sequence[str]) -> None:
    """Set the scores by the words of the question; `spoken` has the language of each passage."""
    tokens = [tokenize(sentence.text, spoken[sentence.passage]) for sentence in sentences]
    weights = _term_weights(question, tokens, set(spoken))
    average = sum(map(len, tokens)) / max(1, len(tokens))
    for sentence, words in zip(sentences, tokens, strict=True):
        terms = weights[spoken[sentence.passage]]
        _, part = bm25(terms, words, length=len(words), average=average)
        sentence.score = KEYWORD_WEIGHT * part


def _term_weights(
    question: str, tokens: Sequence[Sequence[str]], languages: Collection[str]
) -> dict[str, dict[str, float]]:
    """Return {language: {term: weight}} of a question for sentences of these tokens."""
    df = Counter[str]()
    for words in tokens:
        df.update(set(words))
    weights = {}
    for language, terms in asked(question, languages).items():
        weights[language] = {
            term: count * weight(len(tokens), df[term]) for term, count in terms.items()
        }
    return weights


async def _score_by_meaning(
    question: str, sentences: Sequence[Sentence], understood: Sequence[Sentence], embed: Embed
) -> None:
    """Add their cosines to the scores, the average one for those that are not `understood`."""
    if not understood:
        return
    vectors = await embed([question, *(sentence.text[:LONGEST] for sentence in understood)])
    cosines = [float(cosine) for cosine in vectors[1:] @ vectors[0]]
    for sentence, cosine in zip(understood, cosines, strict=True):
        sentence.cosine = cosine
    average = sum(cosines) / len(cosines)
    for sentence in sentences:
        sentence.score += average if sentence.cosine is None else sentence.cosine
