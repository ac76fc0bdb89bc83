//! `check-config`: every mistake at once, or every key with its value.

use crate::cli::base::{CliError, Context};
use sandstone_config::{Config, KEYS};
use serde_json::{Value, json};

pub(crate) fn run(context: &Context) -> Result<(), CliError> {
    let config = context.config()?;
    for warning in config.warnings() {
        eprintln!("sandstone: {warning}");
    }
    let defaults = Config::default();
    let keys: Vec<Value> = KEYS
        .iter()
        .map(|key| {
            json!({
                "key": key.name,
                "value": key.value_in(&config),
                "default": key.value_in(&defaults),
                "allowed": key.allowed(),
                "about": key.about,
            })
        })
        .collect();
    context.answer(&json!({ "file": config.file, "keys": keys }), || {
        let from = match &config.file {
            Some(file) => format!("# {} is valid; this is what it comes to.\n", file.display()),
            None => "# No configuration file; these are the defaults, ready to be saved as sandstone.toml.\n"
                .to_owned(),
        };
        format!("{from}{config}")
    })
}
