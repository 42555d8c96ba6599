"""Find the sentences of some passages that speak to a question: spans only, so that a quote is always a slice of its text."""

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
_ABOVE, _BELOW = (
    re.compile(r"(?:\A|\n[ \t]*\n)[ \t]*\Z"),
    re.compile(r"[ \t]*\n[ \t]*\n\s*\S"),
)  # empty lines
_NO_WORDS = re.compile(r"<[^<>]*>|!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|https?://\S+|`[^`]*`")


@dataclass(slots=True)
class Sentence:
    """A stretch of one of the passages, and how near it is to the question."""

    passage: int  # which one of them
    start: int
    text: str
    score: float = 0.0  # by words, and by meaning where the embedder speaks the language
    cosine: float | None = None


def candidates(passage: int, text: str) -> list[Sentence]:
    """Return the sentences of a passage that are prose; when there is none, whatever has letters, and code in whole blocks."""
    code = fences(text)
    rest = [Sentence(passage, start, text[start:end].rstrip()) for start, end in code]
    prose = list[Sentence]()
    for start, end in split(text):
        body = _BULLET.sub("", text[start:end], count=1)
        fenced = any(first <= start < last for first, last in code)
        if not (fenced or says_nothing(body)):
            said = _is_prose(body) and not _is_title(text, start, end)
            (prose if said else rest).append(Sentence(passage, end - len(body), body))
    return prose or [sentence for sentence in rest if any(map(str.isalpha, sentence.text))]


def _is_prose(body: str) -> bool:
    words = _NO_WORDS.sub(" ", body)
    letters = sum(map(str.isalpha, words))
    said = (
        letters >= 5
        if SPACELESS.search(body)
        else letters >= 12 and letters * 2 >= len(words) and len(words.split()) >= 3
    )
    return (
        said and not _MARKUP.match(body) and not body.endswith(("?", "？"))
    )  # a question is a heading of its answer


def _is_title(text: str, start: int, end: int) -> bool:
    """Tell whether a sentence is a short line without a stop that stands alone above more text: a heading that no markup shows."""
    line = text[start:end]
    alone = _ABOVE.search(text[:start]) and _BELOW.match(text, end)
    return (
        bool(alone)
        and len(line) <= LONGEST_TITLE
        and "\n" not in line
        and line[-1].isalnum()
        and not OPENS.match(line)
    )


async def weigh(
    question: str,
    passages: Sequence[str],
    embed: Embed | None,
    languages: Collection[str] | None = None,
) -> list[Sentence]:
    """Return the `SENTENCES` of the first passages that are nearest by their words, in order, with their scores.

    `languages` are those that `embed` speaks (None: all). A sentence in another has no cosine, and ranks as if it had an average one.
    """
    spoken = [detect(text) for text in passages[:PASSAGES]]
    sentences = [
        sentence for at, text in enumerate(passages[:PASSAGES]) for sentence in candidates(at, text)
    ]
    tokens = [tokenize(sentence.text, spoken[sentence.passage]) for sentence in sentences]
    df = Counter(token for words in tokens for token in set(words))
    average = sum(map(len, tokens)) / max(1, len(tokens))
    terms = asked(question, set(spoken))
    weights = {
        language: {term: said * weight(len(tokens), df[term]) for term, said in held.items()}
        for language, held in terms.items()
    }
    for sentence, words in zip(sentences, tokens, strict=True):
        sentence.score = (
            KEYWORD_WEIGHT
            * bm25(weights[spoken[sentence.passage]], words, length=len(words), average=average)[1]
        )
    nearest = sorted(sentences, key=lambda sentence: -sentence.score)[:SENTENCES]
    sentences = sorted(nearest, key=lambda sentence: (sentence.passage, sentence.start))
    heard = [
        sentence
        for sentence in sentences
        if languages is None or spoken[sentence.passage] in languages
    ]
    if embed and heard:
        vectors = await embed([question, *(sentence.text[:LONGEST] for sentence in heard)])
        for sentence, cosine in zip(heard, vectors[1:] @ vectors[0], strict=True):
            sentence.cosine = float(cosine)
        typical = sum(sentence.cosine or 0.0 for sentence in heard) / len(heard)
        for sentence in sentences:
            sentence.score += typical if sentence.cosine is None else sentence.cosine
    return sentences
