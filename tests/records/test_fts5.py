"""SQLite's own index of words: what stands in it, and what does not any more."""

import pytest
from sqlalchemy import Connection

from ragqueue.records import chunks
from ragqueue.records.sqlite import sqlite_module
from ragqueue.types import Space
from tests.library import GENERATION, add
from tests.tables import chunks as chunk_rows

SPACE = Space(tenant="acme", collection="default", generation=GENERATION)
INTEGRITY = "insert into chunk_words (chunk_words, rank) values ('integrity-check', 1)"


def test_the_index_is_sound_after_a_removal(connection: Connection) -> None:
    add(connection, "d", "zebra\ngiraffe")
    add(connection, "e", "zebra")

    chunks.remove(connection, "acme", "d")

    connection.exec_driver_sql(INTEGRITY)


@pytest.mark.skipif(
    sqlite_module.sqlite_version_info < (3, 42),
    reason="this SQLite cannot erase words from FTS5 at once",
)
def test_a_removed_word_leaves_no_bytes_in_the_index(connection: Connection) -> None:
    add(connection, "d", "xylophone")
    add(connection, "e", "zebra")
    pages = "select count(*) from chunk_words_data where instr(block, cast('xylophon' as blob)) > 0"
    assert connection.exec_driver_sql(pages).scalar() == 1

    chunks.remove(connection, "acme", "d")

    assert connection.exec_driver_sql(pages).scalar() == 0


def test_changed_tokens_are_indexed_anew(connection: Connection) -> None:
    numbers = add(connection, "d", "zebra")
    mark = chunks.scope(SPACE)

    connection.execute(chunk_rows.update().values(tokens=f"{mark} giraff"))

    match = "select rowid from chunk_words where chunk_words match ?"
    assert connection.exec_driver_sql(match, ("zebra",)).all() == []
    assert connection.exec_driver_sql(match, ("giraff",)).scalars().all() == numbers
    connection.exec_driver_sql(INTEGRITY)
