//! Power cuts and failed writes at every single operation of a member's life: what was answered is there afterwards, and a
//! member that could not store something does not go on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::{Disk, MemoryDisk};
use prost::Message as _;
use proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader};
use replica::{Config, Input, Output, Replica, Start};

const PUTS: usize = 20;

/// What a member did before it ended.
#[derive(Default, Debug)]
struct Life {
    answered: Vec<String>,
    error: Option<String>,
}

/// Starts a single member, writes, commits now and then, and ends at the first error. Keys are `{prefix}{n}`.
fn live(disk: &MemoryDisk, prefix: &str, puts: usize) -> Life {
    let mut life = Life::default();
    if let Err(error) = try_to_live(disk, prefix, puts, &mut life.answered) {
        life.error = Some(error.to_string());
    }
    life
}

fn try_to_live(
    disk: &MemoryDisk,
    prefix: &str,
    puts: usize,
    answered: &mut Vec<String>,
) -> Result<(), Box<dyn std::error::Error>> {
    let members = [("a".to_owned(), vec!["http://a:2380".to_owned()])].into();
    let config = Config {
        data_dir: PathBuf::from("/data"),
        name: "a".into(),
        start: Start::New {
            members,
            token: "power".into(),
        },
        snapshot_count: 7,
        catch_up_entries: 5,
        ..Config::default()
    };
    let mut now = Duration::from_secs(1);
    let (mut replica, mut writer) = Replica::open(disk.clone(), config, now)?;
    let mut inputs = vec![Input::AdvanceTicks(9)];
    let mut waiting = None;
    let mut written = 0;
    for turn in 0..10_000 {
        if waiting.is_none() && written == puts {
            return Ok(replica.close()?);
        }
        now += Duration::from_millis(30);
        if turn % 2 == 0 {
            inputs.push(Input::Tick);
        }
        if waiting.is_none() && replica.leads() {
            let key = format!("{prefix}{written}");
            let put = PutRequest {
                key: key.clone().into(),
                value: "v".repeat(300).into(),
                ..Default::default()
            };
            let id = replica.ids().next();
            let header = Some(RequestHeader {
                id,
                ..Default::default()
            });
            let request = InternalRaftRequest {
                header,
                put: Some(put),
                ..Default::default()
            };
            inputs.push(Input::Propose(request.encode_to_vec().into()));
            waiting = Some((id, key));
        }
        while !inputs.is_empty() {
            for input in std::mem::take(&mut inputs) {
                let mut jobs = Vec::new();
                for output in replica.step(input, now)? {
                    match output {
                        Output::Persist(job) => jobs.push(job),
                        Output::Commit(job) => inputs.push(Input::Committed(job.run()?)),
                        Output::Applied(answers) => {
                            for (id, result) in answers {
                                result?;
                                if let Some((_, key)) = waiting.take_if(|(wanted, _)| *wanted == id) {
                                    answered.push(key);
                                    written += 1;
                                }
                            }
                        }
                        _ => {}
                    }
                }
                if !jobs.is_empty() {
                    inputs.push(Input::Persisted(writer.persist(jobs)?));
                }
            }
        }
    }
    Err("nothing moves".into())
}

fn assert_holds(disk: &MemoryDisk, keys: &[String], context: &str) {
    let config = Config {
        data_dir: PathBuf::from("/data"),
        name: "a".into(),
        ..Config::default()
    };
    let (mut replica, mut writer) = Replica::open(disk.clone(), config, Duration::ZERO).expect(context);
    let mut jobs = Vec::new();
    for _ in 0..40 {
        for input in [Input::Tick] {
            for output in replica.step(input, Duration::from_secs(1)).expect(context) {
                if let Output::Persist(job) = output {
                    jobs.push(job);
                }
            }
        }
        if !jobs.is_empty() {
            let persisted = writer.persist(std::mem::take(&mut jobs)).expect(context);
            for output in replica
                .step(Input::Persisted(persisted), Duration::from_secs(1))
                .expect(context)
            {
                if let Output::Persist(job) = output {
                    jobs.push(job);
                }
            }
        }
    }
    let view = replica.state().reader().view();
    for key in keys {
        assert!(
            view.get(key.as_bytes()).unwrap().is_some(),
            "{context}: {key} was answered and is lost"
        );
    }
}

fn fresh(seed: u64) -> MemoryDisk {
    let disk = MemoryDisk::new(seed);
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn operations() -> (u64, u64) {
    let disk = fresh(0);
    let begin = disk.operations();
    let life = live(&disk, "k", PUTS);
    assert_eq!((life.answered.len(), &life.error), (PUTS, &None));
    (begin, disk.operations())
}

#[test]
fn power_may_fail_at_any_moment() {
    let (begin, end) = operations();
    assert!(end - begin > 100, "{begin}..{end}");
    for at in begin..end {
        let disk = fresh(at);
        disk.cut_power_at(at);
        let first = live(&disk, "k", PUTS);
        assert!(first.error.is_some() || first.answered.len() == PUTS);
        disk.crash();
        // And once more while it recovers, somewhere.
        disk.cut_power_at(disk.operations() + at % 23);
        let second = live(&disk, "l", 3);
        disk.crash();
        let third = live(&disk, "m", 3);
        assert_eq!(
            third.error, None,
            "cut at {at} of {begin}..{end}, then {:?}",
            second.error
        );
        let answered: Vec<String> = [first.answered, second.answered, third.answered].concat();
        assert_holds(&disk, &answered, &format!("cut at {at}"));
    }
}

#[test]
fn a_failed_operation_ends_the_member_and_loses_nothing() {
    let (begin, end) = operations();
    for at in begin..end {
        let disk = fresh(at);
        disk.fail_at(at, std::io::ErrorKind::StorageFull);
        let first = live(&disk, "k", PUTS);
        // Failing to remove what is not needed any more may be survived; all else is fatal.
        if first.error.is_none() {
            assert_eq!(first.answered.len(), PUTS);
        }
        disk.crash();
        let second = live(&disk, "l", 3);
        assert_eq!(
            second.error, None,
            "failed at {at}, first life ended with {:?}",
            first.error
        );
        let answered: Vec<String> = [first.answered, second.answered].concat();
        assert_holds(&disk, &answered, &format!("failed at {at}"));
    }
}
