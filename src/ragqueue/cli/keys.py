"""API keys: make, list and revoke them."""

from ragqueue.cli.call import Call
from ragqueue.records import keys


async def keys_create(call: Call, name: str) -> None:
    key = await call.records(keys.create, call.tenant, name, write=True)
    call.show({"key": key, "tenant": call.tenant, "name": name}) if call.as_json else print(key)


async def keys_list(call: Call) -> None:
    call.show({"keys": await call.records(keys.listed)}, "id", "tenant", "name", "revoked_at")


async def keys_revoke(call: Call, key_id: str) -> None:
    await call.records(keys.revoke, key_id, wanted=f"valid key {key_id!r}", write=True)
    call.show({"revoked": key_id})
