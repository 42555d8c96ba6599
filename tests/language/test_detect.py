"""Guessing languages."""

import pytest

from ragqueue.language.detect import detect


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (
            "The queue keeps every job until it has ended, and nothing that was promised is lost.",
            "en",
        ),
        (
            "Die Warteschlange behält jeden Auftrag, bis er beendet ist, "
            "und nichts Versprochenes geht verloren.",
            "de",
        ),
        (
            "La cola conserva cada trabajo hasta que termina, y nada de lo prometido se pierde.",
            "es",
        ),
        (
            "La file conserve chaque tâche jusqu'à sa fin, "
            "et rien de ce qui a été promis n'est perdu.",
            "fr",
        ),
        (
            "Очередь хранит каждое задание до его завершения, и ничего из обещанного не теряется.",
            "ru",
        ),
        ("队列会保留每个任务直到结束。", "zh"),
        ("キューは仕事が終わるまで保持します。", "ja"),
        ("대기열은 작업이 끝날 때까지 유지합니다.", "ko"),
        ("คิวจะเก็บงานทุกงานไว้จนเสร็จ", "th"),
    ],
)
def test_a_sentence_tells_its_language(text: str, language: str) -> None:
    assert detect(text) == language


@pytest.mark.parametrize("text", ["", "12345", "pip install", "Qué"[:2], "???", "→ 123"])
def test_what_is_too_short_to_tell_is_english(text: str) -> None:
    assert detect(text) == "en"


def test_a_few_foreign_characters_do_not_decide() -> None:
    text = "The character 水 means water, and this sentence about it is written in English."

    assert detect(text) == "en"
