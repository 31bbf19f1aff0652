//! Time-outs that seldom come to pass.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// A timer that is set only once something is waited for, and moved only when it goes off: what arrives in time costs no more than a
/// look at the clock.
#[derive(Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `until` is over, which may be another time whenever it is asked.
    pub fn poll(&mut self, until: Instant, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if until < timer.deadline() {
            timer.as_mut().reset(until);
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_goes_off_at_the_time_that_was_asked_last() {
        for (first, second) in [(10, 30), (3_600_000, 20), (10, 10)] {
            let (mut alarm, begun) = (Alarm::default(), Instant::now());
            let [first, second] = [first, second].map(|ms| begun + Duration::from_millis(ms));
            assert!(futures::poll!(std::future::poll_fn(|context| alarm.poll(first, context))).is_pending());
            std::future::poll_fn(|context| alarm.poll(second, context)).await;
            assert!(Instant::now() >= second);
        }
    }
}
