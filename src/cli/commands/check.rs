//! `check`: whether the repository is sound.

use clap::Args;
use serde_json::json;
use treering::repository::{CheckOptions, CheckReport, Fault, Repository, Unseen};

use crate::cli::error::{CliError, Exit};
use crate::cli::report::{complain, plural, print, size};
use crate::cli::{Session, cold, json, secrets};

/// Verify the repository
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Read and check all data, not only what describes it
    #[arg(long)]
    pub read_data: bool,
}

/// Checks the repository; a fault is a failure, and so is what cannot be looked at.
pub fn run(session: &Session, arguments: &CheckArguments) -> Result<Exit, CliError> {
    let options = CheckOptions { read_data: arguments.read_data, ..CheckOptions::default() };
    // Much can be checked without a key; but who has one shall not forget it.
    let opened = match secrets::is_attended() {
        true => session.open_readable(),
        false => session.open_with_what_is_given(),
    };
    let report = match opened {
        Ok(repository) => session.watch(|progress| repository.check(&options, progress))?,
        Err(CliError::Repository(error)) => {
            let path = session.repository_path()?;
            let cold = cold::reader(path)?;
            session.watch(|progress| Repository::check_unopened(path, error, cold, &options, progress))?
        }
        Err(error) => return Err(error),
    };
    print(|out| {
        if session.json {
            return json::message(out, "check", &document(&report));
        }
        for fault in &report.faults {
            complain(&fault.to_string());
        }
        for Unseen { first: Fault { what, affects }, count, .. } in &report.out_of_reach {
            let what = match count.saturating_sub(1) {
                0 => what.clone(),
                more => format!("{what}; {} for the same reason", plural(more, "more thing")),
            };
            let all = Fault { what, affects: affects.clone() };
            complain(&format!("out of reach, so not checked: {all}"));
        }
        if session.quiet { Ok(()) } else { writeln!(out, "{}", sentence(&report, options.read_data)) }
    })?;
    let is_all_well = report.faults.is_empty() && report.out_of_reach.is_empty();
    Ok(if is_all_well { Exit::Done } else { Exit::Failed })
}

fn sentence(report: &CheckReport, read_data: bool) -> String {
    let read = match read_data {
        true => format!("; read {} and {}", plural(report.layers, "layer"), size(report.bytes_read)),
        false => String::new(),
    };
    let verdict = match report.faults.len() as u64 {
        0 => "no faults".into(),
        faults => plural(faults, "fault"),
    };
    let verdict = match report.out_of_reach.iter().map(|unseen| unseen.count).sum() {
        0 => verdict,
        unseen => format!("{verdict}, {} out of reach", plural(unseen, "thing")),
    };
    if report.unread > 0 {
        return format!(
            "Checked {} and {} without a key, so {} not decrypted{read}: {verdict}",
            plural(report.snapshots, "snapshot"),
            plural(report.volumes, "volume"),
            plural(report.unread, "blob"),
        );
    }
    format!(
        "Checked {}, {} and {} in {}{read}: {verdict}",
        plural(report.snapshots, "snapshot"),
        plural(report.pages, "page"),
        plural(report.segments, "segment"),
        plural(report.volumes, "volume"),
    )
}

fn document(report: &CheckReport) -> serde_json::Value {
    let fault = |Fault { what, affects }: &Fault| json!({ "message": what, "affects": affects });
    let unseen = |Unseen { first, count, .. }: &Unseen| json!({ "message": first.what, "affects": first.affects, "count": count });
    json!({
        "snapshots_count": report.snapshots,
        "pages_count": report.pages,
        "segments_count": report.segments,
        "volumes_count": report.volumes,
        "layers_count": report.layers,
        "bytes_read": report.bytes_read,
        "blobs_unread": report.unread,
        "faults": report.faults.iter().map(fault).collect::<Vec<_>>(),
        "out_of_reach": report.out_of_reach.iter().map(unseen).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_tells_what_was_read_only_where_it_was() {
        let report =
            CheckReport { snapshots: 1, pages: 2, segments: 3, volumes: 1, ..CheckReport::default() };
        assert_eq!(
            sentence(&report, false),
            "Checked 1 snapshot, 2 pages and 3 segments in 1 volume: no faults"
        );
        assert!(sentence(&report, true).ends_with("; read 0 layers and 0 B: no faults"));
    }
}
