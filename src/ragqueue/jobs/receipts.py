"""Complete the receipts of erasures, once no copy of what was erased is left in the file."""

from ragqueue.records import documents
from ragqueue.records.store import Records


async def compact(records: Records) -> None:
    """Leave no copy of deleted rows in the database file, then complete the receipts. Raises StoreFull, Unavailable."""
    async with records.compacting:  # who waited for another's is served by it
        if cleared := await records.read(documents.cleared):
            await records.compact()
            await records.write(documents.note_erased, cleared)
