"""The scripted generator."""

import re
import time

import pytest

from ragqueue.errors import ConfigError, GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.generators.scripted import Script, ScriptedGenerator
from ragqueue.testing.contracts.generators import GeneratorContract, collect, make_prompt, text_of
from ragqueue.types import Prompt


class TestScripted(GeneratorContract):
    @pytest.fixture
    def generator(self) -> Generator:
        return ScriptedGenerator("tokens=30")


class TestScriptedThatCannotContinue(GeneratorContract):
    @pytest.fixture
    def generator(self) -> Generator:
        return ScriptedGenerator("tokens=30&continues=0")


def test_options_are_read_from_a_model_string() -> None:
    script = ScriptedGenerator("rate=20&tokens=7&stamp=1&continues=0&cite=0").script

    assert script == Script(rate=20.0, tokens=7, stamp=True, continues=False, cite=False)


def test_no_options_are_the_defaults() -> None:
    assert ScriptedGenerator("").script == Script()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("speed=3", "field `speed`; use rate, tokens"),
        ("rate=fast", "$.rate"),
        ("tokens=-1", "$.tokens"),
        ("stamp=yes", "$.stamp"),
        ("rate=nan", "$.rate"),
        ("tokens", "$.tokens"),
    ],
)
def test_a_wrong_option_is_named(options: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        ScriptedGenerator(options)


async def test_other_questions_get_other_words() -> None:
    generator = ScriptedGenerator()

    first = await text_of(generator, make_prompt("one"))
    second = await text_of(generator, make_prompt("two"))

    assert first != second


async def test_it_says_as_many_tokens_as_it_was_told() -> None:
    *tokens, last = await collect(ScriptedGenerator("tokens=17"), make_prompt())

    assert len(tokens) == 17
    assert last.usage == {"output_tokens": 17}


async def test_sentences_end_with_markers_of_the_passages() -> None:
    text = await text_of(ScriptedGenerator("tokens=48"), make_prompt())

    assert re.findall(r"\[(\d)\]\.", text) == ["1", "2", "3", "1"]


async def test_nothing_is_cited_without_passages() -> None:
    assert "[" not in await text_of(
        ScriptedGenerator(), Prompt(question="q", hits=(), system="", user="q")
    )


async def test_each_token_carries_the_time_of_its_emission() -> None:
    before = time.time()
    text = await text_of(ScriptedGenerator("tokens=20&stamp=1&rate=1000"), make_prompt())
    after = time.time()

    stamps = [float(stamp) for stamp in re.findall(r" @(\d{10}\.\d{6})", text)]

    assert len(stamps) == 20
    assert stamps == sorted(stamps)
    assert before - 1e-5 <= stamps[0] <= stamps[-1] <= after + 1e-5


@pytest.mark.parametrize("cut", range(0, 600, 13))
async def test_a_stamped_answer_is_continued_even_within_a_stamp(cut: int) -> None:
    generator = ScriptedGenerator("tokens=20&stamp=1")
    plain = await text_of(ScriptedGenerator("tokens=20"), make_prompt())
    prefix = (await text_of(generator, make_prompt()))[:cut]

    whole = prefix + await text_of(generator, make_prompt(prefix=prefix))

    assert re.sub(r" @\d{10}\.\d{6}", "", whole) == plain


async def test_a_prefix_that_it_did_not_write_is_refused() -> None:
    with pytest.raises(GenerationFailed, match="cannot be continued"):
        await collect(ScriptedGenerator(), make_prompt(prefix="Something else"))
