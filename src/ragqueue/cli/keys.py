"""API keys: make, list and revoke them."""

from ragqueue.cli.call import Call
from ragqueue.records import keys


async def keys_create(call: Call, name: str) -> None:
    """Make a key and print it."""
    key = await call.records(keys.create, call.tenant, name, write=True)
    if call.as_json:
        call.show({"key": key, "tenant": call.tenant, "name": name})
    else:
        print(key)


async def keys_list(call: Call) -> None:
    """List keys."""
    rows = await call.records(keys.listed)
    call.show({"keys": rows}, "id", "tenant", "name", "revoked_at")


async def keys_revoke(call: Call, key_id: str) -> None:
    """End a key's validity, at once."""
    await call.records(keys.revoke, key_id, wanted=f"valid key {key_id!r}", write=True)
    call.show({"revoked": key_id})
