//! A connection that is carried on by whoever waits for its answers, in the same task.
//!
//! As a task of its own it would be woken to send, and wake who waits, for each transaction; with a caller and the writer these are more
//! wake-ups in a row than the runtime does on one thread, so that each transaction woke another. Nobody looks after the connection in
//! between; that it was lost meanwhile is found out when it is needed next ([`Line::is_lost`]).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::{FutureExt, poll_fn};
use futures::task::AtomicWaker;

/// Rounds of one poll at most: the runtime's budget for a task is only renewed between polls.
const ROUNDS: usize = 8;

pub struct Line {
    /// Until it is lost.
    connection: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    bell: Arc<Bell>,
}

/// Rings through to the task, but not while that is looking anyway.
#[derive(Default)]
struct Bell {
    has_rung: AtomicBool,
    is_heard: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        self.has_rung.store(true, Ordering::SeqCst);
        if !self.is_heard.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl Line {
    /// `connection` ends when it is lost, or when nobody asks any more.
    pub fn new(connection: impl Future<Output = ()> + Send + 'static) -> Line {
        Line { connection: Some(Box::pin(connection)), bell: Arc::default() }
    }

    /// Whether it was lost while nobody looked.
    pub fn is_lost(&mut self) -> bool {
        if let Some(connection) = &mut self.connection
            && connection.now_or_never().is_some()
        {
            self.connection = None;
        }
        self.connection.is_none()
    }

    /// Does `work`, which asks on this connection.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let Line { connection, bell } = self;
        let waker = Waker::from(Arc::clone(bell));
        let mut work = pin!(work);
        poll_fn(|task| {
            bell.task.register(task.waker());
            bell.is_heard.store(true, Ordering::SeqCst);
            let mut context = Context::from_waker(&waker);
            let mut polled = Poll::Pending;
            for _ in 0..ROUNDS {
                bell.has_rung.store(false, Ordering::SeqCst);
                // Answers first, so that the work goes on with them; what it asks then is sent in the next round.
                if connection.as_mut().is_some_and(|connection| connection.as_mut().poll(&mut context).is_ready()) {
                    *connection = None;
                }
                polled = work.as_mut().poll(&mut context);
                if polled.is_ready() || !bell.has_rung.load(Ordering::SeqCst) {
                    break;
                }
            }
            bell.is_heard.store(false, Ordering::SeqCst);
            // By another thread since the last look, or there were too many rounds.
            if polled.is_pending() && bell.has_rung.load(Ordering::SeqCst) {
                task.waker().wake_by_ref();
            }
            polled
        })
        .await
    }

    /// Waits for its end, once nobody can ask any more.
    pub async fn end(self) {
        if let Some(connection) = self.connection {
            connection.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::channel::{mpsc, oneshot};
    use futures::{SinkExt, StreamExt};

    use super::*;

    type Question = (u32, oneshot::Sender<u32>);

    /// Answers with the double; `None` is the end.
    async fn doubles(mut questions: mpsc::UnboundedReceiver<Option<Question>>) {
        while let Some(Some((number, answer))) = questions.next().await {
            let _ = answer.send(number * 2);
        }
    }

    async fn ask(questions: &mpsc::UnboundedSender<Option<Question>>, number: u32) -> Option<u32> {
        let (answer, answered) = oneshot::channel();
        questions.unbounded_send(Some((number, answer))).ok()?;
        answered.await.ok()
    }

    /// A waker that counts.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn work_and_connection_take_turns_in_one_poll_and_wake_nobody() {
        let (questions, asked) = mpsc::unbounded();
        let mut line = Line::new(doubles(asked));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let polled = {
            let mut work = pin!(line.during(async { (ask(&questions, 1).await, ask(&questions, 2).await) }));
            work.as_mut().poll(&mut Context::from_waker(&waker))
        };
        assert_eq!((polled, count.0.load(Ordering::SeqCst)), (Poll::Ready((Some(2), Some(4))), 0));
    }

    #[test]
    fn too_many_turns_are_left_for_the_next_poll() {
        let (questions, asked) = mpsc::unbounded();
        let mut line = Line::new(doubles(asked));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut work = pin!(line.during(async {
            for number in 0..100 {
                assert_eq!(ask(&questions, number).await, Some(number * 2));
            }
        }));
        let mut polls = 1;
        while work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            assert_eq!(count.0.load(Ordering::SeqCst), polls, "whoever is not done asks to be polled again");
            polls += 1;
        }
        assert!(polls > 10);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_comes_from_another_thread_is_heard_and_a_connection_that_is_lost_ends_the_work() {
        let (mut relayed, relay) = mpsc::unbounded();
        let (questions, asked) = mpsc::unbounded();
        tokio::spawn(doubles(asked));
        // Passes on to a task elsewhere, which answers whoever asked.
        let mut line = Line::new(async move {
            let mut relay = relay;
            while let Some(Some(question)) = relay.next().await {
                if questions.unbounded_send(Some(question)).is_err() {
                    return;
                }
            }
        });
        for number in 0..1_000 {
            assert_eq!(line.during(ask(&relayed, number)).await, Some(number * 2));
        }
        assert!(!line.is_lost());
        relayed.send(None).await.expect("taken");
        assert!(line.is_lost() && line.is_lost());
        assert_eq!(line.during(ask(&relayed, 7)).await, None);
        line.end().await;
    }
}
