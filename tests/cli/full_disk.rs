//! A full disk: each command says so, and what to do.

use crate::lab::Lab;

/// Mounts a small file system at `disk`, and fills what is left of it with `fill`.
const DISK: &str = "
    mkdir disk; mount -t tmpfs -o size=24m none disk
    fill() { for size in 64k 1k; do dd if=/dev/zero of=disk/fill-$size bs=$size 2> errors || true; done; }
    noise() { head -c $1 /dev/urandom; }
";

/// A command, and what its complaint says beside that there is no room.
const COMMANDS: [(&str, &str); 15] = [
    ("$T -r disk/repo backup tree", "`treering prune` may still work"),
    ("$T -r disk/repo push cold", "`treering prune` may still work"),
    ("$T -r disk/repo pull hub", "`treering prune` may still work"),
    ("$T -r disk/repo layers merge", "`treering prune` may still work"),
    ("$T -r disk/repo remote add more file://$PWD/more", "`treering prune` may still work"),
    ("$T -r disk/new init", ""),
    ("$T clone hub.git disk/clone", ""),
    ("$T clone --cold file://$PWD/near disk/cold-clone", ""),
    ("$T kv put disk/keys.git key noise", ""),
    ("$T -r disk/blobs blob add noise", ""),
    ("$T store --url file://$PWD/disk/store store data/0123 noise", ""),
    ("$T store --url file://$PWD/disk/other create", ""),
    ("$T store --url file://$PWD/disk/deep/er create", ""),
    ("$T -r disk/deep/blobs blob init", ""),
    ("$T dir index tree -o disk/index", ""),
];

#[test]
fn each_command_says_that_the_disk_is_full_and_what_to_do() {
    let lab = Lab::bare();
    let mut script = format!(
        "{DISK}
        noise 900000 > noise
        $T -q -r disk/repo init
        for number in 1 2 3; do noise 300000 > tree/$number; $T -q -r disk/repo backup tree; done
        git init -q --bare hub.git; git init -q --bare disk/keys.git
        $T -q -r disk/repo remote add hub hub.git; $T -q -r disk/repo push hub
        $T -q clone hub.git other; noise 900000 > tree/other
        $T -q -r other backup tree; $T -q -r other push
        $T -q -r disk/repo remote add near file://$PWD/near; $T -q -r disk/repo push near
        $T -q -r disk/repo remote add cold file://$PWD/disk/cold
        $T -q -r disk/blobs blob init
        $T -q store --url file://$PWD/disk/store create
        fill
        "
    );
    for (command, _) in COMMANDS {
        script += &format!("{command} > out 2>&1 && echo done || echo $? $(cat out)\n");
    }
    // What could not be made is not there at all.
    script +=
        "for new in new clone cold-clone other cold deep; do test ! -e disk/$new || echo left $new; done\n";
    // Nothing was lost by any of them, and with some room all is well.
    script += "$T -q -r disk/repo check; rm disk/fill-*; $T -q -r disk/repo pull hub; $T -q -r disk/repo backup tree\n";
    let Some(outcome) = lab.with_mounts(&script) else { return };
    assert_eq!(outcome.status, Some(0), "{}{}", outcome.out, outcome.err);
    let told: Vec<_> = outcome.out.lines().collect();
    assert_eq!(told.len(), COMMANDS.len(), "{}{}", outcome.out, outcome.err);
    for ((command, more), line) in COMMANDS.iter().zip(told) {
        assert!(line.starts_with("1 treering: "), "{command}: {line}");
        assert!(line.contains("No space left on device"), "{command}: {line}");
        assert!(line.contains("make room on the disk and try again"), "{command}: {line}");
        assert!(
            line.contains(more) && more.is_empty() != line.contains("treering prune"),
            "{command}: {line}"
        );
        assert_eq!(line.matches("treering: ").count(), 1, "{command}: {line}");
    }
}

#[test]
fn a_prune_without_room_says_how_much_it_takes_and_leaves_nothing() {
    let lab = Lab::bare();
    let script = format!(
        "{DISK}
        export TREERING_REPOSITORY=disk/repo
        $T -q init
        for number in 1 2 3 4 5; do noise 1500000 > tree/$number; done
        $T -q backup tree; rm tree/1; $T -q backup tree
        fill
        $T -q forget --keep-last 1
        $T prune --max-unused 0 > out 2>&1 && exit 1 || cat out
        find disk/repo -name '.treering-tmp-*' -o -name 'writer-*'
        $T -q check --read-data
        rm disk/fill-*; dd if=/dev/zero of=disk/rest bs=64k 2> errors || true; truncate -s -8M disk/rest
        $T prune --max-unused 0 | head -1
        $T -q check --read-data
        "
    );
    let Some(outcome) = lab.with_mounts(&script) else { return };
    assert_eq!(outcome.status, Some(0), "{}{}", outcome.out, outcome.err);
    let told: Vec<_> = outcome.out.lines().collect();
    assert_eq!(told.len(), 2, "{}", outcome.out);
    assert!(told[0].starts_with("treering: the disk is full: to prune on, "), "{}", outcome.out);
    assert!(told[0].contains("takes 6 MiB of free space for that; make that much room"), "{}", outcome.out);
    assert!(!told[0].contains("try again"), "{}", outcome.out);
    assert!(told[1].starts_with("Freed 1.4 MiB"), "{}", outcome.out);
}
