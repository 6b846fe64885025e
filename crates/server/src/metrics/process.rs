//! `process_*` and `os_fd_*`, read from /proc at the moment of the scrape. What cannot be read is left out.

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::text::{Kind, Text};

/// Writes all that can be read.
pub(super) fn write(text: &mut Text) {
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        let open = fds.count() as f64;
        text.single(
            "process_open_fds",
            Kind::Gauge,
            "Number of open file descriptors.",
            open,
        );
        text.single("os_fd_used", Kind::Gauge, "The number of used file descriptors.", open);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        text.single(
            "process_max_fds",
            Kind::Gauge,
            "Maximum number of open file descriptors.",
            soft as f64,
        );
        text.single("os_fd_limit", Kind::Gauge, "The file descriptor limit.", soft as f64);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_AS) {
        let help = "Maximum amount of virtual memory available in bytes.";
        text.single("process_virtual_memory_max_bytes", Kind::Gauge, help, soft as f64);
    }
    let conf = |var| sysconf(var).ok().flatten().map(|value| value as f64);
    let (Some(page), Some(tick)) = (conf(SysconfVar::PAGE_SIZE), conf(SysconfVar::CLK_TCK)) else {
        return;
    };
    if let Some(stat) = Stat::read() {
        let cpu = (stat.user_ticks + stat.system_ticks) / tick;
        text.single(
            "process_cpu_seconds_total",
            Kind::Counter,
            "Total user and system CPU time spent in seconds.",
            cpu,
        );
        text.single(
            "process_virtual_memory_bytes",
            Kind::Gauge,
            "Virtual memory size in bytes.",
            stat.virtual_bytes,
        );
        let resident = stat.resident_pages * page;
        text.single(
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory size in bytes.",
            resident,
        );
        if let Some(boot) = boot_time() {
            let help = "Start time of the process since unix epoch in seconds.";
            text.single(
                "process_start_time_seconds",
                Kind::Gauge,
                help,
                boot + stat.start_ticks / tick,
            );
        }
    }
    if let Some((received, sent)) = network() {
        let help = "Number of bytes received by the process over the network.";
        text.single("process_network_receive_bytes_total", Kind::Counter, help, received);
        let help = "Number of bytes sent by the process over the network.";
        text.single("process_network_transmit_bytes_total", Kind::Counter, help, sent);
    }
}

/// Fields of /proc/self/stat (proc(5)).
struct Stat {
    user_ticks: f64,
    system_ticks: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn read() -> Option<Stat> {
        let text = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold spaces; the third field follows the last parenthesis.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Stat {
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

/// Bytes received and sent by the network namespace, as client_golang counts them: the IpExt lines of /proc/self/net/netstat.
fn network() -> Option<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/self/net/netstat").ok()?;
    let mut lines = text.lines().filter(|line| line.starts_with("IpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |name: &str| {
        let at = names.split_whitespace().position(|field| field == name)?;
        values.split_whitespace().nth(at)?.parse::<f64>().ok()
    };
    Some((value("InOctets")?, value("OutOctets")?))
}
