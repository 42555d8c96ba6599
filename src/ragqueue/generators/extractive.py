"""Answer without a model, by quotes.

The sentences that speak to the question come in reading order, each with the number of its passage.
"""

import re
from collections.abc import AsyncGenerator, Collection, Sequence
from itertools import chain
from typing import NamedTuple

from ragqueue.adapters import Given
from ragqueue.errors import GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.language.evidence import Embed, Sentence, weigh
from ragqueue.language.markup import FENCE_MARK, announced, announces, block_at, closed, is_code
from ragqueue.types import Chunk, Delta, Prompt

QUOTES = 3  # a fourth gains nothing
# Share of the best quote's score that a further one has. Measured against three quotes always:
# XQuAD en 2.0 quotes, of which 60 % hold the answer (33 %), 92.5 % of the answers hold it (94 %);
# zh 1.4 quotes, 75 % (32 %), 87.5 % (90.5 %). At 0.8 long answers lose a quarter.
NEAR = 0.7
GAP = 3  # characters between two passages that follow each other: line breaks
_BRACKET = re.compile(r"\[(?=\d)")


class _Piece(NamedTuple):
    """A stretch of one passage that is quoted with one marker."""

    passage: int
    start: int
    end: int
    block: bool  # it stands in lines of its own

    def text(self, chunks: Sequence[Chunk]) -> str:
        return chunks[self.passage].text[self.start : self.end]

    def overlaps(self, pieces: Sequence["_Piece"]) -> bool:
        """Tell whether it shares text with one of these pieces."""
        neighbours = [piece for piece in pieces if piece.passage == self.passage]
        return any(self.start < piece.end and piece.start < self.end for piece in neighbours)


class _Quote(NamedTuple):
    """What is quoted of one sentence: itself, and what it announces."""

    score: float
    pieces: list[_Piece]

    def text(self, chunks: Sequence[Chunk]) -> str:
        return " ".join(piece.text(chunks) for piece in self.pieces)


class ExtractiveGenerator(Generator):
    model = "extractive"
    continues = False  # what took a moment is begun anew
    passages = 6  # sentences come from the best, and what they announce from the others, too
    weighs_sentences = True

    def __init__(
        self, embed: Embed | None = None, *, languages: Collection[str] | None = None
    ) -> None:
        self._embed = embed
        self._languages = languages

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        chunks = [hit.chunk for hit in prompt.hits[: self.passages]]
        quotes = await self._quotes(prompt.question, chunks)
        answer = ""
        previous: _Piece | None = None
        for piece in chain.from_iterable(quote.pieces for quote in quotes):
            text = _separator(previous, piece)
            text += _escaped(closed(piece.text(chunks)), before=answer + text)
            text += "\n\n" if piece.block else " "
            text += f"[{piece.passage + 1}]"
            yield Delta(text=text)
            answer += text
            previous = piece
        yield Delta(finish="stop")

    async def _quotes(self, question: str, chunks: Sequence[Chunk]) -> list[_Quote]:
        """Return the best quotes in reading order. Raises GenerationFailed when there is none."""
        texts = [chunk.text for chunk in chunks]
        sentences = []
        for sentence in await weigh(question, texts, self._embed, self._languages):
            chunk = chunks[sentence.passage]
            if sentence.text not in (chunk.title, *chunk.heading_path):
                sentences.append(sentence)
        sentences.sort(key=lambda sentence: -sentence.score)
        quotes = _best(sentences, chunks)
        if not quotes:
            raise GenerationFailed(
                "the passages hold no sentence that could be quoted", retryable=False
            )
        quotes.sort(key=lambda quote: _place_of(quote, chunks))
        return quotes


def _best(sentences: Sequence[Sentence], chunks: Sequence[Chunk]) -> list[_Quote]:
    """Return the quotes of the sentences, best first: those near the best, none twice."""
    best: list[_Quote] = []
    pieces: list[_Piece] = []
    texts: set[str] = set()
    for quote in _quotes_of(sentences, chunks):
        if len(best) == QUOTES:
            break
        if best and quote.score < NEAR * best[0].score:
            break
        text = quote.text(chunks)
        if text in texts or any(piece.overlaps(pieces) for piece in quote.pieces):
            continue
        best.append(quote)
        pieces += quote.pieces
        texts.add(text)
    return best


def _quotes_of(sentences: Sequence[Sentence], chunks: Sequence[Chunk]) -> list[_Quote]:
    """Return a quote for each sentence, but for those that announce what no passage holds."""
    quotes = []
    for sentence in sentences:
        pieces = _pieces_of(sentence, chunks)
        if pieces:
            quotes.append(_Quote(score=sentence.score, pieces=pieces))
    if quotes:
        return quotes
    # Where every sentence announces what no passage holds, the sentences are all there is.
    return [
        _Quote(score=sentence.score, pieces=[_piece_of(sentence, block=False)])
        for sentence in sentences
    ]


def _pieces_of(sentence: Sentence, chunks: Sequence[Chunk]) -> list[_Piece]:
    """Return a sentence with what it announces, which may begin the next passage.

    Returns nothing when no passage holds that.
    """
    if not announces(sentence.text):
        is_fenced = FENCE_MARK.match(sentence.text) is not None
        return [_piece_of(sentence, block=is_fenced)]
    chunk = chunks[sentence.passage]
    end = sentence.start + len(sentence.text)
    block_end = announced(chunk.text, end)
    if block_end > end:
        return [_Piece(passage=sentence.passage, start=sentence.start, end=block_end, block=True)]
    if chunk.text[end:].strip():
        return []
    block = _block_after(chunk, chunks)
    if block is None:
        return []
    return [_piece_of(sentence, block=False), block]


def _piece_of(sentence: Sentence, *, block: bool) -> _Piece:
    end = sentence.start + len(sentence.text)
    return _Piece(passage=sentence.passage, start=sentence.start, end=end, block=block)


def _block_after(chunk: Chunk, chunks: Sequence[Chunk]) -> _Piece | None:
    """Return the block that the passage behind this one begins with."""
    for i, candidate in enumerate(chunks):
        if candidate.document_id != chunk.document_id:
            continue
        if not 0 <= candidate.start - chunk.end <= GAP:
            continue
        start, end = block_at(candidate.text, 0)
        if end > 0:
            return _Piece(passage=i, start=start, end=end, block=True)
    return None


def _place_of(quote: _Quote, chunks: Sequence[Chunk]) -> tuple[int, int, int]:
    """Return what quotes are ordered by to be read: documents as they were found, then offsets."""
    documents = [chunk.document_id for chunk in chunks]
    first = quote.pieces[0]
    passage = chunks[first.passage]
    return documents.index(passage.document_id), passage.start, first.start


def _separator(previous: _Piece | None, piece: _Piece) -> str:
    """Return what stands between a piece and the one before it."""
    if previous is None:
        return ""
    if previous.block or piece.block:
        return "\n\n"
    return " "


def _escaped(quote: str, before: str) -> str:
    r"""Return a quote in which the source's own [3] is no citation of ours.

    Markdown shows \[3] as [3], and in code we read none. `before` is the answer up to the quote.
    """

    def escape(bracket: re.Match[str]) -> str:
        if is_code(before + quote[: bracket.start()]):
            return "["
        return r"\["

    return _BRACKET.sub(escape, quote)


def open(given: Given) -> ExtractiveGenerator:
    """Return the generator; without an embedder it ranks sentences by their words alone."""
    return ExtractiveGenerator(given.embed, languages=given.languages)
