//! Requests at once, on ranges that may overlap, perhaps with a copy of the volume made among them.
//! Each block must end as some order of them leaves it (a request may be cut where staging ends, so
//! blocks are the unit).

use crate::{
    model::family::Model,
    model::plain::{Cell, Edit, check_range, found},
    model::steps::{Scale, copied},
    world::Random,
};
use futures_util::future::{join, join_all, join3};
use sandstone_storage::{Durability, Store};
use uuid::Uuid;

/// All orders of a few.
fn orders(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, of - 1);
        order
    };
    orders(of - 1)
        .iter()
        .flat_map(|order| (0..of).map(|at| insert(order, at)).collect::<Vec<_>>())
        .collect()
}

/// A block after some of the edits, in this order.
fn after(block: usize, before: &Cell, edits: &[&Edit]) -> Cell {
    let mut cell = before.clone();
    edits.iter().for_each(|edit| edit.apply_to(block, &mut cell));
    cell
}

/// Whose write a block of the copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Before,
    Final,
    Between,
}

pub(crate) async fn at_once(
    store: &Store,
    model: &mut Model,
    id: Uuid,
    scale: &Scale,
    random: &mut Random,
) {
    let volume = model.handle(store, id);
    let size = volume.size_bytes();
    let edits: Vec<_> = (0..2 + random.below(2)).map(|_| scale.edit(random, size)).collect();
    let durability = random.pick(&[Durability::Volatile, Durability::Volatile, Durability::Fua]);
    let ranges = [scale.range(random, size), scale.range(random, size)];
    let read = async || {
        for (offset, len) in ranges {
            volume.read(offset, len as u32).await.expect("a read");
        }
        if scale.lineage {
            store.exclusive_bytes(Some(id)).await.expect("the sums");
        }
    };
    let copies = scale.lineage && model.lines.len() < scale.lines_max;
    let copy = (copies && random.one_in(2)).then(|| (model.fresh_id(), random.one_in(2)));
    let make = async || match copy {
        Some((new, true)) => copied(store.create_snapshot(id, new, Vec::new()).await),
        Some((new, false)) => copied(store.create_fork(id, Scale::fork_spec(new)).await),
        None => None,
    };
    let sent = join_all(edits.iter().map(|edit| edit.send(&volume, durability)));
    // The copy takes its turn at any place.
    let (sent, made) = if random.one_in(2) {
        let (made, sent, ()) = join3(make(), sent, read()).await;
        (sent, made)
    } else {
        let (sent, ((), made)) = join(sent, join(read(), make())).await;
        (sent, made)
    };
    let full = sent.contains(&false);

    let first = edits.iter().map(|e| e.blocks().start).min().expect("one at least");
    let end = edits.iter().map(|e| e.blocks().end).max().expect("one at least");
    let now = found(&volume, first..end).await;
    let then = match &made {
        Some(copy) => Some(found(copy, first..end).await),
        None => None,
    };
    let line = model.lines.get_mut(&id).expect("the caller found it");
    let mut twin = line.clone();
    let mut blurred = false;
    for block in first..end {
        let before = line.plain.cells[block].clone();
        let now = &now[block - first];
        let concerned: Vec<&Edit> = edits.iter().filter(|e| e.touches(block)).collect();
        let mut origins = Vec::new();
        let mut rewritten = Vec::new();
        for order in orders(concerned.len()) {
            let order: Vec<&Edit> = order.iter().map(|i| concerned[*i]).collect();
            // Of a full store any of them may not have come that far.
            for done in if full { 0..=order.len() } else { order.len()..=order.len() } {
                if !after(block, &before, &order[..done]).equals(now) {
                    continue;
                }
                for seen in 0..=done {
                    let origin = match seen {
                        _ if seen == done => Origin::Final,
                        0 => Origin::Before,
                        _ => Origin::Between,
                    };
                    let fits = then.as_ref().is_none_or(|then| {
                        after(block, &before, &order[..seen]).equals(&then[block - first])
                    });
                    if fits {
                        origins.push(origin);
                        rewritten.push(done > 0);
                    }
                }
            }
        }
        assert!(!origins.is_empty(), "block {block} of {id} is as no order of {edits:?} leaves it");
        // What was there may have been written again with the same bytes, or not at all.
        let data = |cell: &Cell| matches!(cell, Cell::Data(_));
        blurred |= data(now) && rewritten.contains(&true) && rewritten.contains(&false);
        let fresh = if rewritten[0] { now.clone() } else { before.clone() };
        if let Some(then) = &then {
            blurred |=
                data(&then[block - first]) && origins.iter().any(|origin| *origin != origins[0]);
            twin.plain.cells[block] = match origins[0] {
                Origin::Before => before,
                Origin::Final => fresh.clone(),
                Origin::Between => then[block - first].clone(),
            };
        }
        line.plain.cells[block] = fresh;
    }
    let plain = line.plain.clone();
    if blurred {
        model.blurred.insert(twin.family);
    }
    if let (Some((new, snapshot)), Some(_)) = (copy, made) {
        twin.snapshot_of = snapshot.then_some(id);
        twin.attributes = Vec::new();
        model.lines.insert(new, twin);
    }
    for (offset, len) in ranges {
        check_range(&volume, &plain, offset, len).await;
    }
}
