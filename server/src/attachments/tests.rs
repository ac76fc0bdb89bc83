use super::{
    attachment::*,
    table::{CLOSE_SEEN_TIME_MAX, LEAVING_TIME_MAX},
    *,
};
use crate::{
    api::{AccessMode, MountState},
    record::now,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// The handle of a client that stays until the test says otherwise.
#[derive(Default)]
struct TestHandle {
    cut_off: AtomicUsize,
    is_closing: AtomicBool,
}

impl ConnectionHandle for TestHandle {
    fn disconnect(&self) {
        self.cut_off.fetch_add(1, SeqCst);
    }

    fn is_closing(&self) -> bool {
        self.is_closing.load(SeqCst)
    }
}

fn peer(name: &str) -> Holder {
    Holder::Peer(name.to_owned())
}

async fn attach(attachments: &Arc<Attachments>, holder: Holder) -> Result<AttachedGuard, Refused> {
    attach_on(attachments, holder, &Arc::default()).await
}

async fn attach_on(
    attachments: &Arc<Attachments>,
    holder: Holder,
    handle: &Arc<TestHandle>,
) -> Result<AttachedGuard, Refused> {
    let handle = Arc::clone(handle) as Arc<dyn ConnectionHandle>;
    attachments
        .attach(Connection { holder, export_name: "disk".into(), since: now(), handle })
        .await
}

async fn mount(attachments: &Attachments, sandbox: &str) -> Result<(Session, Access), Refused> {
    let session = Session::generate();
    match attachments.mount(session, mounting(sandbox)).await? {
        Granted::New(access) => Ok((session, access)),
        Granted::Again(_) => panic!("{sandbox} has it already"),
    }
}

fn mounting(sandbox: &str) -> MountInfo {
    MountInfo {
        holder: format!("sandbox {sandbox}"),
        export_name: "id".into(),
        mount_point: "/work".into(),
        since: now(),
    }
}

fn holder_of(refused: Refused) -> String {
    match refused {
        Refused::Held { by, leaving: false } => by.holder,
        Refused::Held { leaving: true, .. }
        | Refused::Closed(_)
        | Refused::NoMount
        | Refused::Stale
        | Refused::Restored { .. }
        | Refused::MountRestored { .. } => panic!("{refused:?}"),
    }
}

#[tokio::test]
async fn connections_of_one_holder_are_one_attachment() {
    let attachments = Attachments::new(AccessMode::Rwx);
    let first = attach(&attachments, peer("process 1")).await.unwrap();
    let _second = attach(&attachments, peer("process 1")).await.unwrap();
    let _other = attach(&attachments, peer("process 2")).await.unwrap();
    let list = attachments.list();
    assert_eq!(list.iter().map(|attachment| attachment.connections).collect::<Vec<_>>(), [2, 1]);
    assert!(!list[0].read_only);
    drop(first);
    assert_eq!(attachments.list()[0].connections, 1);
}

#[tokio::test]
async fn one_holder_writes_and_the_next_is_told_who() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let first = attach(&attachments, peer("process 1")).await.unwrap();
    assert_eq!(first.access(), Access::ReadWrite);
    let more = attach(&attachments, peer("process 1")).await.unwrap();
    let refused = attach(&attachments, peer("process 2")).await.unwrap_err();
    assert!(refused.to_string().contains("process 1"), "{refused}");
    assert_eq!(holder_of(refused.clone()), "process 1");
    assert_eq!(attachments.would_attach(&peer("process 2")).await.unwrap_err(), refused);
    assert_eq!(holder_of(mount(&attachments, "a").await.unwrap_err()), "process 1");
    drop(first);
    assert!(attach(&attachments, peer("process 2")).await.is_err(), "one connection is left");
    drop(more);
    assert_eq!(attachments.would_attach(&peer("process 2")).await, Ok(Access::ReadWrite));
}

#[tokio::test]
async fn of_writers_at_once_one_is_let_in() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let attachments = Arc::clone(&attachments);
            tokio::spawn(async move { attach(&attachments, peer(&format!("process {i}"))).await })
        })
        .collect();
    let mut inside = Vec::new();
    for task in tasks {
        inside.extend(task.await.unwrap());
    }
    assert_eq!(inside.len(), 1);
}

#[tokio::test]
async fn readers_only_and_any_number_of_writers() {
    for (mode, access) in
        [(AccessMode::Rox, Access::ReadOnly), (AccessMode::Rwx, Access::ReadWrite)]
    {
        let attachments = Attachments::new(mode);
        let (_, of_mount) = mount(&attachments, "a").await.unwrap();
        let first = attach(&attachments, peer("process 1")).await.unwrap();
        let second = attach(&attachments, peer("process 2")).await.unwrap();
        assert_eq!([of_mount, first.access(), second.access()], [access; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_going_is_waited_for_but_not_for_ever() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let handle = Arc::new(TestHandle::default());
    let going = attach_on(&attachments, peer("process 1"), &handle).await.unwrap();
    handle.is_closing.store(true, SeqCst);
    let began = tokio::time::Instant::now();
    let refused = attach(&attachments, peer("process 2")).await.unwrap_err();
    assert!(matches!(refused, Refused::Held { leaving: true, .. }), "{refused:?}");
    assert_eq!(began.elapsed(), LEAVING_TIME_MAX);
    let leaves = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(going);
    };
    let (attached, ()) = tokio::join!(attach(&attachments, peer("process 2")), leaves);
    attached.unwrap();
}

#[tokio::test]
async fn a_mount_is_a_right_before_its_first_connection_and_after_its_last() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let (session, access) = mount(&attachments, "a").await.unwrap();
    let status = |connections, state| Some(MountStatus { state, access, connections });
    assert_eq!(attachments.mount_status(session), status(0, MountState::Pending));
    assert_eq!(holder_of(attach(&attachments, peer("process 1")).await.unwrap_err()), "sandbox a");
    assert_eq!(holder_of(mount(&attachments, "b").await.unwrap_err()), "sandbox a");
    let inside = [
        attach(&attachments, Holder::Mount(session)).await.unwrap(),
        attach(&attachments, Holder::Mount(session)).await.unwrap(),
    ];
    assert_eq!(attachments.mount_status(session), status(2, MountState::Mounted));
    assert_eq!(attachments.count(), 1);
    drop(inside);
    assert_eq!(attachments.mount_status(session), status(0, MountState::Mounted));
    assert_eq!(holder_of(mount(&attachments, "b").await.unwrap_err()), "sandbox a");
}

#[tokio::test]
async fn a_session_that_nobody_has_given_opens_nothing() {
    let attachments = Attachments::new(AccessMode::Rwx);
    let (session, _) = mount(&attachments, "a").await.unwrap();
    attachments.unmount(session);
    for session in [session, Session::generate()] {
        let refused = attach(&attachments, Holder::Mount(session)).await.unwrap_err();
        assert_eq!(refused, Refused::NoMount);
    }
}

#[tokio::test]
async fn an_unmounted_holder_counts_until_its_connections_are_gone() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let (session, _) = mount(&attachments, "a").await.unwrap();
    let handle = Arc::new(TestHandle::default());
    let guard = attach_on(&attachments, Holder::Mount(session), &handle).await.unwrap();
    attachments.unmount(session);
    assert_eq!(handle.cut_off.load(SeqCst), 1);
    assert!(attach(&attachments, Holder::Mount(session)).await.is_err());
    assert_eq!(attachments.count(), 1);
    assert!(attach(&attachments, peer("process 1")).await.is_err());
    let leaving = tokio::task::spawn_blocking(move || drop(guard));
    attachments.gone(&Holder::Mount(session)).await;
    leaving.await.unwrap();
    attach(&attachments, peer("process 1")).await.unwrap();
}

#[tokio::test]
async fn a_mount_expires_only_while_nobody_is_connected() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let (session, _) = mount(&attachments, "a").await.unwrap();
    assert!(!attachments.expire(session, Duration::from_secs(60)), "its time is not over");
    let guard = attach(&attachments, Holder::Mount(session)).await.unwrap();
    assert!(!attachments.expire(session, Duration::ZERO), "somebody is connected");
    drop(guard);
    assert!(!attachments.expire(session, Duration::from_secs(60)), "its time has begun anew");
    assert!(attachments.expire(session, Duration::ZERO));
    assert!(!attachments.expire(session, Duration::ZERO), "it has ended already");
    assert_eq!((attachments.count(), attachments.mount_status(session)), (0, None));
}

#[tokio::test]
async fn a_mount_that_is_asked_for_again_waits_anew() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let (session, _) = mount(&attachments, "a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = attachments.mount(Session::generate(), mounting("a")).await.unwrap();
    assert!(matches!(again, Granted::Again(same) if same == session));
    assert!(
        !attachments.expire(session, Duration::from_millis(150)),
        "whoever was just given it may come"
    );
}

#[tokio::test]
async fn a_stale_mount_takes_nobody_in_and_is_in_nobodys_way() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let session = Session::generate();
    attachments.mount_again(session, mounting("a"), Access::ReadWrite, MountState::Stale);
    let refused = attach(&attachments, Holder::Mount(session)).await.unwrap_err();
    assert_eq!(refused, Refused::Stale);
    assert!(refused.to_string().contains("host crash"), "{refused}");
    assert!(!attachments.expire(session, Duration::ZERO), "whoever comes back is to hear why");
    assert_eq!(attachments.count(), 0);
    mount(&attachments, "b").await.unwrap();
}

#[tokio::test]
async fn a_mode_is_not_changed_under_those_whom_it_would_break() {
    let attachments = Attachments::new(AccessMode::Rwx);
    let (first, _) = mount(&attachments, "a").await.unwrap();
    let second = attach(&attachments, peer("process 1")).await.unwrap();
    for mode in [AccessMode::Rwo, AccessMode::Rox] {
        assert_eq!(attachments.set_mode(mode).await.unwrap_err().len(), 2);
    }
    drop(second);
    attachments.set_mode(AccessMode::Rwo).await.unwrap();
    assert_eq!(attachments.set_mode(AccessMode::Rox).await.unwrap_err()[0].holder, "sandbox a");
    assert!(attach(&attachments, peer("process 1")).await.is_err(), "it is RWO now");
    attachments.unmount(first);
    attachments.set_mode(AccessMode::Rox).await.unwrap();
    let (reader, access) = mount(&attachments, "a").await.unwrap();
    attachments.set_mode(AccessMode::Rwo).await.unwrap();
    assert_eq!(access, Access::ReadOnly);
    let inside = attach(&attachments, Holder::Mount(reader)).await.unwrap();
    assert_eq!(inside.access(), Access::ReadOnly, "what it may do was decided when it was mounted");
    assert_eq!(attach(&attachments, peer("process 1")).await.unwrap().access(), Access::ReadWrite);
}

#[tokio::test]
async fn a_closed_door_lets_nobody_in_until_it_is_opened_again() {
    let attachments = Attachments::new(AccessMode::Rwx);
    attachments.close(Closing::Restore, BlockedBy::Attachments).await.unwrap();
    let refused = attach(&attachments, peer("a")).await.unwrap_err();
    assert_eq!(refused, Refused::Closed(Closing::Restore));
    assert!(mount(&attachments, "a").await.is_err());
    assert_eq!(attachments.closing(), Some(Closing::Restore));
    attachments.reopen();
    assert_eq!(attachments.closing(), None);
    let inside = attach(&attachments, peer("a")).await.unwrap();
    assert_eq!(
        attachments.close(Closing::Deletion, BlockedBy::Attachments).await.unwrap_err().len(),
        1
    );
    assert!(attach(&attachments, peer("b")).await.is_ok(), "the door stayed open");
    drop(inside);
    mount(&attachments, "a").await.unwrap();
    assert_eq!(
        attachments.close(Closing::Deletion, BlockedBy::Attachments).await.unwrap_err().len(),
        1
    );
}

#[tokio::test]
async fn readers_are_cut_off_where_only_writers_are_in_the_way() {
    let attachments = Attachments::new(AccessMode::Rox);
    let handle = Arc::new(TestHandle::default());
    let _reader = attach_on(&attachments, peer("r"), &handle).await.unwrap();
    attachments.set_mode(AccessMode::Rwo).await.unwrap();
    let (writer, _) = mount(&attachments, "w").await.unwrap();
    let blocking = attachments.close(Closing::Restore, BlockedBy::Writers).await.unwrap_err();
    assert_eq!((blocking.len(), blocking[0].holder.as_str()), (1, "sandbox w"));
    assert_eq!(handle.cut_off.load(SeqCst), 0);
    attachments.unmount(writer);
    attachments.close(Closing::Restore, BlockedBy::Writers).await.unwrap();
    assert_eq!(handle.cut_off.load(SeqCst), 1);
}

#[tokio::test]
async fn cutting_off_reaches_everyone_and_waiting_ends_when_they_are_gone() {
    let attachments = Attachments::new(AccessMode::Rwx);
    let handle = Arc::new(TestHandle::default());
    let (session, _) = mount(&attachments, "a").await.unwrap();
    let mut guards = Vec::new();
    for holder in [peer("process 1"), peer("process 2"), Holder::Mount(session)] {
        guards.push(attach_on(&attachments, holder, &handle).await.unwrap());
    }
    attachments.close(Closing::Deletion, BlockedBy::Nothing).await.unwrap();
    assert_eq!(handle.cut_off.load(SeqCst), 3);
    let leaving = tokio::task::spawn_blocking(move || drop(guards));
    attachments.empty().await;
    leaving.await.unwrap();
    assert_eq!(attachments.unmount_all(), [session]);
    assert_eq!(attachments.count(), 0);
    attachments.empty().await;
}

#[tokio::test]
async fn the_same_holder_at_the_same_place_has_its_mount_again() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let (first, _) = mount(&attachments, "a").await.unwrap();
    let asked = |info: MountInfo| attachments.mount(Session::generate(), info);
    assert_eq!(asked(mounting("a")).await, Ok(Granted::Again(first)));
    let elsewhere = MountInfo { mount_point: "/data".into(), ..mounting("a") };
    assert_eq!(holder_of(asked(elsewhere).await.unwrap_err()), "sandbox a");
    assert_eq!(holder_of(asked(mounting("b")).await.unwrap_err()), "sandbox a");
    attachments.unmount(first);
    let (second, _) = mount(&attachments, "a").await.unwrap();
    assert_ne!(first, second);
    // What a host crash has made worthless is not given again.
    attachments.mount_again(second, mounting("a"), Access::ReadWrite, MountState::Stale);
    mount(&attachments, "a").await.unwrap();
}

/// A client has closed its connection, and that is seen a little after it has asked for the next
/// thing.
#[tokio::test(start_paused = true)]
async fn a_close_that_is_seen_late_is_waited_for() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let handle = Arc::new(TestHandle::default());
    let going = attach_on(&attachments, peer("process 1"), &handle).await.unwrap();
    let seen = async {
        tokio::time::sleep(CLOSE_SEEN_TIME_MAX / 2).await;
        handle.is_closing.store(true, SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(going);
    };
    let (attached, ()) = tokio::join!(attach(&attachments, peer("process 2")), seen);
    let (closed, ()) =
        tokio::join!(attachments.close(Closing::Restore, BlockedBy::Writers), async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(attached.unwrap());
        });
    closed.unwrap();
}

/// A client closes its connection and asks for a deletion, a restore or another mode at once.
#[tokio::test(start_paused = true)]
async fn a_change_waits_for_those_who_are_going_but_not_for_ever() {
    for why in [Closing::Deletion, Closing::Restore] {
        let attachments = Attachments::new(AccessMode::Rwo);
        let handle = Arc::new(TestHandle::default());
        let going = attach_on(&attachments, peer("process 1"), &handle).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(attachments.close(why, BlockedBy::Writers).await.unwrap_err().len(), 1);
        assert_eq!(attachments.set_mode(AccessMode::Rox).await.unwrap_err().len(), 1);
        assert_eq!(began.elapsed(), 2 * CLOSE_SEEN_TIME_MAX, "it is not going");
        handle.is_closing.store(true, SeqCst);
        assert_eq!(attachments.close(why, BlockedBy::Attachments).await.unwrap_err().len(), 1);
        assert_eq!(began.elapsed(), 2 * CLOSE_SEEN_TIME_MAX + LEAVING_TIME_MAX);
        let gone = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(going);
        };
        let (closed, ()) = tokio::join!(attachments.close(why, BlockedBy::Attachments), gone);
        closed.unwrap();
        assert_eq!(attachments.closing(), Some(why));
    }
}

#[tokio::test]
async fn who_was_attached_before_a_restore_is_refused_with_the_reason() {
    let attachments = Attachments::new(AccessMode::Rwx);
    let (session, _) = mount(&attachments, "a").await.unwrap();
    let before = attach(&attachments, peer("process 1")).await.unwrap();
    attachments.close(Closing::Restore, BlockedBy::Nothing).await.unwrap();
    drop(before);
    attachments.unmount_all();
    let at = now();
    attachments.restored(at);
    attachments.reopen();
    for _ in 0..2 {
        let refused = attach(&attachments, peer("process 1")).await.unwrap_err();
        assert_eq!(refused, Refused::Restored { at });
        let refused = attach(&attachments, Holder::Mount(session)).await.unwrap_err();
        assert_eq!(refused, Refused::MountRestored { at });
        assert!(refused.to_string().contains("restored"), "{refused}");
    }
    assert_eq!(
        attach(&attachments, Holder::Mount(Session::generate())).await.unwrap_err(),
        Refused::NoMount
    );
    let _other = attach(&attachments, peer("process 2")).await.unwrap();
    mount(&attachments, "a").await.unwrap();
    // A deletion that was given up replaces nothing.
    attachments.close(Closing::Deletion, BlockedBy::Nothing).await.unwrap();
    attachments.reopen();
    let _still = attach(&attachments, peer("process 2")).await.unwrap();
}

/// A peer that tries again and again is the client of before; one that comes after a pause is taken
/// for a new one.
#[tokio::test]
async fn a_peer_of_before_a_restore_comes_in_after_it_was_quiet() {
    let attachments = Attachments::new(AccessMode::Rwo);
    let before = attach(&attachments, peer("10.0.0.1")).await.unwrap();
    attachments.close(Closing::Restore, BlockedBy::Nothing).await.unwrap();
    drop(before);
    attachments.restored(now());
    attachments.reopen();
    for step in [FENCE_TIME / 2, FENCE_TIME / 2, FENCE_TIME / 2] {
        attachments.lock().pass(step);
        attach(&attachments, peer("10.0.0.1")).await.unwrap_err();
    }
    // A client that only looks is told the same, and fences no peer for longer.
    attachments.lock().pass(FENCE_TIME / 2);
    attachments.would_attach(&peer("10.0.0.1")).await.unwrap_err();
    attachments.lock().pass(FENCE_TIME / 2);
    attach(&attachments, peer("10.0.0.1")).await.unwrap();
}
