//! What changed since a snapshot.

use super::harness::{Server, path};
use serde_json::{Value, json};

fn range(blocks: std::ops::Range<u64>, state: &str) -> Value {
    json!({ "offset": blocks.start * 4096, "length": (blocks.end - blocks.start) * 4096, "state": state })
}

#[tokio::test]
async fn changes_are_told_by_page_up_to_a_snapshot_or_the_volume() {
    let server = Server::start().await;
    let volume = server.create(json!({ "size": "8M" })).await;
    server.fill(&volume, 0..100, 1).await;
    let old = server.snapshot(&volume, "old").await;
    server.fill(&volume, 5..7, 2).await;
    server.fill(&volume, 300..301, 0).await;
    let new = server.snapshot(&volume, "new").await;
    let head = server.volume(volume["id"].as_str().unwrap()).unwrap().volume.clone();
    let trim = move || async move {
        head.trim(50 * 4096, 10 * 4096, sandstone_storage::Durability::Volatile).await
    };
    server.admin.store_thread.run(trim).await.unwrap();
    server.call("PATCH", &path(&volume), r#"{"size":"16M"}"#).await.data(200);

    let (from, to) = (old["id"].as_str().unwrap(), new["id"].as_str().unwrap());
    let ask = async |query: String| {
        server.call("GET", &format!("{}/diff?{query}", path(&volume)), "").await.data(200)
    };
    let written = range(5..7, "data");
    let page = ask(format!("from={from}&to={to}")).await;
    assert_eq!((&page["from"], &page["to"]), (&old["id"], &new["id"]));
    assert_eq!((&page["size_bytes"], &page["next_offset"]), (&json!(8 << 20), &Value::Null));
    assert_eq!(page["ranges"][0], written);

    let whole = ask(format!("from={from}")).await;
    assert_eq!((&whole["to"], &whole["size_bytes"]), (&json!("head"), &json!(16 << 20)));
    let ranges = whole["ranges"].as_array().unwrap();
    assert!(ranges.contains(&written) && ranges.contains(&range(50..60, "hole")), "{whole}");
    let mut paged = Vec::new();
    let mut offset = json!(0);
    while !offset.is_null() {
        let page = ask(format!("from={from}&to=head&limit=1&offset={offset}")).await;
        assert!(page["ranges"].as_array().unwrap().len() <= 1);
        paged.extend(page["ranges"].as_array().unwrap().clone());
        offset = page["next_offset"].clone();
    }
    assert_eq!(&paged, ranges);
    let end = ask(format!("from={from}&offset={}", 16 << 20)).await;
    assert_eq!((&end["ranges"], &end["next_offset"]), (&json!([]), &Value::Null));
    assert_eq!(ask(format!("from={to}&to={to}")).await["ranges"], json!([]));
}

#[tokio::test]
async fn bad_ids_are_404_and_bad_numbers_400_with_their_range() {
    let server = Server::start().await;
    let (volume, other) =
        (server.create(json!({ "size": "8M" })).await, server.create(json!({})).await);
    let snapshot = server.snapshot(&volume, "s").await;
    let foreign = server.snapshot(&other, "f").await;
    let (id, foreign) = (snapshot["id"].as_str().unwrap(), foreign["id"].as_str().unwrap());
    let diff = format!("{}/diff", path(&volume));
    for query in [
        format!("from={foreign}"),
        "from=x".to_owned(),
        format!("from={id}&to={foreign}"),
        format!("from={id}&to=HEAD"),
        format!("from={}", volume["id"].as_str().unwrap()),
    ] {
        server.call("GET", &format!("{diff}?{query}"), "").await.error(404, "not_found");
    }
    let missing = json!({ "id": "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de" });
    server
        .call("GET", &format!("{}/diff?from={id}", path(&missing)), "")
        .await
        .error(404, "not_found");
    for (query, field, words) in [
        (String::new(), "from", "not absent"),
        (format!("from={id}&limit=0"), "limit", "from 1 to 65536"),
        (format!("from={id}&limit=65537"), "limit", "from 1 to 65536"),
        (format!("from={id}&offset=-1"), "offset", "from 0 to 8388608"),
        (format!("from={id}&offset=8388609"), "offset", "from 0 to 8388608"),
        (format!("from={id}&offset=x"), "offset", "not \"x\""),
    ] {
        let error =
            server.call("GET", &format!("{diff}?{query}"), "").await.error(400, "bad_request");
        assert_eq!(error["details"]["field"], field, "{query}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
}
