//! Runs command lines. Most methods print the command first, in shell syntax.
//!
//! Every command gets an empty standard input, so that none can wait for an answer.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// A program with its arguments, and the variables that are added to its environment.
#[derive(Debug, Clone)]
pub(crate) struct Cmd {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Cmd {
    pub(crate) fn new(program: &str) -> Self {
        Self { program: program.to_owned(), args: Vec::new(), env: Vec::new() }
    }

    /// Makes a command from one line whose words contain no blanks: `Cmd::line("cargo fmt --all")`.
    pub(crate) fn line(line: &str) -> Self {
        let mut words = line.split_whitespace();
        Self::new(words.next().unwrap_or_default()).args(words)
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Prints the command and runs it. Its output appears as if it were ours. Returns an error if
    /// it cannot start or does not succeed.
    pub(crate) fn run(&self) -> Result<()> {
        self.announce();
        let status = self.command().status().map_err(|source| self.spawn_error(source))?;
        if status.success() { Ok(()) } else { Err(self.failed(status)) }
    }

    /// Runs the command with its standard output and standard error in `file`. Prints nothing.
    pub(crate) fn run_into(&self, file: File) -> Result<()> {
        let status = file
            .try_clone()
            .and_then(|copy| self.command().stdout(copy).stderr(file).status())
            .map_err(|source| self.spawn_error(source))?;
        if status.success() { Ok(()) } else { Err(self.failed(status)) }
    }

    /// Prints the command and runs it. Shows its standard output as it arrives. Returns that
    /// output, or an error if the command does not succeed.
    pub(crate) fn run_and_read(&self) -> Result<String> {
        self.announce();
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| self.spawn_error(source))?;
        let mut all = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            // Shows each piece at once, without waiting for the end of a line: if a test hangs, its
            // name is on an unfinished line.
            let mut chunk = [0; 4096];
            loop {
                let read = stdout.read(&mut chunk).map_err(|source| self.output_error(source))?;
                if read == 0 {
                    break;
                }
                let new = &chunk[..read];
                let mut shown = std::io::stdout().lock();
                shown
                    .write_all(new)
                    .and_then(|()| shown.flush())
                    .map_err(|source| self.output_error(source))?;
                all.extend_from_slice(new);
            }
        }
        let status = child.wait().map_err(|source| self.output_error(source))?;
        if status.success() {
            Ok(String::from_utf8_lossy(&all).into_owned())
        } else {
            Err(self.failed(status))
        }
    }

    /// Runs the command, then prints the command and its standard output, and returns that output.
    /// Used for commands that run at the same time, so that their standard outputs do not mix.
    pub(crate) fn run_and_show_at_end(&self) -> Result<String> {
        let output = self
            .command()
            .stderr(Stdio::inherit())
            .output()
            .map_err(|source| self.spawn_error(source))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("$ {self}\n{text}");
        if output.status.success() { Ok(text) } else { Err(self.failed(output.status)) }
    }

    /// Prints the command and runs it. Returns its standard output instead of showing it.
    pub(crate) fn capture(&self) -> Result<String> {
        self.announce();
        self.quiet()
    }

    /// Runs the command without printing it, and returns its standard output. Its standard error is
    /// shown. Used for queries, such as which components are installed.
    pub(crate) fn quiet(&self) -> Result<String> {
        let output = self
            .command()
            .stderr(Stdio::inherit())
            .output()
            .map_err(|source| self.spawn_error(source))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(self.failed(output.status))
        }
    }

    /// Prints the command and runs it. Returns whether it succeeded, and its standard error. Drops
    /// its standard output.
    pub(crate) fn verdict(&self) -> Result<(bool, String)> {
        self.announce();
        let output = self.command().output().map_err(|source| self.spawn_error(source))?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Runs the command and returns whether it started and succeeded. Drops all its output.
    pub(crate) fn succeeds(&self) -> bool {
        self.command()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn announce(&self) {
        println!("$ {self}");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null());
        for (key, value) in &self.env {
            command.env(key, value);
        }
        command
    }

    fn spawn_error(&self, source: std::io::Error) -> Error {
        Error::Spawn { program: self.program.clone(), source }
    }

    fn output_error(&self, source: std::io::Error) -> Error {
        Error::Output { command: self.to_string(), source }
    }

    fn failed(&self, status: std::process::ExitStatus) -> Error {
        Error::Failed { command: self.to_string(), status }
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.env {
            write!(f, "{key}={} ", quoted(value))?;
        }
        write!(f, "{}", self.program)?;
        for arg in &self.args {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

/// Returns `word`, quoted for a POSIX shell if it needs quotes.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_as_a_shell_takes_it() {
        let cmd = Cmd::line("cargo test -p zbud").arg("it's").env("RUSTFLAGS", "--cfg loom");
        assert_eq!(cmd.to_string(), r"RUSTFLAGS='--cfg loom' cargo test -p zbud 'it'\''s'");
    }

    #[cfg(unix)]
    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = Cmd::line("false --now").run().unwrap_err().to_string();
        assert!(error.contains("false --now"), "{error}");
        assert!(!Cmd::line("false").succeeds());
        assert!(Cmd::line("true").succeeds());
    }

    #[cfg(unix)]
    #[test]
    fn output_is_returned_as_it_is() {
        let cmd = Cmd::new("printf").arg("a\\nb");
        assert_eq!(cmd.run_and_read().unwrap(), "a\nb");
        assert_eq!(cmd.capture().unwrap(), "a\nb");
    }

    #[cfg(unix)]
    #[test]
    fn a_verdict_has_what_a_failing_command_said() {
        let (succeeded, said) =
            Cmd::new("sh").args(["-c", "echo no >&2; false"]).verdict().unwrap();
        assert_eq!((succeeded, said.as_str()), (false, "no\n"));
    }

    #[cfg(unix)]
    #[test]
    fn both_outputs_go_into_one_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cmd = Cmd::new("sh").args(["-c", "echo a; echo b >&2; echo c; exit 77"]);
        let error = cmd.run_into(file.reopen().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Failed { status, .. } if status.code() == Some(77)));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn a_missing_program_says_so() {
        let error = Cmd::new("no-such-program-here").run().unwrap_err();
        assert!(matches!(error, Error::Spawn { .. }), "{error}");
    }
}
