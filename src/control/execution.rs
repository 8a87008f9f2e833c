//! Commands at work: each line of a write in its turn, and what became of it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::command::{self, Action};
use super::{COMMANDS_MAX, Control, figures, forks};
use crate::base::event_log::{Event, Field};
use crate::base::text::timestamp;
use crate::engine::{Command, Engine};
use crate::fs::types::{Caller, Ino};
use crate::fs::{Error, Result};
use crate::virtual_files::Done;

/// Space that a compaction which ended with `event` gave back, as a sentence; `None` if it is another event, or none that cuts a file.
fn compacted(event: &Arc<Event>) -> Option<String> {
    let count = |name: &str| match event.fields.iter().find(|(field, _)| *field == name)?.1 {
        Field::Count(count) => Some(count),
        Field::Text(_) => None,
    };
    let (before, after) = (count("file_bytes_before")?, count("file_bytes_after")?);
    let size = crate::base::text::human_size;
    let unreadable = match count("unreadable")? {
        0 => String::new(),
        places => format!("; {places} places cannot be read and stay where they are: kvfs check names them"),
    };
    Some(format!(
        "gave {} back, the file went from {} to {} with {} in use{unreadable}",
        size(before.saturating_sub(after)),
        size(before),
        size(after),
        size(count("used_bytes")?)
    ))
}

/// What became of a command, as a sentence, if one of the events since it began tells.
fn outcome(words: &str, since: &[Arc<Event>]) -> Option<String> {
    let mut latest = since.iter().rev();
    match words {
        _ if !words.ends_with("wait") => None,
        _ if is_compaction(words) => latest.find_map(compacted),
        _ if words.starts_with("fork ") => latest.find_map(forks::forked),
        _ => None,
    }
}

/// Whether a command begins with one that may have made a file smaller.
fn is_compaction(words: &str) -> bool {
    words.starts_with("compact") || words.starts_with("vacuum")
}

impl Control {
    /// Does what `text` says, one command a line, and calls `done` with the first error or when all are done. Returns
    /// at once.
    pub fn execute(self: &Arc<Control>, caller: Caller, text: &[u8], done: Done) {
        match command::parse(text) {
            Ok(actions) => {
                if actions.is_empty() {
                    return done(Ok(()));
                }
                log::info!("commands of user {} process {}: {actions:?}", caller.uid, caller.pid);
                let words = String::from_utf8_lossy(text).trim().replace('\n', "; ");
                let done = self.remember(caller, words, done);
                self.clone().proceed(actions.into(), done);
            }
            Err(error) => {
                let words = String::from_utf8_lossy(&text[..text.len().min(80)]).trim().replace('\n', "; ");
                self.remember(caller, words, done)(Err(error));
            }
        }
    }

    /// Writes the command into the event log now, and its result there and into the list of commands when it has one.
    fn remember(&self, caller: Caller, words: String, done: Done) -> Done {
        let who = move |words: &str| {
            vec![
                ("words", Field::from(words)),
                ("uid", u64::from(caller.uid).into()),
                ("pid", u64::from(caller.pid).into()),
            ]
        };
        self.event_log.record(self.parts.clock.now(), "command", who(&words));
        let (commands, event_log, clock) =
            (self.commands.clone(), self.event_log.clone(), self.parts.clock.clone());
        let begun = event_log.events().last().map_or(0, |event| event.number);
        Box::new(move |result| {
            let time = clock.now();
            let outcome = match &result {
                Ok(()) => {
                    let mut events = event_log.events();
                    events.retain(|event| event.number > begun);
                    outcome(&words, &events).map_or("done".to_string(), |text| format!("done: {text}"))
                }
                Err(error) => error.to_string(),
            };
            if result.is_err() {
                let mut fields = who(&words);
                fields.push(("what", outcome.as_str().into()));
                event_log.record(time, "error", fields);
            }
            {
                let mut commands = commands.lock();
                if commands.len() == COMMANDS_MAX {
                    commands.pop_front();
                }
                let at = timestamp(time);
                let (uid, pid) = (caller.uid, caller.pid);
                commands
                    .push_back(format!("{at} uid {uid} pid {pid}: {}: {outcome}\n", figures::ascii(&words)));
            }
            done(result);
        })
    }

    /// The last commands, one a line.
    pub fn commands(&self) -> String {
        self.commands.lock().iter().map(String::as_str).collect()
    }

    fn proceed(self: Arc<Control>, mut actions: VecDeque<Action>, done: Done) {
        while let Some(action) = actions.pop_front() {
            let result = match action {
                Action::Help => Ok(()),
                Action::Set { name, value } => self.set(&name, &value),
                Action::Mark(name) => self.mark(name),
                Action::Unmark(name) => {
                    self.marks.lock().remove(&name);
                    Ok(())
                }
                // Over a view nobody does such work, and whoever waited would wait for ever; elsewhere it would write.
                Action::Run { command, .. } if self.mount.is_read_only && command != Command::DropCaches => {
                    Err(Error::ReadOnly)
                }
                Action::Run { command, wait: false } => {
                    let refused = Arc::new(Mutex::new(None));
                    let (answer, event_log, clock) =
                        (refused.clone(), self.event_log.clone(), self.parts.clock.clone());
                    let logged = move |result: crate::engine::Result<()>| match result {
                        Ok(()) => log::info!("{command:?} has ended"),
                        Err(error) => {
                            log::error!("{command:?}: {error}");
                            // Whoever asked has been answered: this is the only place where it shows.
                            if Arc::strong_count(&answer) == 1 {
                                let what = format!("{command:?}: {error}");
                                event_log.record(clock.now(), "error", vec![("what", what.into())]);
                            }
                            *answer.lock() = Some(error);
                        }
                    };
                    self.parts.engine.run(command, Box::new(logged));
                    let error = refused.lock().take();
                    error.map_or(Ok(()), |error| Err(error.into()))
                }
                Action::Run { command, wait: true } => {
                    let engine = self.parts.engine.clone();
                    return engine.run(command, self.then(actions, done));
                }
                Action::Fork { into, wait } => {
                    let control = self.clone();
                    if !wait {
                        // Whoever asked has been answered: the event log says how it ended.
                        std::thread::spawn(move || {
                            control.fork(&into).inspect_err(|error| control.note_failed_fork(error))
                        });
                        continue;
                    }
                    std::thread::spawn(move || match control.fork(&into) {
                        Ok(()) => control.proceed(actions, done),
                        Err(error) => done(Err(error)),
                    });
                    return;
                }
                Action::Trace(every) => {
                    self.parts.engine.trace().set(every);
                    Ok(())
                }
                Action::Explain { ino, block } => {
                    let control = self.clone();
                    let then = self.then(actions, done);
                    // It may wait for the disk, and whoever brought the command must not.
                    std::thread::spawn(move || then(control.explain(Ino(ino), block)));
                    return;
                }
                Action::Record { path, keeps, is_image } => {
                    // It may wait for the disk, and whoever brought the command must not.
                    std::thread::spawn(move || {
                        let begun = self.record(&path, keeps, is_image);
                        let ended = begun.and_then(|()| if is_image { self.await_image() } else { Ok(()) });
                        self.go_on(ended, actions, done);
                    });
                    return;
                }
                Action::EndRecording => {
                    std::thread::spawn(move || {
                        let ended = self.end_recording("it was told to");
                        self.go_on(ended, actions, done);
                    });
                    return;
                }
                Action::Sync => {
                    // Writing times may wait for the disk, and whoever brought the command must not.
                    std::thread::spawn(move || match (self.parts.write_times)() {
                        Ok(()) => {
                            let engine = self.parts.engine.clone();
                            engine.sync_to(engine.lsn(), self.then(actions, done));
                        }
                        Err(error) => done(Err(error)),
                    });
                    return;
                }
            };
            if let Err(error) = result {
                return done(Err(error));
            }
        }
        done(Ok(()));
    }

    /// Goes on with the rest, unless what was before it failed.
    fn go_on(self: Arc<Control>, result: Result<()>, rest: VecDeque<Action>, done: Done) {
        match result {
            Ok(()) => self.proceed(rest, done),
            Err(error) => done(Err(error)),
        }
    }

    /// A callback that goes on with the rest.
    fn then(self: Arc<Control>, rest: VecDeque<Action>, done: Done) -> crate::engine::Done {
        Box::new(move |result| self.go_on(result.map_err(Error::from), rest, done))
    }

    /// Makes a second store of this one, and waits for the disk.
    fn fork(&self, into: &Path) -> Result<()> {
        let forking = self.parts.forking.as_ref().ok_or(Error::NotSupported)?;
        let forked = forking.fork(into)?;
        self.event_log.record(self.parts.clock.now(), "fork", forked.fields());
        self.look_at_shared();
        Ok(())
    }

    fn note_failed_fork(&self, error: &Error) {
        log::error!("{error}");
        self.event_log.record(self.parts.clock.now(), "error", vec![("what", error.to_string().into())]);
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        if let Err(error) = self.parts.engine.set(name, value) {
            log::error!("set {name}={value}: {error}");
            return Err(error.into());
        }
        self.settings.lock().insert(name.to_string(), value.to_string());
        Ok(())
    }

    /// Settings that were changed since the mount, by name, with their values.
    pub fn settings(&self) -> Vec<(String, String)> {
        self.settings.lock().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
