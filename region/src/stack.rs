//! Runs a function on another stack. The handler of faults does so: the stack on which a signal arrives may be an
//! alternate one of 8 KiB, or that of a coroutine, and compressing a page needs more.

use core::ffi::c_void;

/// Calls `function` with `argument` on the stack that ends below `top`, and returns when it has returned.
///
/// On processors other than x86-64 and `AArch64`, calls it on the stack of the caller.
///
/// # Safety
/// `top` is the end of writable memory that nobody else uses during the call, is a multiple of 16, and the memory below
/// is large enough for `function`. `function` does not unwind, and may be called with `argument`.
pub(crate) unsafe fn call_on(
    top: *mut u8,
    function: extern "C" fn(*mut c_void),
    argument: *mut c_void,
) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: r12 keeps the stack pointer, since a function of the C convention preserves it; everything else that such
    // a function may change is marked as changed. The caller keeps the rest.
    unsafe {
        core::arch::asm!(
            "xchg rsp, r12",
            "call {function}",
            "mov rsp, r12",
            function = in(reg) function,
            in("rdi") argument,
            inout("r12") top => _,
            clobber_abi("C"),
        );
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above, with x21, which a function of the C convention preserves.
    unsafe {
        core::arch::asm!(
            "mov x21, sp",
            "mov sp, {top}",
            "blr {function}",
            "mov sp, x21",
            function = in(reg) function,
            top = in(reg) top,
            in("x0") argument,
            out("x21") _,
            clobber_abi("C"),
        );
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    {
        let _ = top;
        function(argument);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    extern "C" fn note(argument: *mut c_void) {
        let local = 0u8;
        // SAFETY: the test passes a pointer to a number.
        unsafe { *argument.cast::<usize>() += core::hint::black_box(&raw const local) as usize };
    }

    #[test]
    fn the_function_runs_there_and_the_caller_goes_on() {
        let mut stack = vec![0u128; 4096];
        let range = stack.as_ptr_range();
        let mut seen = 0usize;
        for _ in 0..3 {
            seen = 0;
            let argument = (&raw mut seen).cast();
            // SAFETY: the stack is 64 KiB of aligned memory of this test, and `note` needs a few bytes.
            unsafe { call_on(stack.as_mut_ptr_range().end.cast(), note, argument) };
        }
        let there = (range.start as usize..range.end as usize).contains(&seen);
        assert_eq!(
            there,
            cfg!(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))
        );
    }
}
