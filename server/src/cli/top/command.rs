//! The command: looks at the server, and shows what it saw.

use super::{
    sample::Rates,
    screen::{Command, Screen},
    table::{self, Sort},
};
use crate::{
    api::Stats,
    cli::base::{AdminClient, Audience, CliError, Context, Interrupt, print},
};
use clap::Args;
use std::{
    io::{IsTerminal, stdout},
    thread,
    time::{Duration, Instant},
};

const PATH: &str = "/admin/stats";

/// Least and most time between two looks, in seconds. The least leaves the server something to do
/// beside answering.
const INTERVAL_SECS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;

#[derive(Debug, Args)]
#[command(after_help = "Keys: q quits, s sorts by the next column, r turns the order round.\n\
                        Shown are volumes and snapshots that have had a client since the server started.")]
pub(crate) struct TopArgs {
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Bytes)]
    sort: Sort,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !INTERVAL_SECS.contains(&seconds) {
        return Err(format!(
            "must be from {} to {} seconds",
            INTERVAL_SECS.start(),
            INTERVAL_SECS.end()
        ));
    }
    Ok(Duration::from_secs_f64(seconds))
}

pub(crate) fn run(args: &TopArgs, context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let mut before = look(&client)?;
    match (args.once, context.audience()) {
        (true, audience) => {
            thread::sleep(args.interval);
            show(&Rates::between(&before, &look(&client)?), args.sort, audience)
        }
        (false, Audience::Programs) => loop {
            thread::sleep(args.interval);
            let now = look(&client)?;
            show(&Rates::between(&before, &now), args.sort, Audience::Programs)?;
            before = now;
        },
        (false, Audience::People) => live(args, &client, before),
    }
}

fn look(client: &AdminClient) -> Result<Stats, CliError> {
    Ok(client.get(PATH)?)
}

fn show(rates: &Rates, sort: Sort, audience: Audience) -> Result<(), CliError> {
    match audience {
        Audience::People => print(&table::lines(rates, sort, table::Order::Down).join("\n")),
        // One line each, so that a program can read them as they come.
        Audience::Programs => {
            print(&serde_json::to_string(rates).expect("numbers and texts have a JSON form"))
        }
    }
}

/// Draws until it is interrupted.
fn live(args: &TopArgs, client: &AdminClient, mut before: Stats) -> Result<(), CliError> {
    if !stdout().is_terminal() {
        return Err(CliError::NoTerminal);
    }
    let interrupt = Interrupt::listen()?;
    let mut screen = Screen::open().map_err(CliError::Output)?;
    let (mut sort, mut order) = (args.sort, table::Order::Down);
    let mut rates = Rates::between(&before, &before);
    let mut due = Instant::now() + args.interval;
    loop {
        screen.draw(&table::lines(&rates, sort, order)).map_err(CliError::Output)?;
        match screen.next(due, &interrupt).map_err(CliError::Output)? {
            Command::Quit => return Ok(()),
            Command::SortByNext => sort = sort.next(),
            Command::TurnRound => order = order.turned(),
            Command::Redraw => {}
            Command::Look => {
                let now = look(client)?;
                rates = Rates::between(&before, &now);
                before = now;
                due = Instant::now() + args.interval;
            }
        }
    }
}
