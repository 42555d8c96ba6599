"""Write answers with any server that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp, TGI, LM Studio."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import aiohttp
import httpx2
import msgspec
import openai

from ragqueue.errors import ConfigError, GenerationFailed, RagqueueError, Unavailable
from ragqueue.generators.base import Generator
from ragqueue.types import Delta, Prompt

AFTER_FINISH = 1.0  # seconds that are waited for usage and the end of the stream once the answer is complete
USAGE = {"stream_options": {"include_usage": True}}
CONTINUE = {"extra_body": {"continue_final_message": True, "add_generation_prompt": False}}  # for vLLM and SGLang; others ignore it
LENGTH = frozenset({"length", "max_tokens", "model_length"})
TOOL = "asked for a tool instead of answering"
REFUSED = {"content_filter": "held back the answer (content filter)", "tool_calls": TOOL, "function_call": TOOL}
BROKEN = frozenset({"", "abort", "error", "cancelled"})
RETRYABLE = frozenset({408, 409, 425, 429, *range(500, 600)})
FAULTS = (openai.APIError, httpx2.HTTPError, aiohttp.ClientError, ConnectionError)

_CONTEXT = re.compile(r"context.{0,20}(length|size|window)|maximum.{0,20}tokens|too (long|large)", re.IGNORECASE)
_SHORT_NAME = re.compile(r"[\w.\-]{1,64}")


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    index: int = 0
    finish_reason: str | None = None


class _Usage(msgspec.Struct, rename={"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode  # reading the SDK's own typed chunks costs three times the CPU


class OpenAIGenerator(Generator):
    """Streams from `base_url`; makes one try, for the job's tries are the only retries.

    With `continues`, an answer that broke off is sent as the last assistant message for the model to go on with.
    """

    def __init__(
        self, model: str, *, base_url: str, api_key: str | None, continues: bool = False,
        first_token_timeout: float = 30.0, gap_timeout: float = 15.0, max_connections: int = 512,
    ) -> None:  # fmt: skip
        """Timeouts are in seconds. Raises ConfigError."""
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"OPENAI_BASE_URL is {base_url!r}: it must start with http:// or https:// (and usually ends in /v1)")
        self.model, self.continues, self._base_url = model, continues, base_url
        self._first, self._gap = first_token_timeout, gap_timeout
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",  # the SDK insists on one; local servers ask for none
            max_retries=0,
            # Our own limits cover the waiting. `pool` also bounds connecting, by aiohttp's meaning of it.
            timeout=httpx2.Timeout(connect=5.0, read=None, write=None, pool=first_token_timeout),
            # None would mean aiohttp's 100, not "no limit".
            http_client=openai.DefaultAioHttpClient(limits=httpx2.Limits(max_connections=max_connections)),
        )

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield what each network read holds. Raises GenerationFailed, Unavailable."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + self._first
        prefix = prompt.prefix if self.continues else ""
        answer = _Answer()
        async with AsyncExitStack() as stack:
            chunks = await self._open(prompt, prefix, stack, limit)
            data: bytes | None = b""
            while data is not None:
                data = await self._next(chunks, limit, answer)
                # Some servers leave out the empty line that ends the last event.
                if text := answer.take(b"\n\n" if data is None else data):
                    yield Delta(text)
                if answer.error:
                    raise answer.error
                if answer.alive:
                    limit = loop.time() + (AFTER_FINISH if answer.finish else self._gap)
        yield answer.conclude(self.model, goes_on=bool(prefix))

    async def close(self) -> None:
        await self._client.close()

    async def _open(self, prompt: Prompt, prefix: str, stack: AsyncExitStack, limit: float) -> AsyncIterator[bytes]:
        messages: Any = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        options: dict[str, Any] = USAGE
        if prefix:
            messages.append({"role": "assistant", "content": prefix})
            options = USAGE | CONTINUE
        create = self._client.chat.completions.with_streaming_response.create
        try:
            async with asyncio.timeout_at(limit):
                response = await stack.enter_async_context(create(model=self.model, messages=messages, stream=True, **options))
        except TimeoutError as error:
            raise GenerationFailed(f"the model {self.model!r} at {self._base_url} sent no answer within {self._first:g} s") from error
        except FAULTS as error:
            raise self._explained(error) from error
        media_type = response.headers.get("content-type", "")
        if media_type.startswith(("text/html", "application/json")):
            told = f"{self._base_url} answered with {media_type!r} instead of a stream of events: check OPENAI_BASE_URL (it usually ends in /v1)"
            raise GenerationFailed(told, retryable=False)
        chunks: AsyncIterator[bytes] = response.iter_bytes()
        return chunks

    async def _next(self, chunks: AsyncIterator[bytes], limit: float, answer: "_Answer") -> bytes | None:
        """Return the next bytes; None at the end, or when the answer is complete and only its epilogue is missing."""
        try:
            async with asyncio.timeout_at(limit):
                return await anext(chunks, None)
        except (TimeoutError, *FAULTS) as error:
            if answer.finish:
                return None
            if isinstance(error, TimeoutError):
                told = f"nothing more for {self._gap:g} s" if answer.begun else f"no first token within {self._first:g} s"
                raise GenerationFailed(f"the model {self.model!r} at {self._base_url} sent {told}") from error
            raise GenerationFailed(f"the connection to the model server at {self._base_url} broke in the middle of the answer") from error

    def _explained(self, error: Exception) -> RagqueueError:
        """Return our error for one of the SDK's. What the server wrote stays out: it may quote the prompt or the key."""
        server = f"the model server at {self._base_url}"
        if not isinstance(error, openai.APIStatusError):
            return Unavailable(f"{server} cannot be reached, or closed the connection: is it running?")
        status = error.status_code
        name = next((name for name in (str(error.code or ""), str(error.type or "")) if _SHORT_NAME.fullmatch(name)), "")
        shown = f"(HTTP {status}{name and ', ' + name})"
        if status in RETRYABLE and name == "insufficient_quota":
            return GenerationFailed(f"the account at {self._base_url} has no quota left: see its billing", retryable=False)
        if status in RETRYABLE:
            wait = _retry_after(error.response.headers.get("retry-after", ""))
            return GenerationFailed(f"{server} is overloaded or failing {shown}", retry_after=wait)
        if status in (401, 403):
            told = f"{server} refused the API key: check OPENAI_API_KEY"
        elif status == 404:
            told = f"{self._base_url} does not know {self.model!r}: check LLM_MODEL and OPENAI_BASE_URL (it usually ends in /v1)"
        elif status == 413 or _CONTEXT.search(str(error)):
            told = f"the prompt is longer than {self.model!r} can read: lower RAGQUEUE_CONTEXT"
        else:
            told = f"{server} refused the request for {self.model!r}: check that it serves this model for chat"
        return GenerationFailed(f"{told} {shown}", retryable=False)


class _Answer:
    """What the events of one answer have said so far."""

    def __init__(self) -> None:
        self.finish = ""
        self.alive = self.begun = False  # in the last read; ever
        self.error: GenerationFailed | None = None  # to be raised once the text before it was passed on
        self._rest, self._empty = b"", True
        self._usage: dict[str, int] = {}

    def take(self, data: bytes) -> str:
        """Read what the network brought and return the text that it adds."""
        self.alive = False
        events, self._rest = _events(self._rest + data)
        text = "".join([self._read(event) for event in events if event != b"[DONE]" and not self.error])
        self._empty = self._empty and not text.strip()
        self.begun = self.begun or self.alive
        return text

    def _read(self, data: bytes) -> str:
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.error = GenerationFailed("the model server sent an event that is no chunk of a chat completion")
            return ""
        if chunk.error:
            code = chunk.error.get("code") if isinstance(chunk.error, dict) else None
            final = isinstance(code, int) and 400 <= code < 500 and code not in RETRYABLE
            self.error = GenerationFailed(
                "the model server reported an error in the middle of the answer: see its log", retryable=not final
            )
        if chunk.usage:
            self._usage = {name: count for name, count in msgspec.structs.asdict(chunk.usage).items() if count is not None}
        text = ""
        for choice in chunk.choices or ():
            if choice.index == 0:
                said = choice.delta or _Said()
                text += said.content or ""
                self.finish = choice.finish_reason or self.finish
                # Thinking is not part of the answer, but a sign of life. A comment or an empty delta is none.
                self.alive = self.alive or bool(said.content or said.reasoning or said.reasoning_content or choice.finish_reason)
        return text

    def conclude(self, model: str, *, goes_on: bool) -> Delta:
        """Return the last Delta. Raises GenerationFailed when the answer is not whole."""
        if self.finish in BROKEN:
            raise GenerationFailed(f"the model {model!r} ended its answer without a finish reason: the server broke it off")
        if self.finish in REFUSED:
            raise GenerationFailed(f"the model {model!r} {REFUSED[self.finish]}", retryable=False)
        finish = "length" if self.finish in LENGTH else "stop"
        if self._empty and not goes_on:
            why = ": it spent all its tokens before the answer, raise its limit" if finish == "length" else ""
            raise GenerationFailed(f"the model {model!r} gave an empty answer{why}", retryable=finish == "stop")
        return Delta(finish=finish, usage=self._usage)


def _events(raw: bytes) -> tuple[list[bytes], bytes]:
    """Split server-sent events: return the data of each that is complete, and the bytes after them."""
    *blocks, rest = raw.replace(b"\r", b"").split(b"\n\n")
    found = [b"\n".join([line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]) for block in blocks]
    return [data for data in found if data], rest


def _retry_after(given: str) -> float | None:
    """Return the seconds of a Retry-After header, which may be a date."""
    try:
        seconds = float(given) if given.strip().isdigit() else parsedate_to_datetime(given).timestamp() - time()
    except ValueError:
        return None
    return max(0.0, seconds) if seconds < 86_400 else None
