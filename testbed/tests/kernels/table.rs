//! The table of hooks, kernels and providers in the README of `tracer-ebpf`: what it says of a kernel is what that kernel says.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use waymark_proto::{Hook, HookReport, Observability};

const BEGIN: &str = "<!-- hooks -->\n";
const END: &str = "<!-- /hooks -->\n";

/// Providers by kernel and hook, as the cells have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table(BTreeMap<Release, BTreeMap<Hook, String>>);

/// A kernel by major and minor version: `6.12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32);

impl Release {
    fn parse(version: &str) -> Self {
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
        Self(numbers.next().unwrap(), numbers.next().unwrap())
    }
}

/// What a kernel says is what the README has, or becomes it if that is wanted.
pub fn agrees(version: &str, reports: &[HookReport]) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let readme = readme();
    let text = std::fs::read_to_string(&readme).unwrap();
    let mut table = Table::parse(&text);
    let (release, said) = (Release::parse(version), cells(reports));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        table.0.insert(release, said);
        std::fs::write(&readme, table.put_into(&text)).unwrap();
        return;
    }
    assert_eq!(
        table.0.get(&release),
        Some(&said),
        "{} of {version}: UPDATE_GOLDEN=1 writes it",
        readme.display()
    );
}

fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracer-ebpf/README.md")
}

fn cells(reports: &[HookReport]) -> BTreeMap<Hook, String> {
    let cell = |report: &HookReport| match &report.observability {
        Observability::Observed { provider } => provider.replace(", ", "<br>"),
        Observability::NotObservable { why } => format!("— ({why})").replace('|', "\\|"),
    };
    reports.iter().map(|report| (report.hook, cell(report))).collect()
}

impl Table {
    /// The table between its marks; its first row has the releases, its first column the hooks.
    fn parse(text: &str) -> Self {
        let (_, rest) = text.split_once(BEGIN).expect("the table has a mark before it");
        let (rows, _) = rest.split_once(END).expect("the table has a mark behind it");
        let split = |row: &str| -> Vec<String> {
            let row = row.trim_start_matches("| ").trim_end_matches(" |");
            row.split(" | ").map(str::to_owned).collect()
        };
        let mut rows = rows.lines();
        let releases: Vec<_> =
            split(rows.next().unwrap()).iter().skip(1).map(|name| Release::parse(name)).collect();
        let mut table: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for row in rows.skip(1).map(split) {
            let hook = Hook::ALL.iter().find(|hook| hook.name() == row[0]).expect("a row begins with a hook");
            for (release, cell) in releases.iter().zip(&row[1..]) {
                table.entry(release.clone()).or_default().insert(*hook, cell.clone());
            }
        }
        Self(table)
    }

    fn render(&self) -> String {
        let mut text = String::from("| hook |");
        for Release(major, minor) in self.0.keys() {
            let _ = write!(text, " {major}.{minor} |");
        }
        let _ = writeln!(text, "\n|{}", "---|".repeat(self.0.len() + 1));
        for hook in Hook::ALL.iter().filter(|hook| self.0.values().any(|column| column.contains_key(hook))) {
            let _ = write!(text, "| {hook} |");
            for column in self.0.values() {
                let _ = write!(text, " {} |", column.get(hook).map_or("not asked", String::as_str));
            }
            text.push('\n');
        }
        text
    }

    fn put_into(&self, text: &str) -> String {
        let (before, rest) = text.split_once(BEGIN).expect("the table has a mark before it");
        let (_, behind) = rest.split_once(END).expect("the table has a mark behind it");
        format!("{before}{BEGIN}{}{END}{behind}", self.render())
    }
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let report = |hook, provider: &str| HookReport {
        hook,
        netns: None,
        observability: Observability::Observed { provider: provider.to_owned() },
    };
    let table = Table(BTreeMap::from([
        (Release(5, 10), cells(&[report(Hook::Route, "tp_btf/a, kprobe/b"), report(Hook::Qdisc, "c")])),
        (Release(6, 1), cells(&[report(Hook::Route, "tp_btf/a")])),
    ]));
    let text = table.put_into(&format!("before\n{BEGIN}old\n{END}behind\n"));
    assert!(text.starts_with("before\n") && text.ends_with("behind\n"), "{text}");
    assert!(text.contains("| hook | 5.10 | 6.1 |\n|---|---|---|\n"), "{text}");
    let read = Table::parse(&text);
    assert_eq!(read.0[&Release(5, 10)], table.0[&Release(5, 10)]);
    assert_eq!(read.0[&Release(6, 1)][&Hook::Qdisc], "not asked");
}

/// The README is about the kernels that are asked, and no hook that an agent could watch is left out.
#[test]
fn every_hook_is_in_the_readme() {
    let table = Table::parse(&std::fs::read_to_string(readme()).unwrap());
    assert!(table.0.len() >= 4, "{:?}", table.0.keys());
    for (release, column) in &table.0 {
        // Nobody watches what lies between nodes, and injecting is the agent's own work.
        for hook in Hook::ALL.iter().filter(|hook| !matches!(hook, Hook::Wire | Hook::Inject)) {
            assert!(column.contains_key(hook), "{release:?} {hook}");
        }
    }
}
