//! A process for each engine, so that its memory and the kernel's counts are its own.
//!
//! The parent writes what is to be measured, one a line. The child answers with one line a measured row, then `.`; or with `!` and a
//! sentence, and ends. At the end of its input it closes its store and ends.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::Error;

/// The parent's end.
pub struct Handle {
    name: String,
    process: Child,
    /// `None` when its input has been ended.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Handle {
    /// Starts this program again for the contender `name`: its command `verb`, in the directory `dir`, with `arguments` of its own.
    pub fn start(name: &str, verb: &str, dir: &Path, arguments: &[String]) -> Result<Handle, Error> {
        let failed = |error| Error::io(format!("measuring {name}"), error);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args([verb, "--child", "--dir"]).arg(dir).args(arguments);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let output = output.ok_or_else(|| Error::Failed(format!("measuring {name}: it has no output")))?;
        Ok(Handle { name: name.to_string(), process, input, output: BufReader::new(output) })
    }

    /// The contender that is measured.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has it measure something and waits for its rows.
    pub fn run(&mut self, what: &str) -> Result<Vec<String>, Error> {
        let failed = |text: String| Error::Failed(format!("measuring {}: {text}", self.name));
        if let Some(input) = self.input.as_mut() {
            // If it has ended, its output says why.
            let _ = writeln!(input, "{what}");
        }
        let mut rows = Vec::new();
        loop {
            let mut line = String::new();
            match self.output.read_line(&mut line) {
                Err(error) => return Err(failed(error.to_string())),
                Ok(0) => {
                    let status = self.process.wait();
                    let ended = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Err(failed(format!("the process ended in {what}: {ended}")));
                }
                Ok(_) => {}
            }
            match line.trim_end() {
                "." => return Ok(rows),
                text => match text.strip_prefix('!') {
                    Some(said) => return Err(failed(said.trim().to_string())),
                    None => rows.push(text.to_string()),
                },
            }
        }
    }

    /// Lets it close its store and waits for its end.
    pub fn finish(mut self) -> Result<(), Error> {
        drop(self.input.take());
        let status =
            self.process.wait().map_err(|error| Error::io(format!("ending {}", self.name), error))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::Failed(format!("{}: its process ended with {status}", self.name)))
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Who was not let finish has nothing more to say; nobody may be left behind.
        if self.input.is_some() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The child's end: measures what each line of `input` names, until it ends or something fails, which the parent is told.
pub fn serve(
    input: impl BufRead,
    mut output: impl Write,
    mut measure: impl FnMut(&str) -> Result<Vec<String>, Error>,
) -> Result<(), Error> {
    let failed = |error| Error::io("answering", error);
    for what in input.lines() {
        let what = what.map_err(|error| Error::io("reading what to measure", error))?;
        let answer = match measure(&what) {
            Ok(rows) => rows.iter().map(|row| format!("{row}\n")).collect::<String>() + ".\n",
            Err(error) => {
                let text = format!("! {}\n", error.to_string().replace('\n', " "));
                return output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(failed);
            }
        };
        output.write_all(answer.as_bytes()).and_then(|()| output.flush()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_out_line_by_line_and_an_error_is_the_last_word() {
        let mut output = Vec::new();
        serve(&b"one\ntwo\nbad\nthree\n"[..], &mut output, |what| match what {
            "bad" => Err(Error::Failed("it\nbroke".into())),
            "one" => Ok(vec!["1".into(), "1b".into()]),
            _ => Ok(Vec::new()),
        })
        .unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "1\n1b\n.\n.\n! it broke\n");
    }
}
