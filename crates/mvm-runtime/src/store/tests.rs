use super::*;

fn store() -> (tempfile::TempDir, Home, Store) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path().join("home"));
    let store = Store::open(&home).unwrap();
    (dir, home, store)
}

fn request(name: &str) -> CreateRequest {
    CreateRequest { name: name.into(), ttl_ms: Some(60_000), ..CreateRequest::default() }
}

#[test]
fn a_name_is_taken_by_the_living_and_free_after_the_end() {
    let (_dir, _, mut store) = store();
    store.create("mvm-1", &request("box"), "d", &Policy::default()).unwrap();
    assert_eq!(
        store.create("mvm-2", &request("box"), "d", &Policy::default()).unwrap_err().code,
        ErrorCode::AlreadyExists
    );
    store.destroyed("mvm-1", "asked", DeletionReport { id: "mvm-1".into(), ..Default::default() }).unwrap();
    assert!(store.create("mvm-2", &request("box"), "d", &Policy::default()).unwrap().1);
    assert_eq!(store.find("box").unwrap().id, "mvm-2");
    assert_eq!(store.find_destroyed("box").unwrap().unwrap().report.unwrap().id, "mvm-1");
}

#[test]
fn the_report_of_an_end_says_where_the_audit_log_has_it() {
    let (_dir, _, mut store) = store();
    store.create("mvm-1", &request("box"), "d", &Policy::default()).unwrap();
    let report = store.destroyed("mvm-1", "asked", DeletionReport::default()).unwrap();
    let entry = store.evidence().log().entry(report.audit_id.unwrap()).unwrap();
    assert_eq!((entry.event.as_str(), entry.sandbox.as_deref()), ("sandbox.destroyed", Some("mvm-1")));
    let again = store.destroyed("mvm-1", "again", DeletionReport { name: "other".into(), ..Default::default() });
    assert_eq!(again.unwrap(), report);
}

#[test]
fn a_policy_that_cannot_be_read_allows_nothing() {
    let (_dir, home, mut store) = store();
    store.create("mvm-1", &request("box"), "d", &Policy::default()).unwrap();
    store.db.execute("UPDATE sandboxes SET policy = '{}'", []).unwrap();
    let policy = Store::open(&home).unwrap().get("mvm-1").unwrap().policy;
    let plan = policy.admit(crate::policy::Operation::Exec, &crate::policy::Ask::default());
    assert!(!plan.allowed && plan.denials[0].rule == "profile.recorded");
    assert!(crate::policy::first_missing(&policy.require, &[]).is_some());
    store.destroyed("mvm-1", "asked", DeletionReport::default()).unwrap();
}

#[test]
fn every_change_is_recorded_with_its_cause() {
    let (_dir, home, mut store) = store();
    store.create("mvm-1", &request("box"), "d", &Policy::default()).unwrap();
    assert_eq!(store.apply("mvm-1", Action::Ready, "answered").unwrap(), Outcome::Moved);
    assert_eq!(store.apply("mvm-1", Action::Stop, "asked").unwrap(), Outcome::Moved);
    assert_eq!(store.apply("mvm-1", Action::Stop, "asked again").unwrap(), Outcome::Already);
    assert_eq!(store.apply("mvm-1", Action::Ready, "late").unwrap_err().code, ErrorCode::InvalidState);
    // As another process sees it.
    let history = Store::open(&home).unwrap().history("mvm-1").unwrap();
    let causes: Vec<&str> = history.iter().map(|change| change.cause.as_str()).collect();
    assert_eq!(causes, ["answered", "asked"]);
    assert_eq!((history[1].from, history[1].to), (State::Running, State::Stopped));
}

#[test]
fn a_repeated_request_creates_once_and_another_one_is_refused() {
    let (_dir, _, mut store) = store();
    let keyed = CreateRequest { idempotency_key: "k".into(), ..request("box") };
    assert!(store.create("mvm-1", &keyed, "d", &Policy::default()).unwrap().1);
    let (again, new) = store.create("mvm-2", &keyed, "d", &Policy::default()).unwrap();
    assert_eq!((again.id.as_str(), new), ("mvm-1", false));
    let other = CreateRequest { name: "other".into(), ..keyed };
    assert_eq!(store.create("mvm-3", &other, "d", &Policy::default()).unwrap_err().code, ErrorCode::InvalidRequest);
}

#[test]
fn one_of_many_gets_the_name() {
    let (_dir, home, _) = store();
    let create = |n: usize| {
        let mut store = Store::open(&home).unwrap();
        store.create(&format!("mvm-{n}"), &request("box"), "d", &Policy::default()).is_ok()
    };
    let won = std::thread::scope(|scope| {
        let create = &create;
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || create(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}

#[test]
fn many_who_open_a_new_store_at_once_all_can() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let home = &Home::at(dir.path().join("home"));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(move || Store::open(home).map(drop))).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
    }
}

#[test]
fn environments_go_with_the_sandbox() {
    let (_dir, _, mut store) = store();
    let env = [("TOKEN".to_owned(), "secret".to_owned())].into();
    store.create("mvm-1", &CreateRequest { env, ..request("box") }, "d", &Policy::default()).unwrap();
    store.destroyed("mvm-1", "asked", DeletionReport::default()).unwrap();
    assert!(store.get("mvm-1").unwrap().request.env.is_empty());
}
