//! The list of checks, by theme: the one place that the functions, [`all`](super::all) and
//! `conformance_tests!` are made from, so that a check cannot be in one of them only.

/// Calls a macro with every theme and its checks: `theme { /// promise \n check, ... } ...`.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_list {
    ($($then:ident)::+ $(, $($head:tt)+)?) => {
        $($then)::+! { $($($head)+)?
            sizes {
                /// `caps`, `name` and `tag` make sense and never change.
                capabilities_are_constant,
                /// An object of every size comes back byte for byte, alone.
                round_trip_every_size,
                /// Objects of every size, all alive at once, come back byte for byte.
                all_sizes_at_once,
                /// Every object starts at a multiple of the alignment that `caps` promises.
                objects_are_aligned,
                /// An object of no bytes, or of more than the maximum, is refused.
                sizes_out_of_range_are_refused,
            }
            writes {
                /// A commit before every byte was written fails and frees the space.
                short_commit_frees_the_space,
                /// A write guard that is dropped frees its space.
                dropped_write_frees_the_space,
                /// A write beyond the end fails and writes nothing.
                write_beyond_the_end_is_refused,
                /// Pieces, `io::Write`, and spare bytes filled in place make the same object.
                objects_are_written_in_pieces,
                /// Several write guards are open at once and end in any order.
                write_guards_are_independent,
                /// A write guard may be finished on another thread.
                write_guard_moves_to_another_thread,
                /// What else happens to the pool does not disturb an open write guard.
                open_write_guard_keeps_its_space,
                /// A forgotten write guard costs its space until the pool is dropped, no more.
                forgotten_write_guard_costs_its_space_only,
            }
            handles {
                /// A freed handle is invalid at once and cannot be freed again.
                freed_handle_is_invalid,
                /// A freed handle stays invalid however often its space is reused.
                stale_handles_stay_invalid,
                /// Any number is safe to read by, and names what was stored under it or nothing.
                made_up_handles_are_safe_to_read,
                /// Freeing a made-up handle fails and frees nobody's object.
                made_up_handles_free_nothing,
                /// A handle of another pool of the same backend is invalid.
                other_pools_handles_are_invalid,
            }
            readers {
                /// An object freed while it is read keeps its bytes until its readers have gone.
                free_under_a_live_reader,
                /// Objects freed beside one that is read without pause become reusable.
                neighbours_of_a_read_object_are_reusable,
                /// An object has many readers at once, and they leave in any order.
                many_readers_of_one_object,
                /// A read guard may end on another thread.
                guards_end_on_another_thread,
                /// A guard held across a wait stops nobody, and nobody stops it.
                guards_are_held_across_a_wait,
                /// Reads begin and end under a lock of the caller's, and call no page provider.
                reads_begin_and_end_under_a_callers_lock,
                /// A forgotten read guard costs its own object, no more.
                forgotten_guard_costs_its_object_only,
                /// An owned guard keeps its pool alive, and the pool goes with it.
                owned_guard_outlives_the_pool,
            }
            accounting {
                /// Objects live in the provider's pages, or the subject says that they do not.
                given_pages_are_used,
                /// Counts of objects and bytes are exact after every call.
                counts_are_exact,
                /// An emptied pool holds no page, and a dropped one has given all back.
                emptied_pool_holds_nothing,
                /// `trim` gives warm pages back and touches nothing else.
                trim_leaves_objects_alone,
                /// `compact` gives pages back and moves nothing that is read, or is refused.
                compaction_keeps_objects,
                /// `migrate` moves what is not read, all under the same handles, or is refused.
                migration_keeps_objects,
            }
            mix {
                /// A random mix of all calls does what a map would do, with guards kept open.
                random_mix_follows_the_model,
            }
            threads {
                /// Of several threads that free one object, exactly one succeeds.
                one_of_many_frees_wins,
                /// Readers that race a free and the reuse of the space see right bytes or none.
                readers_race_free_and_reuse,
                /// Threads that store, free and read each other's objects all see right bytes.
                concurrent_mix_follows_the_models,
            }
            shortage {
                /// A page request that fails, whichever, leaves the pool as it was.
                out_of_memory_at_every_step,
                /// A pool that is full says so, and holds objects again once some were freed.
                full_pool_recovers,
            }
            reclaim {
                /// `reclaim` ends with 0 for an empty pool, or is refused as `caps` says.
                reclaim_of_an_empty_pool,
                /// Target 0 offers nothing; a callback that refuses sees each object once.
                reclaim_that_is_refused_changes_nothing,
                /// Oldest pages are offered first.
                reclaim_starts_with_the_oldest,
                /// What is given up is freed, as many pages as asked for, and counted.
                reclaim_frees_what_is_given_up,
                /// A callback may free the very object, and store another in its place.
                evict_may_free_the_object,
                /// A callback may free other objects.
                evict_may_free_others,
                /// A callback may allocate.
                evict_may_allocate,
                /// A reclaim is over when what there was has been offered, whatever callbacks store.
                reclaim_offers_nothing_that_callbacks_store,
                /// A callback may reclaim.
                evict_may_reclaim,
                /// A callback may panic: its object stays, the pool stays valid.
                evict_may_panic,
                /// A callback may forget its guard.
                evict_may_forget_its_guard,
                /// Objects that are read keep their bytes, whatever reclaim does.
                reclaim_ends_despite_readers,
                /// Several reclaims run beside threads that store, read and free.
                concurrent_reclaim,
            }
        }
    };
}

/// Makes one `#[test]` of every check of the suite, for the
/// [`Subject`](crate::Subject) that the expression gives. It is evaluated once a
/// test. Put it into a module of its own for each subject.
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr $(,)?) => {
        $crate::__conformance_list!($crate::__conformance_tests, ($subject));
    };
}

/// A `#[test]` for every check of the list.
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
