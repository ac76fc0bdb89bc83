//! The store, attacked: each module is a suite, and `world` what they share. One program, so that
//! it links once.

#[cfg(feature = "blindness")]
mod blindness;
mod catalog;
mod check;
mod crash;
mod damage;
mod defragment;
mod enumeration;
mod fairness;
mod faults;
mod full_disk;
mod host;
mod knobs;
mod lineage;
mod model;
mod ordering;
mod reclaim;
mod rot;
mod scrub;
mod shared;
mod smoke;
mod space;
mod watchdog;
mod world;
