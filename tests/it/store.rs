//! The contract of `treering::store`, which every backend keeps: each check of `contract` runs against
//! each backend.

use std::time::Duration;

use treering::store::{Options, Retry, Store, StoreUrl};

mod borgstore;
mod contract;
mod failures;
pub mod s3_server;
pub mod servers;
mod specifics;

use servers::{RcloneRemote, RcloneSftp, Server, SshServer, WebDavServer};

/// A place where a store can be made, the server that serves it, and how to reach it.
pub struct Place {
    pub url: StoreUrl,
    pub options: Options,
    pub server: Box<dyn Server>,
}

impl Place {
    fn create(&self) -> Store {
        Store::create(&self.url, self.options.clone()).unwrap()
    }

    fn open(&self) -> Store {
        Store::open(&self.url, self.options.clone()).unwrap()
    }
}

/// Quick retries: what fails here fails for good.
fn options() -> Options {
    Options {
        retry: Retry {
            attempts: 3,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
        },
        timeout: Duration::from_secs(20),
        ..Options::default()
    }
}

/// Runs every check against the places that `$place` makes; `None` is a program that is missing.
macro_rules! conforms {
    ($backend:ident, $place:expr) => {
        mod $backend {
            use super::*;

            conforms!(@checks $place;
                an_object_is_stored_replaced_and_deleted
                ranges_are_exact
                many_ranges_come_in_their_order
                what_is_not_there_is_not_found
                a_listing_has_every_object_of_its_namespace_once
                several_levels_are_read_and_one_is_written
                a_soft_deletion_can_be_taken_back
                a_move_keeps_the_content_and_refuses_a_name_that_is_taken
                new_means_new
                any_allowed_key_works
                a_large_file_is_streamed_and_hashed
                a_store_is_made_once_and_destroyed_whole
                foreign_files_are_not_objects
                a_place_that_is_no_store_is_not_destroyed
                what_has_no_marker_is_destroyed_by_its_name_alone
                a_destroyed_store_takes_nothing_along
                of_clients_that_move_to_one_name_one_succeeds
                files_have_the_mode_that_the_umask_leaves
            );
        }
    };
    (@checks $place:expr; $($check:ident)*) => {
        $(
            #[test]
            fn $check() {
                if let Some(place) = $place {
                    contract::$check(&place);
                }
            }
        )*
    };
}

conforms!(file, Some(servers::local_files()));
conforms!(s3, Some(servers::s3()));
conforms!(rclone, RcloneRemote::place());
conforms!(sftp, SshServer::place(&[]));
// A server that can neither replace by a rename nor link, as small ones in appliances.
conforms!(sftp_plain, SshServer::place(&["posix-rename", "hardlink", "fsync"]));
// A server that answers that it made a link, and made none.
conforms!(sftp_rclone, RcloneSftp::place());
conforms!(webdav, WebDavServer::place());
