//! Opening a store whose server is stopped.

use crate::{
    cli::base::{CliError, Context},
    serve::{self, ServeError},
};
use sandstone_ring::Runtime;
use sandstone_storage::StoppedStore;
use std::path::{Path, PathBuf};

/// Does something with a stopped store: the one named, or the configuration's.
pub(super) fn stopped<T, F: Future<Output = sandstone_storage::Result<T>>>(
    named: Option<&Path>,
    context: &Context,
    work: impl FnOnce(StoppedStore, u64) -> F,
) -> Result<(PathBuf, T), CliError> {
    let config = context.config()?;
    let path = named.unwrap_or(&config.store.path).to_owned();
    let runtime = Runtime::new(serve::engine(config.store.io))
        .map_err(|error| ServeError::engine(config.store.io, error))?;
    let staging = serve::staging_dir(&config);
    let metadata_bytes = config.cache.metadata_bytes;
    let done = runtime.block_on(async {
        let store = StoppedStore::open(&path, &staging).await?;
        work(store, metadata_bytes).await
    });
    match done {
        Ok(done) => Ok((path, done)),
        Err(error) => Err(CliError::Unreadable(path, error)),
    }
}
