//! A volume or snapshot in the catalog: its properties, and where its map's root lies.

use super::Malformed;
use super::node::{NodeRef, StoredChild};
use crate::base::{Address, Lsn, Settings, VOLUME_BYTES_MAX, VolumeNumber};
use bytes::{Buf, BufMut};
use std::sync::Arc;
use uuid::Uuid;

/// Properties of a volume or snapshot, without its map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeMeta {
    pub(crate) number: VolumeNumber,
    pub(crate) id: Uuid,
    /// The volume that all its ancestors come from, itself if it has none. Blocks are shared within
    /// a family only.
    pub(crate) family: VolumeNumber,
    /// The volume that this is a snapshot of.
    pub(crate) snapshot_of: Option<VolumeNumber>,
    pub(crate) size_bytes: u64,
    pub(crate) settings: Settings,
    /// The caller's own bytes.
    pub(crate) attributes: Arc<[u8]>,
}

impl VolumeMeta {
    /// Appends the entry, as [`super::RecordKind::VolumePut`] and the catalog hold it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.number.0);
        out.put_slice(self.id.as_bytes());
        out.put_u32_le(self.family.0);
        out.put_u32_le(self.snapshot_of.map_or(0, |volume| volume.0));
        out.put_u64_le(self.size_bytes);
        out.put_u64_le(self.settings.cache_bytes);
        out.put_u64_le(self.settings.buffer_bytes);
        out.put_u32_le(self.settings.prefetch_mib);
        out.put_u8(u8::from(self.settings.writeback));
        out.put_u8(0);
        out.put_u16_le(u16::try_from(self.attributes.len()).expect("checked when they were set"));
        out.put_slice(&self.attributes);
    }

    /// Reads an entry and moves `b` behind it.
    pub(crate) fn decode(b: &mut &[u8]) -> Result<Self, Malformed> {
        let number = VolumeNumber(b.try_get_u32_le()?);
        let mut id = [0; 16];
        b.try_copy_to_slice(&mut id)?;
        let family = VolumeNumber(b.try_get_u32_le()?);
        let snapshot_of = Some(VolumeNumber(b.try_get_u32_le()?)).filter(|volume| volume.0 != 0);
        let size_bytes = b.try_get_u64_le()?;
        let settings = Settings {
            cache_bytes: b.try_get_u64_le()?,
            buffer_bytes: b.try_get_u64_le()?,
            prefetch_mib: b.try_get_u32_le()?,
            writeback: b.try_get_u8()? != 0,
        };
        let _reserved = b.try_get_u8()?;
        let len = usize::from(b.try_get_u16_le()?);
        let attributes = b.get(..len).ok_or(Malformed("a volume's attributes are short"))?.into();
        b.advance(len);
        if size_bytes > VOLUME_BYTES_MAX {
            return Err(Malformed("a volume is larger than can be"));
        }
        let id = Uuid::from_bytes(id);
        Ok(Self { number, id, family, snapshot_of, size_bytes, settings, attributes })
    }
}

/// Which blocks of a map no other map can have, by the birthday rule: an address that is younger
/// than the last point at which the map was copied, or became a copy, is in no other map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Birthday {
    /// Blocks at addresses from this raw one on are the map's alone; 0 where it shares with no
    /// other map.
    pub(crate) shared_below: u64,
    /// Data blocks of the map at such addresses, at most: after a whole subtree was dropped unread,
    /// the count may include blocks of it until the next mark counts.
    pub(crate) own_blocks: u64,
}

impl Birthday {
    /// How many of these blocks are the map's alone.
    pub(crate) fn own_in(&self, first: Address, blocks: u64) -> u64 {
        (first.raw() + blocks).saturating_sub(first.raw().max(self.shared_below))
    }
}

/// A volume's map as the catalog names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredMap {
    /// `None` for nothing but holes. A root's own count of mapped blocks is 0.
    pub(crate) root: Option<StoredChild>,
    /// Data blocks mapped.
    pub(crate) mapped: u64,
    pub(crate) birthday: Birthday,
}

/// A volume or snapshot in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeEntry {
    pub(crate) meta: VolumeMeta,
    /// Records of this volume below this LSN are in `map`.
    pub(crate) applied: Lsn,
    pub(crate) map: StoredMap,
}

impl VolumeEntry {
    /// Appends the volume entry and the root.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.meta.encode(out);
        out.put_u64_le(self.applied.0);
        let (tag, node) = match self.map.root {
            None => (0, None),
            Some(StoredChild::Zero) => (1, None),
            Some(StoredChild::Node(node)) => (2, Some(node)),
        };
        out.put_u8(tag);
        out.put_u8(node.map_or(0, |n| n.blocks));
        out.put_u16_le(0);
        out.put_u32_le(node.map_or(0, |n| n.checksum));
        out.put_u64_le(node.map_or(0, |n| n.address.raw()));
        out.put_u64_le(self.map.mapped);
        let Birthday { shared_below, own_blocks } = self.map.birthday;
        out.put_u64_le(shared_below);
        out.put_u64_le(own_blocks);
    }

    /// Reads a volume entry and its root, and moves `b` behind them.
    pub(crate) fn decode(b: &mut &[u8]) -> Result<Self, Malformed> {
        let meta = VolumeMeta::decode(b)?;
        let applied = Lsn(b.try_get_u64_le()?);
        let (tag, blocks) = (b.try_get_u8()?, b.try_get_u8()?);
        let _reserved = b.try_get_u16_le()?;
        let (checksum, address) = (b.try_get_u32_le()?, b.try_get_u64_le()?);
        let mapped = b.try_get_u64_le()?;
        let birthday =
            Birthday { shared_below: b.try_get_u64_le()?, own_blocks: b.try_get_u64_le()? };
        let root = match tag {
            0 => None,
            1 => Some(StoredChild::Zero),
            2 => {
                let no_address = Malformed("a root has no address");
                let address = Address::from_raw(address).ok_or(no_address)?;
                Some(StoredChild::Node(NodeRef { address, checksum, blocks, mapped: 0 }))
            }
            _ => return Err(Malformed("a root is of an unknown kind")),
        };
        Ok(Self { meta, applied, map: StoredMap { root, mapped, birthday } })
    }
}
