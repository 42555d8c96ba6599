"""API keys: make, list and revoke them."""

import asyncio

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call, existing
from ragqueue.cli.command import Group


@click.group("keys", cls=Group)
def keys_group() -> None:
    """Create, list and revoke API keys."""


@keys_group.command("create")
@click.argument("name")
@options.tenant
@options.data
@options.json
def keys_create(name: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Make a key and print it. It cannot be shown again."""
    from ragqueue.records import keys

    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    key = asyncio.run(call.write(keys.create, tenant, name))
    if as_json:
        call.show({"key": key, "tenant": tenant, "name": name})
    else:
        print(key)


@keys_group.command("list")
@options.data
@options.json
def keys_list(data: str | None, as_json: bool) -> None:
    """List keys."""
    from ragqueue.records import keys

    call = Call({"data": data}, as_json=as_json)
    rows = asyncio.run(call.read(keys.listed))
    call.show({"keys": rows}, "id", "tenant", "name", "revoked_at")


@keys_group.command("revoke")
@click.argument("key_id")
@options.data
@options.json
def keys_revoke(key_id: str, data: str | None, as_json: bool) -> None:
    """End a key's validity, at once."""
    from ragqueue.records import keys

    call = Call({"data": data}, as_json=as_json)
    revoked = asyncio.run(call.write(keys.revoke, key_id))
    existing(revoked, f"valid key {key_id!r}")
    call.show({"revoked": key_id})
