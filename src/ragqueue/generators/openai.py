"""Write answers with any server that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp, TGI, LM Studio."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Literal

import aiohttp
import httpx2
import msgspec
import openai

from ragqueue.errors import ConfigError, GenerationFailed, RagqueueError, Unavailable
from ragqueue.generators.base import Generator
from ragqueue.types import Delta, Prompt

AFTER_FINISH = 2.0  # seconds that are waited for usage and the end of the stream once the answer is complete
LENGTH = frozenset({"length", "max_tokens", "model_length"})
REFUSED = frozenset({"content_filter", "tool_calls", "function_call"})
BROKEN = frozenset({"abort", "error", "cancelled"})
RETRYABLE = frozenset({408, 409, 425, 429})  # and all from 500 on
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


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class OpenAIGenerator(Generator):
    """Streams from `base_url`; makes one try, for the job's tries are the only retries.

    With `continues`, an answer that broke off is sent as the last assistant message for the model to go on with.
    Its `prefill` is "vllm" (adds `continue_final_message`, which vLLM and SGLang need and llama.cpp and Ollama
    ignore) or "plain" (the message alone, for servers that refuse unknown fields).
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        api_key: str | None,
        continues: bool = False,
        prefill: Literal["vllm", "plain"] = "vllm",
        connect_timeout: float = 5.0,
        first_token_timeout: float = 30.0,
        gap_timeout: float = 15.0,
        max_connections: int = 512,
        max_tokens: int | None = None,
        temperature: float | None = None,
        usage: bool = True,
    ) -> None:
        """Raises ConfigError when the URL is none; times are seconds."""
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"OPENAI_BASE_URL is {base_url!r}: it must start with http:// or https:// (and usually ends in /v1)")
        self.model, self.continues, self._base_url = model, continues, base_url
        self._prefill, self._first, self._gap = prefill, first_token_timeout, gap_timeout
        self._options = _options(base_url, max_tokens, temperature, usage)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",  # the SDK insists on one; local servers ask for none
            max_retries=0,
            # Our own limits cover the waiting. `pool` also bounds connecting, by aiohttp's meaning of it.
            timeout=httpx2.Timeout(connect=connect_timeout, read=None, write=None, pool=first_token_timeout),
            # None would mean aiohttp's 100, not "no limit".
            http_client=openai.DefaultAioHttpClient(limits=httpx2.Limits(max_connections=max_connections)),
        )

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield what each network read holds. Raises GenerationFailed, Unavailable."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + self._first
        answer, events = _Answer(prompt), _Events()
        async with AsyncExitStack() as stack:
            chunks = await self._open(prompt, stack, limit)
            while not answer.over:
                data = await self._next(chunks, limit, answer)
                answer.take(events.feed(data) if data is not None else events.end())
                if answer.fresh:
                    yield Delta("".join(answer.fresh))
                if answer.alive:
                    limit = loop.time() + (AFTER_FINISH if answer.finish else self._gap)
                answer.next(ended=data is None)
            yield answer.conclude(self.model)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def _open(self, prompt: Prompt, stack: AsyncExitStack, limit: float) -> AsyncIterator[bytes]:
        request = self._client.chat.completions.with_streaming_response.create(
            model=self.model, messages=self._messages(prompt), stream=True, **self._continuing(prompt), **self._options
        )
        try:
            async with asyncio.timeout_at(limit):
                response = await stack.enter_async_context(request)
        except TimeoutError as error:
            raise self._silent(f"no answer within {self._first:g} s") from error
        except FAULTS as error:
            raise self._explained(error) from error
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
                raise self._silent(told) from error
            raise GenerationFailed(f"the connection to the model server at {self._base_url} broke in the middle of the answer") from error

    def _silent(self, told: str) -> GenerationFailed:
        return GenerationFailed(f"the model {self.model!r} at {self._base_url} sent {told}")

    def _messages(self, prompt: Prompt) -> Any:
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        if self.continues and prompt.prefix:
            messages.append({"role": "assistant", "content": prompt.prefix})
        return messages

    def _continuing(self, prompt: Prompt) -> Mapping[str, Any]:
        if not (self.continues and prompt.prefix) or self._prefill == "plain":
            return {}
        return {"extra_body": {"continue_final_message": True, "add_generation_prompt": False}}

    def _explained(self, error: Exception) -> RagqueueError:
        """Return our error for one of the SDK's. What the server wrote stays out: it may quote the prompt or the key."""
        if not isinstance(error, openai.APIStatusError):
            return Unavailable(f"the model server at {self._base_url} cannot be reached, or closed the connection: is it running?")
        status, name = error.status_code, _name(error)
        if status in RETRYABLE or status >= 500:
            if name == "insufficient_quota":
                return GenerationFailed(f"the account at {self._base_url} has no quota left: see its billing", retryable=False)
            told = f"the model server at {self._base_url} is overloaded or failing (HTTP {status}{name and ', ' + name})"
            return GenerationFailed(told, retry_after=_retry_after(error.response.headers))
        return GenerationFailed(f"{self._advice(status, error)} (HTTP {status}{name and ', ' + name})", retryable=False)

    def _advice(self, status: int, error: openai.APIStatusError) -> str:
        if status in (401, 403):
            return f"the model server at {self._base_url} refused the API key: check OPENAI_API_KEY"
        if status == 404:
            return f"{self._base_url} does not know {self.model!r}: check LLM_MODEL and OPENAI_BASE_URL (it usually ends in /v1)"
        if status == 413 or _CONTEXT.search(str(error)):
            return f"the prompt is longer than {self.model!r} can read: lower RAGQUEUE_CONTEXT"
        return f"the model server at {self._base_url} refused the request for {self.model!r}: check that it serves this model for chat"


class _Events:
    """Splits server-sent events into their data."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of each event that is complete."""
        found = []
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif not line.rstrip() and self._data:
                found.append(b"\n".join(self._data))
                self._data.clear()
        return found

    def end(self) -> list[bytes]:
        """Return the event that the end of the stream completes: some servers leave out the last empty line."""
        return self.feed(b"\n\n")


class _Answer:
    """What the events of one answer have said so far."""

    def __init__(self, prompt: Prompt) -> None:
        self.fresh: list[str] = []  # text since `next`
        self.finish = ""
        self.over = self.alive = self.begun = False
        self._empty = not prompt.prefix.strip()
        self._usage: dict[str, int] = {}
        self._error: GenerationFailed | None = None

    def take(self, events: list[bytes]) -> None:
        """Read events; what is wrong with them is raised by `next`, after the text before it was passed on."""
        for data in events:
            if self.over or self._error:
                return
            if data == b"[DONE]":
                self.over = True
            elif data:
                self._read(data)

    def next(self, *, ended: bool) -> None:
        """Make ready for the next read. Raises GenerationFailed."""
        if self._error:
            raise self._error
        if self.fresh:
            self._empty = self._empty and not "".join(self.fresh).strip()
            self.fresh = []
        self.begun = self.begun or self.alive
        self.alive, self.over = False, self.over or ended

    def _read(self, data: bytes) -> None:
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._error = GenerationFailed("the model server sent an event that is no chunk of a chat completion")
            return
        if chunk.error:
            self._error = _in_stream(chunk.error)
        if chunk.usage:
            counts = {"input_tokens": chunk.usage.prompt_tokens, "output_tokens": chunk.usage.completion_tokens}
            self._usage = {name: count for name, count in counts.items() if count is not None}
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._hear(choice)

    def _hear(self, choice: _Choice) -> None:
        said = choice.delta
        if said is not None:
            if said.content:
                self.fresh.append(said.content)
            # Thinking is not part of the answer, but a sign of life. A comment or an empty delta is none.
            self.alive = self.alive or bool(said.content or said.reasoning or said.reasoning_content)
        if choice.finish_reason:
            self.finish, self.alive = choice.finish_reason, True

    def conclude(self, model: str) -> Delta:
        """Return the last Delta. Raises GenerationFailed when the answer is not whole."""
        if not self.finish or self.finish in BROKEN:
            raise GenerationFailed(f"the model {model!r} ended its answer without a finish reason: the server broke it off")
        if self.finish in REFUSED:
            told = "held back the answer (content filter)" if self.finish == "content_filter" else "asked for a tool instead of answering"
            raise GenerationFailed(f"the model {model!r} {told}", retryable=False)
        finish = "length" if self.finish in LENGTH else "stop"
        if self._empty:
            why = ": it spent all its tokens before the answer, raise its limit" if finish == "length" else ""
            raise GenerationFailed(f"the model {model!r} gave an empty answer{why}", retryable=finish == "stop")
        return Delta(finish=finish, usage=self._usage)


def _options(base_url: str, max_tokens: int | None, temperature: float | None, usage: bool) -> dict[str, Any]:
    # OpenAI's newer models refuse the old name, many other servers do not know the new one.
    limit = "max_completion_tokens" if "//api.openai.com" in base_url else "max_tokens"
    options = {limit: max_tokens, "temperature": temperature, "stream_options": {"include_usage": True} if usage else None}
    return {name: value for name, value in options.items() if value is not None}


def _in_stream(error: Any) -> GenerationFailed:
    code = error.get("code") if isinstance(error, dict) else None
    final = isinstance(code, int) and 400 <= code < 500 and code not in RETRYABLE
    return GenerationFailed("the model server reported an error in the middle of the answer: see its log", retryable=not final)


def _name(error: openai.APIStatusError) -> str:
    """Return the error's short name, if it has one that can quote nothing."""
    names = (str(name) for name in (error.code, error.type) if name)
    return next((name for name in names if _SHORT_NAME.fullmatch(name)), "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    given = headers.get("retry-after", "")
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(given).timestamp() - time()
        except ValueError:
            return None
    return seconds if 0 <= seconds < 86_400 else None
