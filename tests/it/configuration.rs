//! Configurations that somebody else wrote: of a repository, and of a remote.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_cbor::Value;
use treering::cbor;
use treering::gitkv::Git;
use treering::progress::Progress;
use treering::remote::{RemoteError, Remotes};
use treering::repository::{FORMAT_VERSION, Repository, RestoreOptions};

use crate::cold::{quick, remotes, store_url, who};
use crate::lab::Lab;
use crate::tree::noise;

const CONFIG: &str = "config.cbor";

/// The configuration of the lab's repository, changed.
fn changed(lab: &Lab, change: impl FnOnce(&mut BTreeMap<String, Value>)) -> Vec<u8> {
    let bytes = cbor::to_vec(lab.repository.config()).unwrap();
    let mut map = cbor::from_slice(&bytes).unwrap();
    change(&mut map);
    cbor::to_vec(&map).unwrap()
}

/// Configurations by which a reader must not be led.
fn odd(lab: &Lab) -> Vec<Vec<u8>> {
    let only = |keys: &'static [&str]| changed(lab, |map| map.retain(|key, _| keys.contains(&key.as_str())));
    let with = |key: &str, value: Value| changed(lab, |map| drop(map.insert(key.to_owned(), value)));
    vec![
        only(&["version", "id"]),
        only(&["version", "id", "segments", "compression"]),
        with("compression", Value::Text("no such thing".into())),
        with("segments", Value::Text("x".into())),
        with("confirm_key", Value::Bytes(vec![0; 3])),
        with("append_only", Value::Integer(7)),
        with("version", Value::Text("1".into())),
    ]
}

fn head(path: &Path) -> String {
    Git::open(path).unwrap().head().unwrap().unwrap().to_string()
}

#[test]
fn an_id_leads_to_no_other_directory() {
    let lab = Lab::encrypted();
    let victim = lab.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o755)).unwrap();
    for id in ["../victim", victim.to_str().unwrap(), "..", "", "victim", &"A".repeat(32), &"a".repeat(33)] {
        let config = changed(&lab, |map| drop(map.insert("id".into(), Value::Text(id.into()))));
        lab.replace(CONFIG, Some(&config));
        let opened = Repository::open(&lab.path("repo"))
            .and_then(|repository| repository.with_cache(&lab.path("cache")));
        let error = opened.err().unwrap_or_else(|| panic!("{id:?} was taken"));
        assert!(error.to_string().contains("config.cbor is damaged"), "{error}");
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn a_configuration_that_is_none_is_not_taken_from_a_git_remote() {
    let mut lab = Lab::new();
    lab.write("file", "content");
    lab.backup();
    let hub = lab.path("hub.git");
    Git::init(&hub, &[]).unwrap();
    let url = hub.to_str().unwrap();
    let here = remotes(&lab.path("repo"));
    here.add("hub", url).unwrap();
    here.push("hub", &who()).unwrap();
    let sound = head(&lab.path("repo"));
    for config in odd(&lab) {
        lab.replace_in("hub.git", CONFIG, Some(&config));
        let fails = [
            here.pull("hub", &who()).err(),
            here.push("hub", &who()).err(),
            Remotes::clone_from(url, &lab.path("clone"), FORMAT_VERSION).err(),
        ];
        for (number, error) in fails.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("{number}: it was taken"));
            let text = error.to_string();
            let is_meant = matches!(error, RemoteError::Configuration { .. } | RemoteError::NotTreering(_));
            assert!(is_meant && text.contains(if number < 2 { "hub" } else { "origin" }), "{error}");
        }
        assert_eq!(head(&lab.path("repo")), sound, "nothing here changed");
        assert!(!lab.path("clone").exists());
        Repository::open(&lab.path("repo")).unwrap();
        // As it was, for the next one.
        let before = changed(&lab, |_| {});
        lab.replace_in("hub.git", CONFIG, Some(&before));
    }
}

#[test]
fn a_configuration_that_is_none_is_not_taken_from_a_cold_remote() {
    for number in 0..3 {
        let mut lab = Lab::new();
        lab.write("file", "content");
        lab.backup();
        let there = remotes(&lab.path("repo"));
        there.add("cold", store_url(&lab)).unwrap();
        there.push("cold", &who()).unwrap();
        let clone = lab.path("clone");
        Remotes::clone_with(store_url(&lab), &clone, FORMAT_VERSION, &quick()).unwrap();
        let sound = head(&clone);
        // Another writer of the remote, with a program of his own.
        lab.replace(CONFIG, Some(&odd(&lab)[number]));
        there.push("cold", &who()).unwrap();
        let here = remotes(&clone);
        for error in [here.pull("origin", &who()).err(), here.push("origin", &who()).err()] {
            let error = error.expect("it was taken");
            assert!(
                matches!(error, RemoteError::Configuration { .. }) && error.to_string().contains("origin"),
                "{error}"
            );
        }
        assert_eq!(head(&clone), sound, "nothing here changed");
        Repository::open(&clone).unwrap();
        for is_cold in [true, false] {
            let (url, path) = (store_url(&lab), lab.path("other"));
            let refused = match is_cold {
                true => Remotes::clone_cold(url, &path, FORMAT_VERSION, &quick()),
                false => Remotes::clone_with(url, &path, FORMAT_VERSION, &quick()),
            };
            let error = refused.err().expect("it was cloned");
            assert!(matches!(error, RemoteError::Configuration { .. }), "{error}");
            assert!(!path.exists());
        }
    }
}

/// Configurations of the same repository and format, by which it would cut or compare otherwise.
fn resettings(lab: &Lab) -> [Vec<u8>; 2] {
    let lengths = [("min", 64), ("avg", 256), ("max", 1024)];
    let lengths = lengths.map(|(name, length)| (Value::Text(name.into()), Value::Integer(length)));
    [("segments", Value::Map(lengths.into())), ("confirm_key", Value::Bytes(vec![0; 32]))]
        .map(|(key, value)| changed(lab, |map| drop(map.insert(key.to_owned(), value))))
}

#[test]
fn a_remote_does_not_change_how_files_are_cut_and_compared() {
    for (number, is_cold) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut lab = Lab::new();
        lab.write("file", noise(3_000_000, 1));
        lab.backup();
        let hub = lab.path("hub.git");
        Git::init(&hub, &[]).unwrap();
        let here = remotes(&lab.path("repo"));
        here.add("hub", hub.to_str().unwrap()).unwrap();
        here.push("hub", &who()).unwrap();
        let clone = lab.path("clone");
        Remotes::clone_from(hub.to_str().unwrap(), &clone, FORMAT_VERSION).unwrap();
        // Another writer, with a program of his own.
        let config = &resettings(&lab)[number];
        if is_cold {
            lab.replace_in("clone", CONFIG, Some(config));
            let there = remotes(&clone);
            there.add("far", store_url(&lab)).unwrap();
            there.push("far", &who()).unwrap();
            here.add("far", store_url(&lab)).unwrap();
        } else {
            lab.replace_in("hub.git", CONFIG, Some(config));
        }
        let name = if is_cold { "far" } else { "hub" };
        let sound = head(&lab.path("repo"));
        for error in [here.pull(name, &who()).err(), here.push(name, &who()).err()] {
            let error = error.expect("it was taken");
            assert!(matches!(&error, RemoteError::OtherSegments(remote) if remote == name), "{error}");
        }
        assert_eq!(head(&lab.path("repo")), sound, "nothing here changed");
        lab.reopen();
        let target = lab.path("target");
        let options = RestoreOptions { verify: true, ..RestoreOptions::new(&target) };
        let snapshot = lab.repository.snapshots().unwrap().pop().unwrap();
        let report = lab.repository.restore(&snapshot, &options, &Progress::new()).unwrap();
        assert!(report.mismatches.is_empty(), "{:?}", report.mismatches);
    }
}

/// Names of remotes become paths and references.
#[test]
fn the_name_of_a_remote_leads_nowhere() {
    let lab = Lab::new();
    let victim = lab.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("url"), "file:///nowhere\n").unwrap();
    let config = lab.path("repo/config");
    let plain = fs::read_to_string(&config).unwrap();
    for name in ["../../../victim", victim.to_str().unwrap(), "-x", "a/../../../../victim", ".", "a//b"] {
        fs::write(&config, format!("{plain}[remote \"{name}\"]\n\turl = /nowhere\n")).unwrap();
        let here = remotes(&lab.path("repo"));
        assert!(here.list().unwrap().is_empty(), "{name}");
        for error in [here.remove(name).err(), here.pull(name, &who()).err(), here.push(name, &who()).err()] {
            assert!(matches!(error, Some(RemoteError::Unknown(_))), "{name}: {error:?}");
        }
        assert!(here.add(name, "/x").is_err());
    }
    assert!(victim.join("url").exists());
}
