//! The store's promises, each held against SQLite and against a real PostgreSQL.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]
#![cfg(feature = "hub")]

#[path = "store/bed.rs"]
mod bed;
#[path = "store/chunks.rs"]
mod chunks;
#[path = "store/life.rs"]
mod life;
#[path = "store/retention.rs"]
mod retention;
#[path = "store/sessions.rs"]
mod sessions;
mod support;
#[path = "store/tickets.rs"]
mod tickets;
#[path = "store/unreadable.rs"]
mod unreadable;

/// Makes two tests of each behaviour, `sqlite::NAME` and `postgres::NAME`.
macro_rules! on_both {
    ($($group:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        mod sqlite {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    let bed = crate::bed::Bed::sqlite().await;
                    crate::$group::$name(&bed).await;
                    bed.finish().await;
                }
            )+)+
        }
        mod postgres {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    let Some(bed) = crate::bed::Bed::postgres().await else { return };
                    crate::$group::$name(&bed).await;
                    bed.finish().await;
                }
            )+)+
        }
    };
}

on_both! {
    sessions:
        a_session_comes_back_as_it_was_made,
        names_are_counted_and_never_given_twice,
        sessions_made_at_once_have_different_names,
        a_repeated_key_is_the_same_start,
        a_repeated_id_is_the_same_start,
        two_starts_with_one_key_at_once_make_one_session,
        a_key_is_the_owners_own,
        the_list_is_newest_first_and_filtered,
        each_app_is_named_once,
        live_sessions_are_counted_by_owner_and_by_app,
        running_is_noted_until_the_end,
        the_first_end_stands,
        a_place_is_noted,
        deleting_takes_chunks_and_tickets_but_not_the_audit_trail,
        a_session_that_an_older_copy_does_not_know_is_put_back_under_its_name,
        a_name_and_a_key_that_were_taken_in_between_stay_with_their_new_owners;
    chunks:
        chunks_come_back_as_they_were_appended,
        a_chunk_of_a_mebibyte_of_any_bytes_is_kept,
        what_does_not_continue_the_journal_is_refused,
        an_append_is_all_or_none,
        two_hubs_cannot_append_the_same_place,
        a_journal_without_chunks_takes_any_start,
        a_session_that_is_gone_takes_no_chunks,
        reading_starts_at_the_chunk_that_holds_the_offset,
        reading_at_the_end_finds_the_last_records_without_length,
        reading_stops_when_enough_was_read,
        the_extent_tells_what_is_there,
        a_screen_is_the_last_at_or_before_an_offset,
        trimming_takes_the_oldest_chunks_and_their_screens,
        trimming_to_nothing_keeps_the_place;
    tickets:
        a_ticket_comes_back_as_it_was_made,
        a_ticket_needs_its_session,
        a_one_use_ticket_is_used_once_by_sixteen_at_once,
        a_ticket_for_many_uses_keeps_its_first_resume_secret,
        a_revoked_ticket_is_not_used,
        the_resume_secret_finds_the_ticket,
        the_audit_trail_is_newest_first_and_filtered;
    retention:
        what_ended_long_ago_goes,
        what_lives_stays,
        too_much_takes_the_journals_that_ended_first,
        old_audit_lines_go,
        the_latest_time_is_kept,
        a_day_that_is_used_again_works,
        retention_disturbs_nobody,
        one_hub_at_a_time_is_alone;
    unreadable:
        a_session_that_cannot_be_read_is_left_out_of_lists_and_counted,
        pages_go_on_across_sessions_that_cannot_be_read,
        a_session_that_cannot_be_read_is_no_other_start_and_not_put_back_twice,
        a_session_that_cannot_be_read_expires,
        a_ticket_that_cannot_be_read_is_left_out_and_counted,
        a_chunk_whose_row_cannot_be_read_has_no_data,
        sizes_that_cannot_be_keep_retention_from_nothing;
    life:
        the_installation_keeps_its_id,
        reopening_keeps_everything,
        opening_twice_at_once_works,
        tables_of_a_later_version_are_refused,
        tables_of_the_next_minor_version_are_not,
        a_full_database_has_its_own_error,
        what_is_no_database_url_is_refused;
}
