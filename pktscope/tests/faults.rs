//! The known faults of the systems that pktscope replaces, by number, each with the tests that show its answer.
//!
//! The numbers are those that test names carry (`fault_13_…`). A row's tests must exist and must not be ignored; what they
//! show, they show when they run.

use std::{collections::BTreeSet, fs, path::Path};

/// pktscope-core 0.2.0 is faults 1 to 21, rsigma-runtime 0.26.0 22 to 27, flowscope 0.26.0 and before 28 to 37,
/// netwatch-sdk 0.4.0 38 to 45.
struct Fault {
    number: u32,
    /// What the replaced system misses or does.
    miss: &'static str,
    /// `file: test test …`, files relative to the workspace, separated by semicolons.
    answers: &'static str,
}

const NOVELTY: &str = "pktscope/src/core/detect/tests/novelty.rs";

const FAULTS: &[Fault] = &[
    fault(
        1,
        "a burst followed by silence or exit is never evaluated",
        "V: fault_1_a_burst_followed_by_silence_is_reported fault_1_the_clock_closes_what_no_packet_closes fault_1_a_stop_judges_what_is_open",
    ),
    fault(
        2,
        "growth below 2.015 an interval never alarms",
        "V: fault_2_geometric_growth_is_reported_early a_quiet_day_is_learned_and_a_ramp_over_days_is_not_followed",
    ),
    fault(3, "a spike becomes the baseline", "V: fault_3_a_spike_that_goes_on_does_not_become_normal"),
    fault(
        4,
        "a new customer of a known cloud raises nothing",
        "N: fault_4_a_new_customer_of_a_known_cloud_is_a_new_destination",
    ),
    fault(5, "inbound traffic teaches", "N: fault_5_inbound_traffic_teaches_nothing"),
    fault(
        6,
        "an unreadable image replaces the known one; the file at the path is hashed, not what ran",
        "N: fault_6_an_unreadable_image_neither_hides_nor_replaces_the_known_one; pktscope/src/enrich/enricher.rs: a_swapped_binary_is_what_ran_and_not_what_lies_there_now",
    ),
    fault(
        7,
        "any packet from port 53 names addresses",
        "pktscope/src/core/names/tests.rs: an_unasked_answer_names_nothing a_second_answer_names_nothing; tests/e2e/names.rs: an_answer_that_nobody_asked_for_names_nothing",
    ),
    fault(
        8,
        "a ClientHello of two segments has no name; QUIC has none; DNS over TCP is misread",
        "pktscope/src/core/dissect/flows.rs: hello_in_segments dns_over_tcp; pktscope/src/core/dissect/quic.rs: a_hello_over_two_packets_out_of_order; tests/e2e/names.rs: a_hello_in_several_segments_is_read_whole",
    ),
    fault(
        9,
        "VLANs, cooked links, extension headers and fragments are not decoded; unattributed traffic is never told",
        "pktscope/src/core/packet/tests.rs: every_link_leads_to_the_packet extension_headers_are_stepped_over; V: bytes_without_an_owner_are_reported_and_captures_are_not; tests/e2e/detectors.rs: bytes_that_no_socket_sent_are_told",
    ),
    fault(
        10,
        "what was there while learning is normal for ever; later software alerts on everything; no reset",
        "N: fault_10_what_is_alerted_is_not_learned_until_an_analyst_says_so fault_10_the_baseline_can_be_reset_for_a_program an_ordinary_new_program_learns_for_itself",
    ),
    fault(
        11,
        "a start in the middle of a connection turns it round",
        "tests/e2e/older.rs: both_ends_of_an_older_connection_know_who_opened_it established_connections_are_known_from_the_first_event_on",
    ),
    fault(
        12,
        "a stepped wall clock silences alerts and stops intervals",
        "N: fault_12_a_stepped_wall_clock_neither_silences_nor_repeats; V: fault_12_intervals_close_while_the_wall_clock_is_wrong",
    ),
    fault(
        13,
        "one destination under three names is three alerts",
        "N: fault_13_a_name_that_comes_late_is_no_new_destination",
    ),
    fault(
        14,
        "package upgrades are critical alerts; a first contact is four",
        "N: fault_14_a_package_upgrade_keeps_the_baseline_without_an_alert a_dropper_is_one_alert_not_four; tests/e2e/contacts.rs: a_first_contact_with_its_look_up_is_one_alert",
    ),
    fault(
        15,
        "short-lived, dual-stack and wildcard-bound sockets have no owner",
        "tests/e2e/spine.rs: a_thousand_processes_of_a_millisecond_are_all_named; tests/e2e/bytes.rs: a_v4_mapped_stream_is_an_ipv4_flow a_v4_mapped_datagram_is_an_ipv4_flow; tests/e2e/ownership.rs: a_datagram_server_owns_its_answers",
    ),
    fault(
        16,
        "/proc is walked for every packet",
        "pktscope/tests/process_memory.rs: a_hundred_thousand_processes_stay_within_their_stated_memory",
    ),
    fault(
        17,
        "a closed connection leaves a ghost; UDP never ends; open flows are lost at the end",
        "pktscope/src/core/flow/sockets/tests.rs: the_last_ack_of_time_wait_is_the_connections_and_the_fin_it_answers_too an_idle_udp_peer_ends_and_begins_anew_with_what_is_new; tests/e2e/bytes.rs: every_destination_s_flow_ends_with_its_socket; tests/e2e/lifecycle.rs: sigterm_reports_open_flows_and_ends_well",
    ),
    fault(
        18,
        "14 write calls a packet; novelty and alert apart; a full disk is silent",
        "N: fault_18_novelty_and_alert_are_given_to_the_store_together; pktscope/tests/store_writes.rs: a_million_updates_cost_less_than_a_write_call_in_ten; tests/e2e/durable.rs: a_kill_at_any_instant_neither_loses_nor_repeats_an_alert a_full_disk_is_reported_and_recovered_from",
    ),
    fault(
        19,
        "readers and the packet path share one lock",
        "pktscope/src/store/tests.rs: followers_miss_nothing_when_the_clock_is_set_back killed_at_any_instant_the_store_keeps_what_it_said_and_no_halves",
    ),
    fault(
        20,
        "any user may stop the agent and read its state",
        "pktscope/src/api/tests.rs: the_socket_is_the_owners_alone_and_gone_with_the_server; pktscope/src/store/tests.rs: nobody_else_may_read_the_state",
    ),
    fault(
        21,
        "sequence numbers do not wrap, lost packets are not told, a binary is hashed on the packet's path",
        "pktscope/src/core/flow/tracker/tests.rs: sequence_numbers_wrap losses_are_told_apart; pktscope/src/enrich/enricher.rs: files_that_find_their_queue_full_are_read_later; tests/e2e/pressure.rs: what_finds_no_room_beside_a_full_ring_is_lost_but_its_bytes_are_told",
    ),
    fault(22, "a record read again counts again", "D: fault_22_a_re_read_counts_once_with_and_without_ids"),
    fault(
        23,
        "a corrected verdict counts beside the old one",
        "D: fault_23_a_changed_verdict_takes_the_place_of_the_old_one fault_23_two_verdicts_of_one_second_without_ids_are_one_changed_verdict",
    ),
    fault(24, "times in the future never age", "D: fault_24_the_future_is_now_and_ages_like_everything_else"),
    fault(
        25,
        "another bucket width breaks a restored snapshot",
        "D: fault_25_another_bucket_width_restores_the_same_counts_and_ages_them",
    ),
    fault(
        26,
        "records older than the window are accepted; rule ids are without bound",
        "D: fault_26_older_than_the_window_is_said_so_and_rules_are_the_known_ones",
    ),
    fault(
        27,
        "the ratio has no clock; verdicts never feed back",
        "D: fault_27_the_summary_has_a_clock_and_needs_no_prune fault_27_the_bound_drops_the_oldest_memory_and_keeps_the_counts; tests/e2e/verdicts.rs: an_imported_verdict_closes_its_alert_and_a_noisy_rule_proposes_and_takes_nothing",
    ),
    fault(28, "a flow joined in the middle does not close on FIN", "F: fin_ends_a_flow_joined_mid_stream"),
    fault(29, "a repeated FIN makes a ghost", "F: a_repeated_fin_after_the_close_makes_no_ghost"),
    fault(30, "a SYN-ACK first turns the flow round", "F: a_syn_ack_first_names_the_client_initiator"),
    fault(31, "any RST ends a flow", "F: an_rst_outside_the_window_ends_nothing"),
    fault(32, "one side's FIN twice closes both", "F: one_sides_fin_twice_is_half_a_close"),
    fault(
        33,
        "a SYN flood evicts established flows",
        "F: a_syn_flood_evicts_no_established_flow half_open_flows_have_their_own_timeout",
    ),
    fault(
        34,
        "nothing expires while the clock is behind",
        "F: a_clock_set_back_does_not_stop_expiry last_seen_never_moves_back",
    ),
    fault(35, "a long history loses its ending", "F: a_long_history_keeps_its_ending"),
    fault(36, "a reused tuple is the old flow", "F: a_reused_tuple_is_a_new_flow"),
    fault(
        37,
        "a sweep looks at every flow, and nothing expires without one",
        "F: a_tick_with_nothing_due_looks_at_nothing packets_alone_expire_flows",
    ),
    fault(38, "a long name with a multi-byte character panics", "R: fault_38_hostile_names_do_not_panic"),
    fault(39, "a tunnel is an alert a question", "R: fault_39_a_tunnel_is_one_alert_however_long_it_lasts"),
    fault(40, "beacons slower than five minutes are not seen", "R: fault_40_beacons_of_any_pace_are_found"),
    fault(41, "full tables ignore what is new", "R: fault_41_and_43_tables_are_bounded_and_count_what_they_drop"),
    fault(
        42,
        "twenty services are a scan, a sweep of hosts is none, a page of names is a tunnel",
        "R: fault_42_a_horizontal_scan_is_found_and_many_services_are_none fault_42_a_page_of_cdn_names_is_no_tunnel",
    ),
    fault(43, "tables grow without a tick", "R: fault_41_and_43_tables_are_bounded_and_count_what_they_drop"),
    fault(
        44,
        "a changed bandwidth bound holds for new interfaces only; only the first owner of a socket is named",
        "V: line_rate_out_is_reported_and_the_new_bound_holds_at_once; tests/e2e/ownership.rs: a_shared_socket_names_the_last_sender_and_the_creator",
    ),
    fault(
        45,
        "kernel events cannot be joined to a socket; unconnected datagrams are missed",
        "tests/e2e/ownership.rs: a_client_is_named_in_full; tests/e2e/bytes.rs: one_socket_with_many_destinations_gives_a_flow_for_each a_refused_connection_is_counted_and_named",
    ),
];

const fn fault(number: u32, miss: &'static str, answers: &'static str) -> Fault {
    Fault { number, miss, answers }
}

/// Short names of the files that answer many.
fn file_of(short: &str) -> &str {
    match short {
        "V" => "pktscope/src/core/detect/tests/volumes.rs",
        "N" => NOVELTY,
        "R" => "pktscope/src/core/detect/tests/rhythm.rs",
        "D" => "pktscope/src/core/alert/disposition/tests.rs",
        "F" => "pktscope/src/core/flow/tracker/tests/faults.rs",
        path => path,
    }
}

#[test]
fn every_fault_has_its_number_and_tests_that_run() {
    let numbers: Vec<_> = FAULTS.iter().map(|fault| fault.number).collect();
    assert_eq!(numbers, (1..=45).collect::<Vec<_>>());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for Fault { number, miss, answers } in FAULTS {
        for part in answers.split(';') {
            let (file, tests) = part.trim().split_once(": ").unwrap();
            let text = fs::read_to_string(workspace.join(file_of(file))).unwrap();
            for test in tests.split(' ') {
                assert!(is_run(&text, test), "fault {number} ({miss}): {file} has no test {test} that runs");
            }
        }
    }
}

/// Whether a file has a test of this name that is not ignored.
fn is_run(text: &str, test: &str) -> bool {
    let Some(at) = text.find(&format!("fn {test}(")) else { return false };
    let is_about_it = |line: &&str| line.trim_start().starts_with(['#', '/']);
    let before: Vec<&str> = text[..at].trim_end().lines().rev().take_while(is_about_it).collect();
    let is_ignored = before.iter().any(|line| line.trim_start().starts_with("#[ignore"));
    !is_ignored && before.iter().any(|line| line.contains("#[test]"))
}

#[test]
fn a_number_in_a_test_s_name_is_one_of_the_list() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for file in ["V", "N", "R", "D"] {
        let text = fs::read_to_string(workspace.join(file_of(file))).unwrap();
        let named: BTreeSet<u32> =
            text.split("fn fault_").skip(1).filter_map(|rest| rest.split('_').next()?.parse().ok()).collect();
        assert!(named.iter().all(|number| FAULTS.iter().any(|fault| fault.number == *number)), "{file}: {named:?}");
    }
}
