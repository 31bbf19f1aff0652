//! What calls of `Calibrated` budgets teach, and what the next ones reserve by it. Kept in memory only: a sidecar that starts anew learns
//! anew, and reserves soundly meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::calibration::Calibration;
use crate::core::shape::Shape;

/// What was learnt so far, of every model.
#[derive(Default)]
pub struct Estimates(Mutex<Calibration>);

impl Estimates {
    /// What counting leaves behind is whole after every statement, so a panic elsewhere leaves nothing half done.
    fn calibration(&self) -> MutexGuard<'_, Calibration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of which something can be learnt.
pub struct Lesson {
    estimates: Arc<Estimates>,
    /// Which model's tokens they are: of one backend, since others may count otherwise under the same name.
    model: String,
    shape: Shape,
}

impl Lesson {
    pub fn new(estimates: &Arc<Estimates>, backend: &str, model: &str, shape: Shape) -> Lesson {
        Lesson { estimates: Arc::clone(estimates), model: format!("{backend}/{model}"), shape }
    }

    /// Input tokens that it will hardly exceed; `None` before enough is known.
    pub fn estimate(&self) -> Option<u64> {
        self.estimates.calibration().estimate(&self.model, self.shape)
    }

    /// The provider has counted its input.
    pub fn learn(&self, billed: u64) {
        self.estimates.calibration().learn(&self.model, self.shape, billed);
    }
}
