//! The report for people: what was wrong, and a line per category.

use super::report::{DataplaneReport, FaultReport, Report};

fn mark(right: bool) -> &'static str {
    if right { "✓" } else { "✗" }
}

impl Report {
    /// The report for people.
    pub fn table(&self) -> String {
        let tables: Vec<_> = self.dataplanes.iter().map(DataplaneReport::table).collect();
        tables.join("\n")
    }
}

impl DataplaneReport {
    fn table(&self) -> String {
        let mut text = format!("{} (up in {:.1} s)\n", self.dataplane, self.up_seconds);
        text.push_str(&self.misses());
        text.push_str(&self.categories());
        text.push_str(&self.summary());
        text
    }

    /// What was not told as expected.
    fn misses(&self) -> String {
        let faults: Vec<_> = self.faults.iter().filter(|fault| !fault.is_right()).collect();
        if faults.is_empty() {
            return String::new();
        }
        let mut table =
            crate::status::table(&["FAULT", "EXPECTED", "GOT", "NODE", "HOOK", "CAUSE", "WAY", "OBJECT"]);
        for fault in faults {
            table.add_row([
                fault.fault.as_str(),
                &fault.expected.to_string(),
                &fault.got.to_string(),
                mark(fault.right_node),
                mark(fault.right_hook),
                mark(fault.right_cause),
                mark(fault.right_direction),
                fault.right_object.map_or("", mark),
            ]);
        }
        format!("{table}\n")
    }

    fn categories(&self) -> String {
        let mut table = crate::status::table(&[
            "CATEGORY", "FAULTS", "NODE", "HOOK", "CAUSE", "WAY", "OBJECT", "TIME", "PACKETS",
        ]);
        let mut names: Vec<_> = self.faults.iter().map(|fault| fault.category).collect();
        names.dedup();
        for name in names {
            let faults: Vec<_> = self.faults.iter().filter(|fault| fault.category == name).collect();
            table.add_row(row(name, &faults));
        }
        table.add_row(row("all", &self.faults.iter().collect::<Vec<_>>()));
        format!("{table}\n")
    }

    fn summary(&self) -> String {
        let reachable = self.healthy.iter().filter(|flow| flow.right).count();
        let wrong = self.healthy.iter().filter(|flow| !flow.right);
        let wrong: Vec<_> = wrong.map(|flow| format!("  ✗ {}: {}\n", flow.probe, flow.got)).collect();
        let mean = mean(self.healthy.iter().map(|flow| flow.seconds));
        format!(
            "{} healthy flows: {reachable} reachable without a fault point or an anomaly, {mean:.2} s each\n{}",
            self.healthy.len(),
            wrong.concat(),
        )
    }
}

fn row(name: &str, faults: &[&FaultReport]) -> [String; 9] {
    let count =
        |right: fn(&FaultReport) -> bool| faults.iter().filter(|fault| right(fault)).count().to_string();
    let objects: Vec<_> = faults.iter().filter_map(|fault| fault.right_object).collect();
    let named = objects.iter().filter(|named| **named).count();
    [
        name.to_owned(),
        faults.len().to_string(),
        count(|fault| fault.right_node),
        count(|fault| fault.right_hook),
        count(|fault| fault.right_cause),
        count(|fault| fault.right_direction),
        format!("{named}/{}", objects.len()),
        format!("{:.2} s", mean(faults.iter().map(|fault| fault.seconds))),
        format!("{:.1}", mean(faults.iter().map(|fault| f64::from(fault.packets)))),
    ]
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = u32::try_from(values.len().max(1)).unwrap_or(u32::MAX);
    // Of nothing, -0.0.
    values.sum::<f64>().abs() / f64::from(count)
}
