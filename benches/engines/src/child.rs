//! A process for each engine and size, so that `/proc/self/io` and peak memory are its own; the parent tells it which
//! workload to run next, in turns with the other engines.
//!
//! The parent writes one workload a line. The child answers with one line of JSON a measured row, then `.`; or with `!` and
//! a sentence, and ends. At the end of its input it closes its store and ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::engines::Result;
use crate::row::Row;
use crate::workload::Stage;

/// The parent's end.
pub struct Handle {
    /// The engine that it runs.
    pub engine: String,
    process: Child,
    // None when its input has been ended.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Handle {
    /// Starts this program again with `arguments` before the one that makes it a child.
    pub fn start(engine: &str, arguments: &[String]) -> Result<Handle> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).args(["--child", engine]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let input = process.stdin.take();
        let output = process.stdout.take().ok_or("a child without output")?;
        Ok(Handle { engine: engine.to_string(), process, input, output: BufReader::new(output) })
    }

    /// Has it run a workload and waits for its rows.
    pub fn run(&mut self, workload: &str) -> Result<Vec<Row>> {
        writeln!(self.input.as_mut().ok_or("the child's input has ended")?, "{workload}")?;
        let mut rows = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                return Err(format!("it ended in {workload}: {}", self.process.wait()?).into());
            }
            match line.trim_end() {
                "." => return Ok(rows),
                text if text.starts_with('!') => return Err(text[1..].trim().into()),
                text => rows.push(serde_json::from_str(text)?),
            }
        }
    }

    /// Lets it close its store and waits for its end.
    pub fn finish(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}").into()) }
    }
}

/// The child's end: runs what its input names. With `verbose` the engine's own report goes to the error output.
pub fn serve(mut stage: Stage, verbose: bool) -> Result<()> {
    let mut output = std::io::stdout().lock();
    for workload in std::io::stdin().lock().lines() {
        match stage.run(&workload?) {
            Ok(rows) => {
                for row in &rows {
                    writeln!(output, "{}", serde_json::to_string(row)?)?;
                }
                writeln!(output, ".")?;
            }
            Err(error) => {
                writeln!(output, "! {}", error.to_string().replace('\n', " "))?;
                return Err(error);
            }
        }
        output.flush()?;
        if verbose {
            eprintln!("{}", stage.report());
        }
    }
    stage.finish()
}
