//! The same operations, from a seed, to this server and to real etcd, one by one: answers, headers, errors, watch events and
//! hashes must be the same. QUORATE_DIFF_OPS and QUORATE_DIFF_SEED raise and vary it; QUORATE_DIFF_MINIMIZE=1 shortens what
//! led to the first difference. Needs QUORATE_ETCD_BIN_DIR; skips without it.

mod generate;
mod pair;
mod side;

use std::collections::BTreeMap;

use generate::{Generator, Op};
use pair::{Difference, ETCD_PANICS, Pair};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// As many differences as are printed.
const SHOWN: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_operations_have_the_same_answers() {
    let Some(bin) = std::env::var_os("QUORATE_ETCD_BIN_DIR") else {
        println!("skipped: QUORATE_ETCD_BIN_DIR names no directory with etcd");
        return;
    };
    let etcd = std::path::PathBuf::from(bin).join("etcd");
    let (ops, seed) = (number("QUORATE_DIFF_OPS", 1_600), number("QUORATE_DIFF_SEED", 5));
    let mut generator = Generator::new(seed);
    let mut pair = Pair::start(&etcd).await;
    let mut done: Vec<Op> = Vec::new();
    let mut found: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut last = None;
    let begin = std::time::Instant::now();
    for at in 0..ops as usize {
        generator.revision = pair.revision;
        let op = generator.next();
        done.push(op.clone());
        let Err(difference) = pair.run(&generator, &op).await else {
            continue;
        };
        if difference.kind == ETCD_PANICS {
            println!("operation {at}, seed {seed}: etcd panics, as it does: the rest is left out");
            break;
        }
        let entry = found.entry(difference.kind.clone()).or_insert((0, String::new()));
        entry.0 += 1;
        if entry.0 == 1 {
            entry.1 = format!(
                "operation {at}, seed {seed}: {}\n{}",
                generator.describe(&op),
                difference.text
            );
            println!("DIFFERENT {}\n{}\n", difference.kind, entry.1);
        }
        last = Some(difference.kind);
        if difference.fatal || found.len() > SHOWN {
            break;
        }
    }
    println!(
        "{} operations in {:.0?}, seed {seed}\n{}",
        done.len(),
        begin.elapsed(),
        pair.table()
    );
    drop(pair);
    if let Some(kind) = &last {
        if number("QUORATE_DIFF_MINIMIZE", 0) == 1 {
            let short = minimize(&etcd, &generator, done, kind).await;
            println!("{} operations lead to {kind}:", short.len());
            short.iter().for_each(|op| println!("  {}", generator.describe(op)));
        } else {
            println!("the operations before:");
            done.iter()
                .rev()
                .take(12)
                .rev()
                .for_each(|op| println!("  {}", generator.describe(op)));
        }
    }
    let kinds: Vec<String> = found
        .iter()
        .map(|(kind, (times, _))| format!("{times} times {kind}"))
        .collect();
    assert!(found.is_empty(), "seed {seed}: {kinds:#?}");
}

/// Fewer operations that end in the same kind of difference, by leaving out ever smaller parts.
async fn minimize(etcd: &std::path::Path, generator: &Generator, mut ops: Vec<Op>, kind: &str) -> Vec<Op> {
    let mut runs = number("QUORATE_DIFF_MINIMIZE_RUNS", 60);
    let mut part = ops.len().div_ceil(2);
    while part > 0 && runs > 0 {
        let mut at = 0;
        while at < ops.len() && runs > 0 {
            runs -= 1;
            let mut fewer = ops.clone();
            fewer.drain(at..(at + part).min(ops.len()));
            let mut pair = Pair::start(etcd).await;
            let mut until = None;
            for (at, op) in fewer.iter().enumerate() {
                if let Err(Difference { kind: found, .. }) = pair.run(generator, op).await
                    && found == kind
                {
                    until = Some(at + 1);
                    break;
                }
            }
            match until {
                Some(until) => {
                    fewer.truncate(until);
                    ops = fewer;
                }
                None => at += part,
            }
        }
        part /= 2;
    }
    ops
}
