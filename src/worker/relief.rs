//! What becomes of a worker whose start of a command hangs: on a dead mount, or a program under a lease.
//!
//! A start stops its thread until the exec. A thread of its own for each would cost two more changes of thread for
//! every command (measured: a tenth of the rate), so the worker starts its commands itself. But first it parks its
//! whole state here; a start that returns takes it back, and that is all in the usual case. Where it does not return in
//! time, `relief` hands the state to a fresh thread, which goes on with all other sessions as if nothing had been. The
//! thread that hung brings its result by mail when it has one, and stays until its child is reaped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Worker;
use super::tools::Start;
use crate::message::ToWorker;
use crate::process::child::Children;
use crate::process::errands::Errands;
use crate::process::spawn::{Launched, Spawner};
use crate::sys::clone::Stack;

/// A start is slow after this.
const SLOW: Duration = Duration::from_millis(50);
/// While something is started or run as an errand, this often somebody looks whether it hangs.
const TICK: Duration = Duration::from_millis(20);
/// Looks that found nothing before nobody looks any more.
const QUIET_TICKS: u32 = 50;

/// Watches over what may hang.
pub struct Relief {
    pub spawner: Arc<Spawner>,
    pub errands: Errands,
    /// One a worker; by its number.
    seats: Vec<Mutex<Seat>>,
    awake: AtomicBool,
    poke: Sender<()>,
    poked: Receiver<()>,
    /// Never sent on; gone when nothing is left to watch over.
    stopped: Mutex<Option<Sender<()>>>,
    stop: Receiver<()>,
}

/// Where a worker's state stands while the worker starts a command.
#[derive(Default)]
struct Seat {
    parked: Option<(Box<Worker>, Instant)>,
}

impl Relief {
    pub fn new(spawner: Arc<Spawner>, errands: Errands, workers: usize) -> Arc<Relief> {
        let (poke, poked) = bounded(1);
        let (stopped, stop) = bounded(0);
        let seats = (0..workers).map(|_| Mutex::default()).collect();
        let stopped = Mutex::new(Some(stopped));
        Arc::new(Relief { spawner, errands, seats, awake: AtomicBool::new(false), poke, poked, stopped, stop })
    }

    /// No worker starts anything any more.
    pub fn stop(&self) {
        drop(self.stopped.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn seat(&self, index: usize) -> MutexGuard<'_, Seat> {
        self.seats[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on somebody looks.
    pub fn watch(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            let _ = self.poke.try_send(());
        }
    }

    /// Starts a command while the worker's state is parked; none: somebody else is the worker now.
    pub(super) fn start(
        &self,
        worker: Box<Worker>,
        start: Start,
        stack: &mut Stack,
        children: &Children,
    ) -> Option<(Box<Worker>, Launched)> {
        let Start { exec, session, plan, wiring, ticket, params } = start;
        let (index, mailbox) = (worker.index, worker.tools.own.clone());
        self.seat(index).parked = Some((worker, Instant::now()));
        self.watch();
        let starting = self.errands.living().starting(session, &ticket);
        let mut launched = self.spawner.spawn(*plan, wiring, &ticket, stack);
        drop(params);
        if let Ok(started) = &mut launched {
            started.child.join(children, starting.started(started.child.pid()));
        }
        drop(starting);
        let parked = self.seat(index).parked.take_if(|(worker, _)| worker.starting == Some(exec));
        match parked {
            Some((worker, _)) => Some((worker, launched)),
            None => {
                mailbox.tell(ToWorker::Launched { exec, launched });
                None
            }
        }
    }

    /// Runs on `relief`.
    pub fn run(self: Arc<Self>) {
        let mut quiet = 0;
        loop {
            crossbeam_channel::select! {
                recv(self.stop) -> _ => return,
                recv(self.poked) -> _ => {}
                default(TICK) => {}
            }
            let mut busy = false;
            for index in 0..self.seats.len() {
                busy |= self.look(index);
            }
            busy |= self.errands.look(Instant::now());
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet >= QUIET_TICKS {
                quiet = 0;
                self.errands.retire();
                self.rest();
            }
        }
    }

    /// Until somebody starts something; what was begun while falling asleep is seen.
    fn rest(&self) {
        self.awake.store(false, Ordering::SeqCst);
        let parked = (0..self.seats.len()).any(|index| self.seat(index).parked.is_some());
        if parked || self.errands.look(Instant::now()) {
            self.awake.store(true, Ordering::SeqCst);
            return;
        }
        crossbeam_channel::select! {
            recv(self.stop) -> _ => {}
            recv(self.poked) -> _ => {}
        }
    }

    /// Whether a worker is starting a command; if it has been for long, another thread goes on in its place.
    fn look(self: &Arc<Self>, index: usize) -> bool {
        let mut seat = self.seat(index);
        let Some((_, since)) = &seat.parked else { return false };
        if since.elapsed() < SLOW {
            return true;
        }
        let Some((mut worker, _)) = seat.parked.take() else { return true };
        drop(seat);
        log::warn!("worker-{index} hangs in starting {:?}; another thread goes on in its place", worker.starting);
        worker.starting = None;
        let relief = self.clone();
        // The state goes back where it was if there is no thread for it; then the start is waited for.
        let handed = Arc::new(Mutex::new(Some(worker)));
        let taken = handed.clone();
        let started = crate::threads::thread(format!("worker-{index}"), move || {
            if let Some(worker) = taken.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let joined = worker.tools.living().join(index);
                worker.run(&relief, joined);
            }
        });
        if let Err(error) = started {
            log::error!("worker-{index} cannot be relieved: {error}");
            let worker = handed.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.seat(index).parked = worker.map(|worker| (worker, Instant::now()));
        }
        true
    }
}
