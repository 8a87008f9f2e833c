//! `kvfs check`: the report of a check or a repair, in text or JSON, and its exit code.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, absolute, code, print, start_log};
use crate::base::text::human_size;
use crate::disk::{Access, Opening};
use crate::fs::CheckSummary;
use crate::mount;
use crate::repair::{Report, summary_json};
use crate::store::{Blame, Error};

/// Below the options.
pub const HELP: &str = "\
Without --repair nothing is written. With --repair the report says what a repair would do, and still nothing is written;
--repair --yes does it. A store whose checksums all fit is mended in place. One with damage below is read past the damage and
written anew beside the damaged one, which takes as much space as its live data, and then put in its place: only then is
anything of it removed. Either may be interrupted and begun again. What has no name afterwards is in /lost+found, as #INODE.

Lines of the report:
  damage            what does not check
  lost              where something could not be read
  may be lost or old  the part of a file whose newest content may have been there
  problem           a broken invariant of the filesystem; after damage below, of what could be read
  mended            what was done about it (would mend: in a dry run)
  left              what could not be mended

Exit codes, as fsck(8): 0 clean; 1 damage found and mended; 4 damage found and left; 8 could not run, for instance because the
store is mounted; 16 wrong use.";

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Directory of the store
    dir: PathBuf,
    /// Say what a repair would do
    #[arg(long)]
    repair: bool,
    /// Do it
    #[arg(long, requires = "repair")]
    yes: bool,
    /// Repair a store also if its directory is another user's, or others can change its files
    #[arg(long, requires = "yes")]
    any_owner: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs `kvfs check`.
pub fn run(arguments: &CheckArgs) -> Result<(), Failure> {
    start_log(log::LevelFilter::Warn, None);
    let dir = &arguments.dir;
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |what: &str| {
        if terminal {
            eprintln!("{}: {what}", dir.display());
        }
    };
    let path = absolute(dir)?;
    if arguments.repair {
        let access = if arguments.yes { Access::Write } else { Access::Read };
        let opening = Opening { any_owner: arguments.any_owner || !arguments.yes, access };
        let report = mount::repair(&path, opening, &mut progress).map_err(failed)?;
        return tell_repair(dir, &report, arguments.json);
    }
    let findings = mount::check(&path, &mut progress).map_err(failed)?;
    let summary = findings.summary.unwrap_or_default();
    if arguments.json {
        let report = serde_json::json!({
            "clean": findings.damage.is_empty(),
            "damage": findings.damage,
            "summary": summary_json(&summary),
        });
        print(format!("{report:#}\n").as_bytes())?;
    } else {
        findings.damage.iter().for_each(|sentence| println!("damage: {sentence}"));
    }
    match findings.damage.len() {
        0 if arguments.json => Ok(()),
        0 => {
            println!("{}: clean: {}", dir.display(), counts(&summary));
            Ok(())
        }
        count => Err(Failure::new(
            code::DAMAGE,
            format!("{}: {count} damaged; kvfs check --repair says what can be done", dir.display()),
        )),
    }
}

fn failed(error: Error) -> Failure {
    let code = if error.blame == Blame::Damage { code::DAMAGE } else { code::UNCHECKED };
    Failure::new(code, error.to_string())
}

fn counts(summary: &CheckSummary) -> String {
    format!(
        "{} inodes, {} names, {} blocks of {}",
        summary.inodes,
        summary.names,
        summary.blocks,
        human_size(summary.stored_bytes)
    )
}

fn tell_repair(dir: &Path, report: &Report, json: bool) -> Result<(), Failure> {
    let text = if json { format!("{:#}\n", report.json()) } else { report.to_string() };
    print(text.as_bytes())?;
    let show = dir.display();
    let counts = counts(&report.summary);
    let code = exit_code(report);
    let sentence = match code {
        0 if json => return Ok(()),
        0 => {
            println!("{show}: clean: {counts}");
            return Ok(());
        }
        code::MENDED => format!("{show}: mended: {counts}"),
        _ if report.is_dry => format!("{show}: damaged; with --yes a repair leaves {counts}"),
        _ => format!("{show}: {} problems are left", report.left.len()),
    };
    Err(Failure::new(code, sentence))
}

fn exit_code(report: &Report) -> u8 {
    match report.is_clean() {
        true => 0,
        false if !report.is_dry && report.left.is_empty() => code::MENDED,
        false => code::DAMAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_fsck() {
        let clean = Report::default();
        let damaged = Report { damage: vec!["a block".to_string()], ..Report::default() };
        let dry = Report { is_dry: true, ..damaged.clone() };
        let left = Report { left: vec!["a name".to_string()], ..damaged.clone() };
        assert_eq!([&clean, &damaged, &dry, &left].map(exit_code), [0, 1, 4, 4]);
    }

    #[test]
    fn every_finding_is_a_line_and_in_the_json() {
        let report = Report {
            damage: vec!["one".to_string()],
            problems: vec!["two".to_string()],
            mends: vec!["three".to_string()],
            left: vec!["four".to_string()],
            ..Report::default()
        };
        assert_eq!(report.to_string(), "damage: one\nproblem: two\nmended: three\nleft: four\n");
        let json = report.json();
        assert_eq!(json["mends"][0], "three");
        assert_eq!(json["clean"], false);
    }
}
