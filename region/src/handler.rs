//! The handlers of SIGBUS and SIGSEGV: they serve faults in regions, and pass everything else on.
//!
//! A handler stays installed for ever. A program may install another one over it, which passes on what it does not
//! know. If a region is built then, a further one of ours goes on top of that; each passes on to what it found. So no two
//! handlers pass a signal to each other in turn.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::fault::Access;
use crate::registry;
use crate::signals;
use crate::sys::check;

/// How often a signal's handler can be replaced by the program between builds of regions.
const LEVELS: usize = 8;
/// The code of a signal for an address where nothing is mapped, of SIGSEGV and of SIGBUS.
const SEGV_MAPERR: libc::c_int = 1;
const BUS_ADRERR: libc::c_int = 2;

type Handler = extern "C-unwind" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void);

const BUS: [Handler; LEVELS] = [
    on::<0, 0>, on::<0, 1>, on::<0, 2>, on::<0, 3>, on::<0, 4>, on::<0, 5>, on::<0, 6>, on::<0, 7>,
];
const SEGV: [Handler; LEVELS] = [
    on::<1, 0>, on::<1, 1>, on::<1, 2>, on::<1, 3>, on::<1, 4>, on::<1, 5>, on::<1, 6>, on::<1, 7>,
];

/// What each of our handlers found when it was installed.
static FOUND: [[AtomicPtr<libc::sigaction>; LEVELS]; 2] =
    [const { [const { AtomicPtr::new(ptr::null_mut()) }; LEVELS] }; 2];
/// What is left of a handler that was to be called once.
// SAFETY: a zeroed `sigaction` is valid, and is the default.
static DEFAULT: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
static INSTALLING: Mutex<()> = Mutex::new(());

/// Makes one of our handlers the handler of a signal, if none is.
///
/// # Errors
/// Whether the system refused, or the handler was replaced too often (`None`).
pub(crate) fn install(signal: libc::c_int) -> Result<(), Option<std::io::Error>> {
    let _installing = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let of = usize::from(signal == libc::SIGSEGV);
    let ours = if of == 1 { SEGV } else { BUS };
    let found = current(signal).map_err(Some)?;
    if ours.iter().any(|handler| *handler as usize == found.sa_sigaction) {
        return Ok(());
    }
    let level =
        FOUND[of].iter().position(|place| place.load(Ordering::SeqCst).is_null()).ok_or(None)?;
    // Leaked: the handler may run at any time from now on.
    FOUND[of][level].store(Box::leak(Box::new(found)), Ordering::SeqCst);
    // SAFETY: a zeroed `sigaction` is valid.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = ours[level] as usize;
    // On the alternate stack, since a stack overflow is a SIGSEGV, too. All signals wait until the handler is done: it
    // leaves the alternate stack, and another handler would use it from its start again.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    action.sa_mask = signals::everything();
    // SAFETY: `on` is a handler of this kind, and may run on any thread at any time.
    check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }).map_err(Some)
}

fn current(signal: libc::c_int) -> std::io::Result<libc::sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: the call fills the action, and changes no handler.
    check(unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: it has succeeded.
    Ok(unsafe { action.assume_init() })
}

extern "C-unwind" fn on<const OF: usize, const LEVEL: usize>(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // SAFETY: the address of this thread's `errno` is valid.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // SAFETY: the system passes the information of the signal.
    if !unsafe { serve(signal, info, context) } {
        // SAFETY: this passes on what the system passed to this handler.
        unsafe { pass_on(OF, LEVEL, signal, info, context) };
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Serves the fault if it is one in a region. Returns whether it was.
///
/// # Safety
/// `info` and `context` are those of a signal that this thread handles.
unsafe fn serve(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) -> bool {
    // SAFETY: the caller's contract.
    let code = unsafe { (*info).si_code };
    let expected = if signal == libc::SIGBUS { BUS_ADRERR } else { SEGV_MAPERR };
    if code != expected {
        return false;
    }
    // SAFETY: the caller's contract.
    let info = unsafe { &*info };
    // SAFETY: these signals with this code have an address.
    let address = unsafe { info.si_addr() } as usize;
    let Some(used) = registry::find(address) else { return false };
    let region = used.region();
    if !region.raises(signal) {
        return false;
    }
    // SAFETY: the caller's contract.
    region.serve(address, unsafe { access(context) });
    true
}

/// Returns whether the touch was a write. Where that is unknown, it counts as one.
///
/// # Safety
/// `context` is that of a fault.
#[cfg(target_arch = "x86_64")]
unsafe fn access(context: *mut c_void) -> Access {
    const WRITE: i64 = 1 << 1;
    // SAFETY: the caller's contract.
    let error =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
    if error & WRITE != 0 { Access::Write } else { Access::Read }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn access(_context: *mut c_void) -> Access {
    Access::Write
}

/// Does with a signal what would have happened without our handler.
///
/// # Safety
/// The arguments are those of a signal that this thread handles.
unsafe fn pass_on(
    of: usize,
    level: usize,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // SAFETY: the action was leaked before this handler was installed.
    let found = unsafe { &*FOUND[of][level].load(Ordering::SeqCst) };
    match found.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // A fault that nobody handles ends the process, also if it is ignored: when this handler returns, the
            // instruction faults again, and finds the default. A signal that was sent does not come again by itself.
            // SAFETY: a zeroed action is the default.
            let default: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            // SAFETY: the caller's contract.
            let sent = unsafe { (*info).si_code } <= 0;
            if sent && found.sa_sigaction == libc::SIG_IGN {
                return;
            }
            // SAFETY: the default action needs nothing.
            unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
            if sent {
                // SAFETY: it is delivered when this handler returns.
                unsafe { libc::raise(signal) };
            }
        }
        handler => {
            let mut before = MaybeUninit::uninit();
            // All signals are blocked here; the handler found expects its own mask, and what the thread had blocked.
            // SAFETY: the context has the mask that the thread had.
            let thread = unsafe { &raw const (*context.cast::<libc::ucontext_t>()).uc_sigmask };
            // SAFETY: both are sets of signals.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, thread, before.as_mut_ptr()) };
            let mut mask = found.sa_mask;
            if found.sa_flags & libc::SA_NODEFER == 0 {
                // SAFETY: the set is initialised, and the number is a signal.
                unsafe { libc::sigaddset(&raw mut mask, signal) };
            }
            if found.sa_flags & libc::SA_RESETHAND != 0 {
                FOUND[of][level].store((&raw const DEFAULT).cast_mut(), Ordering::SeqCst);
            }
            // SAFETY: as above.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const mask, ptr::null_mut()) };
            if found.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: the program has installed a handler of this kind for this signal.
                let handler: Handler = unsafe { core::mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: as above.
                let handler: extern "C-unwind" fn(libc::c_int) =
                    unsafe { core::mem::transmute(handler) };
                handler(signal);
            }
            // SAFETY: the first call has filled it.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
        }
    }
}
