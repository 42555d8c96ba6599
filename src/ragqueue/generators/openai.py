"""Write answers with any server that speaks OpenAI's chat completions.

Such are OpenAI, vLLM, Ollama, llama.cpp, TGI and LM Studio.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import httpx2
import openai

from ragqueue.adapters import Given, Option
from ragqueue.errors import (
    GenerationFailed,
    RagqueueError,
    Unavailable,
    without_password,
)
from ragqueue.generators.base import Generator
from ragqueue.generators.openai_answer import Answer
from ragqueue.generators.openai_place import Place
from ragqueue.types import Delta, Prompt

OPENAI_URL = "https://api.openai.com/v1"
SPARE_CONNECTIONS = 10  # beyond one for each answer that is written at once
# Seconds that are waited for the first token, the next, and the usage after the last.
FIRST = 30.0
GAP = 15.0
AFTER_FINISH = 1.0
# For vLLM and SGLang; others ignore it.
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}

FAULTS = (TimeoutError, openai.APIError, httpx2.HTTPError, aiohttp.ClientError, ConnectionError)
# What is wrong with an answer, by its finish reason. One that was refused is refused again.
REFUSED = {
    "content_filter": "held back the answer (content filter)",
    "tool_calls": "asked for a tool instead of answering",
}
FAILED = REFUSED | dict.fromkeys(
    ("", "abort", "error", "cancelled"),
    "ended its answer without a finish reason: the server broke it off",
)
EMPTY = "gave an empty answer: if it spent its tokens on thinking, raise its limit"
_CUT_OFF = ("length", "max_tokens", "model_length")

# What to check, by the HTTP status that it answered with.
_KEY = "it refused the API key: check OPENAI_API_KEY"
_LONG = "the prompt is longer than the model can read: lower RAGQUEUE_CONTEXT"
_ADVICE = {
    401: _KEY,
    403: _KEY,
    404: "no such model or path: check LLM_MODEL and OPENAI_BASE_URL (it usually ends in /v1)",
    413: _LONG,
}
_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|maximum.{0,20}tokens|too (long|large)", re.IGNORECASE
)


class OpenAIGenerator(Generator):
    """Streams in one try, for the job's are the only retries.

    What broke off goes in the last message to a model that `continues`.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        api_key: str | None,
        continues: bool = False,
        max_connections: int = 512,
    ) -> None:
        place = Place.of(base_url)
        self.model = model
        self.continues = continues
        self._base_url = without_password(base_url)
        # None would mean aiohttp's 100, not "no limit".
        limits = httpx2.Limits(max_connections=max_connections)
        self._client = openai.AsyncOpenAI(
            base_url=place.url,
            # The SDK insists on a key; local servers ask for none.
            api_key=api_key or "none",
            max_retries=0,
            # Our own limits cover the waiting.
            # `pool` also bounds connecting, by aiohttp's meaning of it.
            timeout=httpx2.Timeout(connect=5.0, read=None, write=None, pool=FIRST),
            http_client=openai.DefaultAioHttpClient(limits=limits),
            default_headers=place.headers,
            default_query=place.query,
        )

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        now = asyncio.get_running_loop().time
        prefix = prompt.prefix if self.continues else ""
        answer = Answer()
        deadline = now() + FIRST
        try:
            async with asyncio.timeout_at(deadline):
                opened = await self._open(prompt, prefix)
            async with opened:
                self._check_media_type(opened)
                pieces = opened.response.aiter_bytes()
                piece: bytes | None = b""
                while piece is not None:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, None)
                    # Some servers leave out the empty line that ends the last event.
                    text = answer.take(b"\n\n" if piece is None else piece)
                    if text:
                        yield Delta(text=text)
                    if answer.error:
                        raise GenerationFailed(answer.error)
                    if answer.alive:
                        deadline = now() + (AFTER_FINISH if answer.finish else GAP)
        except FAULTS as error:
            if not answer.finish:
                raise self._explained(error, begun=answer.begun) from error
        self._check_end(answer, prefix)
        finish = "length" if answer.finish in _CUT_OFF else "stop"
        yield Delta(finish=finish, usage=answer.usage)

    async def close(self) -> None:
        await self._client.close()

    async def _open(self, prompt: Prompt, prefix: str) -> openai.AsyncStream[Any]:
        messages: list[Any] = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        extra: dict[str, object] = {"stream_options": {"include_usage": True}}
        if prefix:
            messages.append({"role": "assistant", "content": prefix})
            extra |= CONTINUE
        return await self._client.chat.completions.create(
            model=self.model, messages=messages, stream=True, extra_body=extra
        )

    def _check_media_type(self, opened: openai.AsyncStream[Any]) -> None:
        """Raise GenerationFailed when the server answers with a page instead of a stream."""
        media_type = opened.response.headers.get("content-type", "")
        if media_type.startswith(("text/html", "application/json")):
            raise GenerationFailed(
                f"{self._base_url} answered with {media_type!r}, no stream: "
                "check OPENAI_BASE_URL (it usually ends in /v1)",
                retryable=False,
            )

    def _check_end(self, answer: Answer, prefix: str) -> None:
        """Raise GenerationFailed when an answer that has ended is none."""
        is_empty = not answer.worded and not prefix
        problem = FAILED.get(answer.finish, EMPTY if is_empty else "")
        if problem:
            raise GenerationFailed(
                f"the model {self.model!r} {problem}", retryable=answer.finish not in REFUSED
            )

    def _explained(self, error: Exception, *, begun: bool) -> RagqueueError:
        """Return our error for one of the transport's.

        What the server wrote stays out: it may quote the prompt or the key.
        """
        server = f"the model server at {self._base_url}"
        if isinstance(error, TimeoutError):
            waited = GAP if begun else FIRST
            return GenerationFailed(f"{server} sent nothing for {waited:g} s")
        if begun:
            return GenerationFailed(f"the connection to {server} broke in the middle of the answer")
        if isinstance(error, openai.APIStatusError):
            answered = f"{server}, asked for {self.model!r}, answered HTTP {error.status_code}"
            return _failure_of(error, answered)
        return Unavailable(f"{server} cannot be reached, or closed the connection: is it running?")


def _failure_of(error: openai.APIStatusError, answered: str) -> GenerationFailed:
    """Return our error for an HTTP status; `answered` says who answered which."""
    status = error.status_code
    if error.code == "insufficient_quota":
        return GenerationFailed(f"{answered}: no quota is left, see its billing", retryable=False)
    if status in (408, 409, 425, 429) or status >= 500:
        wait = re.fullmatch(r"\d{1,4}", error.response.headers.get("retry-after", ""))
        return GenerationFailed(
            f"{answered}: it is overloaded or failing",
            retry_after=float(wait[0]) if wait else None,
        )
    advice = "check that it serves this model for chat"
    if status in _ADVICE:
        advice = _ADVICE[status]
    elif _TOO_LONG.search(str(error)):
        advice = _LONG
    return GenerationFailed(f"{answered}: {advice}", retryable=False)


OPTIONS = {
    "OPENAI_API_KEY": Option(
        "Key for the OpenAI-compatible server", secret=True, one_of="where it is served"
    ),
    "OPENAI_BASE_URL": Option(
        "URL of the OpenAI-compatible server, up to /v1", one_of="where it is served"
    ),
    "RAGQUEUE_MODEL_CONTINUES": Option(
        "Whether the model can continue a half-written answer (vLLM, llama.cpp, prefill)",
        default=False,
    ),
}


def open(given: Given) -> OpenAIGenerator:
    """Return the generator of a model, named as `openai:NAME` or by NAME alone.

    Raises ConfigError.
    """
    return OpenAIGenerator(
        given.name or given.url,
        base_url=given.options["OPENAI_BASE_URL"] or OPENAI_URL,
        api_key=given.options["OPENAI_API_KEY"],
        continues=given.options["RAGQUEUE_MODEL_CONTINUES"],
        max_connections=given.at_once + SPARE_CONNECTIONS,
    )
