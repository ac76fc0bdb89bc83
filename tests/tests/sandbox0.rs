//! The published Python client of Sandbox0 against the admin port.

use std::env;

use sandstone_tests::{Program, Server, skip};

/// Each answer is taken apart by the client's own models, which refuse another status or a missing field.
const SCRIPT: &str = r#"
import sys
import dateutil.parser  # the client needs it and does not say so
from sandbox0 import Client
from sandbox0.apispec.models.create_sandbox_volume_request import CreateSandboxVolumeRequest
from sandbox0.errors import APIError

client = Client(token=sys.argv[2], base_url=sys.argv[1], timeout=30)
assert client.list_volumes() == []
plain = client.create_volume(CreateSandboxVolumeRequest())
assert plain.cache_size == "1G" and plain.buffer_size == "32M", plain
assert plain.prefetch == 0 and plain.writeback is False, plain
tuned = client.create_volume(CreateSandboxVolumeRequest.from_dict({
    "access_mode": "RWX", "cache_size": "128M", "buffer_size": "8M", "prefetch": 4, "writeback": True}))
assert str(tuned.access_mode) == "RWX" and tuned.cache_size == "128M", tuned
assert tuned.buffer_size == "8M" and tuned.prefetch == 4 and tuned.writeback is True, tuned
assert [v.id for v in client.list_volumes()] == [tuned.id, plain.id], "newest first"
again = client.get_volume(tuned.id)
assert again.id == tuned.id and again.created_at == tuned.created_at, again
assert client.delete_volume(plain.id).data.deleted is True
assert client.delete_volume(plain.id).data.deleted is True, "deleting twice is a success"
assert [v.id for v in client.list_volumes()] == [tuned.id]
try:
    client.get_volume(plain.id)
except APIError as error:
    assert error.status_code == 404 and error.code == "not_found", vars(error)
else:
    raise AssertionError("a deleted volume was found")
try:
    Client(token="wrong", base_url=sys.argv[1], timeout=30).list_volumes()
except APIError as error:
    assert error.status_code == 401, vars(error)
else:
    raise AssertionError("a wrong token was let in")
print("agreed")
"#;

#[test]
fn published_client_makes_lists_and_deletes_volumes() {
    let python = env::var("SANDSTONE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_client = sandstone_tests::find_program(&python).is_some()
        && Program::new(&python).args(["-c", "import sandbox0, dateutil"]).run().status.success();
    if !has_client {
        let reason = "no Python with sandbox0==0.1.7 and python-dateutil (tests/run makes one)";
        assert!(!sandstone_tests::ci(), "{reason}");
        skip(reason);
        return;
    }
    let server = Server::start();
    let admin = server.admin();
    let token = admin.token().unwrap();
    let finished =
        Program::new(&python).args(["-c", SCRIPT, admin.base(), token]).env("NO_PROXY", "127.0.0.1").ok();
    assert_eq!(finished.stdout.trim(), "agreed");
}
