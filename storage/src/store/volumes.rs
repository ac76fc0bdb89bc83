//! Volumes of a store: making, changing and deleting them.

use super::open::Store;
use crate::{
    base::{ATTRIBUTES_BYTES_MAX, Error, Kind, Result, Settings, VOLUME_BYTES_MAX},
    catalog::Catalog,
    format::{RecordKind, VolumeMeta},
    map::Tree,
    volume::Volume,
};
use std::sync::Arc;
use uuid::Uuid;

/// Specification of a new volume.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// The volume's id, chosen by the caller; unique in the store.
    pub id: Uuid,
    /// Its size in bytes: 1 byte to 16 TiB.
    pub size_bytes: u64,
    /// Its settings.
    pub settings: Settings,
    /// Opaque bytes of the caller, at most [`ATTRIBUTES_BYTES_MAX`].
    pub attributes: Vec<u8>,
}

/// Changes of a volume's properties; `None` leaves one as it is.
#[derive(Clone, Debug, Default)]
pub struct VolumeChange {
    /// A larger size in bytes, at most 16 TiB.
    pub size_bytes: Option<u64>,
    /// New settings.
    pub settings: Option<Settings>,
    /// New attributes, at most [`ATTRIBUTES_BYTES_MAX`] bytes.
    pub attributes: Option<Vec<u8>>,
}

impl Store {
    /// Makes a volume. It is durable when this returns.
    ///
    /// # Errors
    /// [`Kind::Exists`], [`Kind::Invalid`], [`Kind::NoSpace`]: nothing was done. [`Kind::Latched`],
    /// [`Kind::ReadOnly`]: see [`Self::health`].
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Volume> {
        check_size(spec.size_bytes)?;
        check_attributes(&spec.attributes)?;
        let engine = &self.0.volumes.engine;
        engine.check_room().await?;
        let create = |catalog: &mut Catalog| {
            let number = catalog.next_number(spec.id)?;
            let meta = VolumeMeta {
                number,
                id: spec.id,
                family: number,
                snapshot_of: None,
                size_bytes: spec.size_bytes,
                settings: spec.settings,
                attributes: spec.attributes.as_slice().into(),
            };
            let logged = catalog.log_meta(&engine.log, number, RecordKind::VolumePut, &meta)?;
            Ok(catalog.add(Volume::new(Arc::clone(engine), meta, Tree::default(), logged.behind)))
        };
        self.0.volumes.change(create).await
    }

    /// The volume of that id.
    pub fn volume(&self, id: Uuid) -> Option<Volume> {
        self.0.volumes.lock().volume(id).ok()
    }

    /// All volumes, in no order.
    pub fn volumes(&self) -> Vec<Volume> {
        self.0
            .volumes
            .lock()
            .all()
            .filter(|entry| entry.inner.snapshot_of.is_none())
            .cloned()
            .collect()
    }

    /// Changes a volume. The change is durable when this returns.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Invalid`] for a smaller size; otherwise as
    /// [`Self::create_volume`].
    pub async fn update_volume(&self, id: Uuid, change: VolumeChange) -> Result<()> {
        if let Some(attributes) = &change.attributes {
            check_attributes(attributes)?;
        }
        let update = |catalog: &mut Catalog| {
            let volume = catalog.volume(id)?;
            let mut state = volume.inner.lock();
            let mut meta = state.meta.clone();
            if let Some(size) = change.size_bytes {
                meta.size_bytes = grown(meta.size_bytes, size)?;
            }
            meta.settings = change.settings.unwrap_or(meta.settings);
            if let Some(attributes) = &change.attributes {
                meta.attributes = attributes.as_slice().into();
            }
            catalog.log_meta(
                &self.0.volumes.engine.log,
                meta.number,
                RecordKind::VolumePut,
                &meta,
            )?;
            state.meta = meta;
            volume.inner.publish(&state);
            drop(state);
            Ok(volume)
        };
        self.0.volumes.change(update).await?.inner.keep_to_cap();
        Ok(())
    }

    /// Deletes a volume and its snapshots; `false` when there was none. Its forks live on. It is
    /// durable when this returns; reclaim frees the space that no other volume or snapshot shares.
    ///
    /// # Errors
    /// [`Kind::Latched`], [`Kind::ReadOnly`]: see [`Self::health`]. Never [`Kind::NoSpace`].
    pub async fn delete_volume(&self, id: Uuid) -> Result<bool> {
        let found = self
            .0
            .volumes
            .change(|catalog| self.0.volumes.delete(catalog, &catalog.volume(id)?))
            .await;
        unless_missing(found)
    }
}

/// Whether there was something to delete.
pub(crate) fn unless_missing(deleted: Result<()>) -> Result<bool> {
    match deleted {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes == 0 || size_bytes > VOLUME_BYTES_MAX {
        let text = format!("a volume's size must be from 1 byte to 16 TiB, not {size_bytes}");
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(())
}

/// The new size of a volume of `have` bytes for which `wanted` are asked.
pub(crate) fn grown(have: u64, wanted: u64) -> Result<u64> {
    check_size(wanted)?;
    if wanted < have {
        return Err(Error::new(
            Kind::Invalid,
            format!("a volume cannot shrink (it has {have} bytes)"),
        ));
    }
    Ok(wanted)
}

pub(crate) fn check_attributes(attributes: &[u8]) -> Result<()> {
    if attributes.len() > ATTRIBUTES_BYTES_MAX {
        let text = format!(
            "{} bytes of attributes are more than {ATTRIBUTES_BYTES_MAX}",
            attributes.len()
        );
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(())
}
