//! Work of the server that is begun and then watched to its end.

use crate::cli::base::{Activity, Audience, CliError, Context};
use serde::de::DeserializeOwned;
use std::{thread, time::Duration};

/// Time between two looks. A guess: a person sees it move.
const LOOK_TIME: Duration = Duration::from_millis(200);

/// Has the server begin the work at `path`, and waits for its end. `so_far` gives the phase of what
/// runs and how far it is, in words, and `None` of what has ended.
pub(super) fn run_to_end<T: DeserializeOwned>(
    path: &str,
    context: &Context,
    so_far: impl Fn(&T) -> Option<(&'static str, String)>,
) -> Result<T, CliError> {
    let client = context.client()?;
    let mut status: T = client.post(path, &())?;
    let activity = Activity::new(context.audience());
    while let Some((phase, so_far)) = so_far(&status) {
        match context.audience() {
            Audience::People => activity.say(phase, &so_far),
            Audience::Programs => {}
        }
        thread::sleep(LOOK_TIME);
        status = client.get(path)?;
    }
    Ok(status)
}
