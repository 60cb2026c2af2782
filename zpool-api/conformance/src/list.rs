//! The list of all checks, by theme. From it come the public function of each check, the table that
//! [`all`](super::all) runs, and the tests of `conformance_tests!`. So none of these can miss a check.

/// Calls a macro with all themes and their checks: `theme { /// promise \n check, ... } ...`.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_list {
    ($($then:ident)::+ $(, $($head:tt)+)?) => {
        $($then)::+! { $($($head)+)?
            sizes {
                /// `caps`, `name` and `tag` make sense and never change.
                capabilities_are_constant,
                /// An object of every size, alone in the pool, reads back byte for byte.
                round_trip_every_size,
                /// Objects of every size, all alive at once, read back byte for byte.
                all_sizes_at_once,
                /// Every object starts at a multiple of the alignment that `caps` promises.
                objects_are_aligned,
                /// An object that is empty or larger than the maximum is refused.
                sizes_out_of_range_are_refused,
            }
            writes {
                /// A commit before every byte was written fails and frees the space.
                short_commit_frees_the_space,
                /// A write guard that is dropped frees its space.
                dropped_write_frees_the_space,
                /// A write beyond the end fails and writes nothing.
                write_beyond_the_end_is_refused,
                /// An object may be written in pieces, through `io::Write`, or in place.
                objects_are_written_in_pieces,
                /// Several write guards may be open at the same time, and they may end in any order.
                write_guards_are_independent,
                /// A write guard may be finished on another thread.
                write_guard_moves_to_another_thread,
                /// Other calls to the pool do not disturb an open write guard.
                open_write_guard_keeps_its_space,
                /// A forgotten write guard costs only its own space, until the pool is dropped.
                forgotten_write_guard_costs_its_space_only,
            }
            handles {
                /// A freed handle is invalid at once and cannot be freed again.
                freed_handle_is_invalid,
                /// A freed handle stays invalid however often its space is reused.
                stale_handles_stay_invalid,
                /// Reading any number as a handle is safe, and gives the object stored under it or an error.
                made_up_handles_are_safe_to_read,
                /// Freeing a made-up handle fails and frees nobody's object.
                made_up_handles_free_nothing,
                /// A handle of another pool of the same backend is invalid.
                other_pools_handles_are_invalid,
            }
            readers {
                /// An object that is freed while being read keeps its bytes until its readers have ended.
                free_under_a_live_reader,
                /// While one object always has a reader, the space of objects freed beside it is reusable.
                neighbours_of_a_read_object_are_reusable,
                /// An object may have many readers at the same time, and they may end in any order.
                many_readers_of_one_object,
                /// A read guard may end on another thread.
                guards_end_on_another_thread,
                /// A thread that waits with open guards blocks no other call, and its guards stay valid.
                guards_are_held_across_a_wait,
                /// Reads may begin and end under a lock of the caller, and they call no page provider.
                reads_begin_and_end_under_a_callers_lock,
                /// A forgotten read guard costs only its own object.
                forgotten_guard_costs_its_object_only,
                /// An owned guard keeps its pool alive. The drop of the last one drops the pool.
                owned_guard_outlives_the_pool,
            }
            accounting {
                /// Objects live in the provider's pages if and only if `uses_pages` says so.
                given_pages_are_used,
                /// Counts of objects and bytes are exact after every call.
                counts_are_exact,
                /// An emptied pool holds no page, and a dropped pool has returned all its pages.
                emptied_pool_holds_nothing,
                /// `trim` returns warm pages and changes nothing else.
                trim_leaves_objects_alone,
                /// `compact` frees pages but moves no object being read. If unsupported, it is refused.
                compaction_keeps_objects,
                /// `migrate` keeps handles and moves no object being read. If unsupported, it is refused.
                migration_keeps_objects,
            }
            mix {
                /// Under a random mix of all calls, the pool behaves like a map, even with open guards.
                random_mix_follows_the_model,
            }
            threads {
                /// Of several threads that free one object, exactly one succeeds.
                one_of_many_frees_wins,
                /// A reader that races a free and the reuse of the space sees the right bytes or an error.
                readers_race_free_and_reuse,
                /// Threads that store and free objects, and read each other's, all see the right bytes.
                concurrent_mix_follows_the_models,
            }
            shortage {
                /// If any page request fails, the pool stays unchanged.
                out_of_memory_at_every_step,
                /// A full pool refuses objects, and accepts them again after some were freed.
                full_pool_recovers,
            }
            reclaim {
                /// `reclaim` returns 0 for an empty pool. If unsupported, it is refused.
                reclaim_of_an_empty_pool,
                /// Target 0 offers nothing. If all is kept, every page is offered, but no object twice.
                reclaim_that_is_refused_changes_nothing,
                /// The objects of the oldest pages are offered first.
                reclaim_starts_with_the_oldest,
                /// `reclaim` frees the evicted objects, reaches its target, and counts the freed pages.
                reclaim_frees_what_is_given_up,
                /// A callback may free the offered object, and store another in its place.
                evict_may_free_the_object,
                /// A callback may free other objects.
                evict_may_free_others,
                /// A callback may allocate.
                evict_may_allocate,
                /// A reclaim offers no object that its callbacks store.
                reclaim_offers_nothing_that_callbacks_store,
                /// A callback may reclaim.
                evict_may_reclaim,
                /// A callback may panic. Then its object stays, and the pool stays valid.
                evict_may_panic,
                /// A callback may forget its guard.
                evict_may_forget_its_guard,
                /// Objects that are being read keep their bytes, and reclaim ends.
                reclaim_ends_despite_readers,
                /// Beside threads that store, read and free, reclaims take only what callbacks gave up.
                concurrent_reclaim,
            }
        }
    };
}

/// Makes a `#[test]` for each check of the suite. The expression gives the [`Subject`](crate::Subject) to
/// test. It is evaluated once per test. If you test several subjects, use a separate module for each.
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr $(,)?) => {
        $crate::__conformance_list!($crate::__conformance_tests, ($subject));
    };
}

/// Makes a `#[test]` for every check of the list.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    (($subject:expr) $( $theme:ident { $( #[doc = $promise:literal] $check:ident, )* } )*) => {
        $( $(
            #[doc = $promise]
            #[test]
            fn $check() {
                $crate::$check(&$subject);
            }
        )* )*
    };
}
