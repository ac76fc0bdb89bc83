//! The terminal: taken over while it lives, given back as it was.

use crate::cli::base::Interrupt;
use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyModifiers},
    execute, queue, style,
    terminal::{self, ClearType},
};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    io::{self, Stdout, Write},
    time::{Duration, Instant},
};

/// Longest wait before a signal is noticed.
const SIGNAL_LOOK: Duration = Duration::from_millis(200);

/// Line of the table's head.
const HEAD_LINE: usize = 2;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// The time has come to ask the server.
    Look,
    Redraw,
    SortByNext,
    TurnRound,
    Quit,
}

/// A terminal that shows nothing but what is drawn.
pub(super) struct Screen {
    out: Stdout,
}

impl Screen {
    pub(super) fn open() -> io::Result<Screen> {
        terminal::enable_raw_mode()?;
        // From here on its end puts back what was changed.
        let mut screen = Screen { out: io::stdout() };
        execute!(
            screen.out,
            terminal::EnterAlternateScreen,
            terminal::DisableLineWrap,
            cursor::Hide
        )?;
        Ok(screen)
    }

    /// Draws as many lines as there is room for; the terminal cuts what is too wide.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let (_, rows) = terminal::size()?;
        queue!(self.out, terminal::BeginSynchronizedUpdate)?;
        for (row, line) in (0..rows).zip(lines) {
            queue!(self.out, cursor::MoveTo(0, row))?;
            if usize::from(row) == HEAD_LINE {
                queue!(self.out, style::SetAttribute(style::Attribute::Bold))?;
            }
            queue!(
                self.out,
                style::Print(line),
                style::SetAttribute(style::Attribute::Reset),
                terminal::Clear(ClearType::UntilNewLine)
            )?;
        }
        if lines.len() < usize::from(rows) {
            queue!(
                self.out,
                cursor::MoveToNextLine(1),
                terminal::Clear(ClearType::FromCursorDown)
            )?;
        }
        queue!(self.out, terminal::EndSynchronizedUpdate)?;
        self.out.flush()
    }

    /// Waits for a key until `due`.
    pub(super) fn next(&mut self, due: Instant, interrupt: &Interrupt) -> io::Result<Command> {
        loop {
            if interrupt.check().is_err() {
                return Ok(Command::Quit);
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Command::Look);
            }
            match wait(left.min(SIGNAL_LOOK)) {
                Said::Gone => return Ok(Command::Quit),
                Said::Nothing => {}
                Said::Something => {
                    if event::poll(Duration::ZERO)?
                        && let Some(command) = command(&event::read()?)
                    {
                        return Ok(command);
                    }
                }
            }
        }
    }
}

/// What the terminal has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Something,
    Nothing,
    /// It was closed.
    Gone,
}

/// Waits for a key, at most that long. Not with crossterm's own wait, which asks a closed terminal
/// for ever, without looking at the time, where the signal that tells of it is ignored.
fn wait(longest: Duration) -> Said {
    let stdin = io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
    // A signal ends the wait early, which is as good as none.
    let _interrupted = rustix::event::poll(&mut polled, Some(&timeout));
    let told = polled[0].revents();
    match (told.intersects(PollFlags::HUP | PollFlags::ERR), told.is_empty()) {
        (true, _) => Said::Gone,
        (false, true) => Said::Nothing,
        (false, false) => Said::Something,
    }
}

fn command(event: &Event) -> Option<Command> {
    let key = match event {
        Event::Key(key) => key,
        Event::Resize(..) => return Some(Command::Redraw),
        _ => return None,
    };
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Some(Command::Quit),
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Command::Quit),
        KeyCode::Char('s') => Some(Command::SortByNext),
        KeyCode::Char('r') => Some(Command::TurnRound),
        _ => None,
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = execute!(
            self.out,
            cursor::Show,
            terminal::EnableLineWrap,
            terminal::LeaveAlternateScreen
        );
        let _ = terminal::disable_raw_mode();
    }
}
