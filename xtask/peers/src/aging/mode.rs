//! The modes of an aging run: what compacts the pool, and when.

use std::sync::Arc;

use serde::Serialize;
use zswap_core::{BackgroundCompactor, CompactorPolicy, Zswap};

use crate::error::{Error, Result};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Nothing compacts the pool.
    Off,
    /// The program calls `compact` at regular intervals.
    OnDemand,
    /// A background thread of the store compacts the pool, with its default policy.
    Background,
}

impl Mode {
    pub(crate) const ALL: [Mode; 3] = [Mode::Off, Mode::OnDemand, Mode::Background];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::OnDemand => "on demand",
            Mode::Background => "background",
        }
    }
}

/// Compacts a store in one of the modes.
pub(crate) struct Compaction {
    mode: Mode,
    compactor: Option<BackgroundCompactor>,
    on_demand: Runs,
}

/// How much compaction has been done so far.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Runs {
    pub(crate) runs: u64,
    pub(crate) pages: u64,
    pub(crate) seconds: f64,
}

impl Compaction {
    pub(crate) fn start(mode: Mode, store: &Arc<Zswap>) -> Result<Self> {
        let compactor = match mode {
            Mode::Background => {
                let started = store.compact_in_background(CompactorPolicy::default());
                Some(started.map_err(Error::setup)?)
            }
            Mode::Off | Mode::OnDemand => None,
        };
        Ok(Compaction { mode, compactor, on_demand: Runs::default() })
    }

    /// Compacts the store if the mode is on demand; does nothing in the other modes.
    pub(crate) fn demand(&mut self, store: &Zswap) -> Result<()> {
        if self.mode == Mode::OnDemand {
            let start = std::time::Instant::now();
            let pages = store.compact().map_err(Error::setup)?;
            self.on_demand.runs += 1;
            self.on_demand.pages += pages as u64;
            self.on_demand.seconds += start.elapsed().as_secs_f64();
        }
        Ok(())
    }

    pub(crate) fn runs(&self) -> Runs {
        match &self.compactor {
            None => self.on_demand,
            Some(compactor) => {
                let report = compactor.report();
                let seconds = report.busy.as_secs_f64();
                Runs { runs: report.runs, pages: report.pages, seconds }
            }
        }
    }
}
