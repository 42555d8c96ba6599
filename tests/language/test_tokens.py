"""Keyword tokens: what is one word, and what is left out."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from ragqueue.language.tokens import LONGEST, tokenize


def test_words_lose_case_and_ending() -> None:
    assert tokenize("Connections CONNECTED connecting", "en") == ["connect"] * 3


def test_stop_words_and_question_words_are_left_out() -> None:
    assert tokenize("What is the meaning of it, and why?", "en") == ["mean"]
    heads = tokenize("heißt Hauptstadt", "de")
    assert tokenize("Wie heißt die Hauptstadt und warum?", "de") == heads
    assert tokenize("¿Cuál es la capital y por qué?", "es") == tokenize("capital", "es")


def test_users_may_type_without_accents() -> None:
    assert tokenize("naïve Straße", "de") == tokenize("naive STRASSE", "de")
    assert tokenize("está canción", "es") == tokenize("esta cancion", "es")


def test_single_letters_are_dropped_and_single_digits_kept() -> None:
    assert tokenize("x 7 yz", "en") == ["7", "yz"]


def test_chinese_becomes_characters_and_pairs() -> None:
    assert tokenize("用手机API开", "zh") == ["用", "手", "机", "用手", "手机", "api", "开"]


def test_korean_japanese_and_thai_become_pairs_too() -> None:
    assert "문장" in tokenize("문장입니다", "ko")
    assert "テス" in tokenize("テスト", "ja")
    assert "ภา" in tokenize("ภาษา", "th")


def test_hindi_words_keep_their_vowel_signs() -> None:
    assert len(tokenize("हिन्दी", "hi")) == 1


def test_full_width_letters_and_ligatures_are_plain_ones() -> None:
    assert tokenize("ＡＢＣ eﬃcient", "en") == tokenize("abc efficient", "en")


def test_a_language_without_stemmer_keeps_its_words() -> None:
    assert tokenize("Слова слово", "uk") == ["слова", "слово"]


def test_a_long_blob_is_one_bounded_token() -> None:
    assert tokenize("a1" * 5000, "xx") == [("a1" * 5000)[:LONGEST]]


@given(st.text())
def test_no_text_yields_a_token_that_could_mark_a_scope_or_end_a_quote(text: str) -> None:
    for token in tokenize(text, "en"):
        assert token
        assert not token.startswith("_")
        assert not set(token) & set(' "\n\0')
        assert token.isascii() or not token.isspace()


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_ascii_text_gives_the_same_tokens_on_both_paths(text: str) -> None:
    assert tokenize(text + " é", "xx")[: len(tokenize(text, "xx"))] == tokenize(text, "xx")


def test_threads_do_not_disturb_each_other() -> None:
    text = " ".join(f"running{n} connections{n} tested" for n in range(2000))
    alone = tokenize(text, "en")

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tokenize(text, "en"), range(12)))

    assert all(result == alone for result in results)
