"""Documents: list, show and delete them."""

import asyncio
from typing import TYPE_CHECKING

import click
from msgspec import structs

from ragqueue.cli import options
from ragqueue.cli.call import Call, existing, opened
from ragqueue.cli.command import Group

if TYPE_CHECKING:
    from ragqueue.records.erasures import Receipt

ALL = 100_000  # documents that a list shows, at most
COLUMNS = ("id", "collection", "source", "state", "chunks", "error")


@click.group("docs", cls=Group)
def docs_group() -> None:
    """List, show and delete documents."""


@docs_group.command("list")
@options.collection
@options.tenant
@options.data
@options.json
def docs_list(collection: str | None, tenant: str, data: str | None, as_json: bool) -> None:
    """List documents."""
    from ragqueue.records import documents

    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    rows = asyncio.run(
        call.read(documents.listed, tenant, collection=collection, after="", limit=ALL)
    )
    call.show({"documents": [structs.asdict(document) for document in rows]}, *COLUMNS)


@docs_group.command("show")
@click.argument("document_id")
@click.option("--text", is_flag=True, help="Print the canonical text")
@options.tenant
@options.data
@options.json
def docs_show(document_id: str, text: bool, tenant: str, data: str | None, as_json: bool) -> None:
    """Show a document."""
    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    asyncio.run(_show(call, document_id, text))


async def _show(call: Call, document_id: str, text: bool) -> None:
    """Show a document, or print its canonical text. Raises NotFound."""
    from ragqueue.records import documents

    row = await call.read(documents.get, call.tenant, document_id)
    document = existing(row, f"document {document_id!r}")
    if not text:
        call.show(structs.asdict(document))
        return
    version = await call.read(documents.text_of, call.tenant, document_id, None)
    canonical, _ = existing(version, f"text of {document_id!r}")
    print(canonical)


@docs_group.command("delete")
@click.argument("document_id")
@options.tenant
@options.data
@options.json
def docs_delete(document_id: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Delete a document. Everything that quotes it goes, too."""
    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    receipt = asyncio.run(_delete(call, document_id))
    call.show(receipt._asdict())


async def _delete(call: Call, document_id: str) -> "Receipt":
    """Delete a document, and return its receipt once it is erased. Raises NotFound."""
    async with opened(call) as ragqueue:
        return await ragqueue.delete(document_id)
