"""Complete the receipts of erasures, once no copy of what was erased is left in the file."""

from ragqueue.records import erasures
from ragqueue.records.store import Records


async def compact(records: Records) -> None:
    """Leave no copy of deleted rows in the database file, then complete the receipts.

    Raises StoreFull, Unavailable.
    """
    async with records.compacting:  # who waited for another's is served by it
        cleared = await records.read(erasures.cleared)
        if cleared:
            await records.compact()
            await records.write(erasures.note_erased, cleared)
