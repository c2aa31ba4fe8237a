#!/bin/sh
# The hook `pre-receive` of a treering remote from which nothing may be removed.
# Made by `treering append-only hook`. It needs git alone.
#
# A push may move the branch only to a tree that has everything that the old one has, unchanged, and nothing new where
# no treering repository has anything. So a thief of a client's key can add snapshots, but take none away, change none,
# and put nothing in everybody's way.

set -eu
status=0
tab=$(printf '\t')
while read -r old new reference; do
    case $old in
        *[!0]*) ;;
        *) continue ;; # A new reference takes nothing away.
    esac
    case $new in
        *[!0]*) ;;
        *)
            echo "treering: $reference may not be removed: this remote is append-only" >&2
            status=1
            continue
            ;;
    esac
    # Anything but an addition.
    lost=$(git -c core.quotePath=true diff-tree -r --no-renames --name-only --diff-filter=a "$old^{tree}" "$new^{tree}") || {
        echo "treering: $reference cannot be compared with what is here" >&2
        status=1
        continue
    }
    if [ -n "$lost" ]; then
        count=$(printf '%s\n' "$lost" | wc -l)
        echo "treering: this remote is append-only, and the push removes or changes $((count)) files, among them" >&2
        printf '%s\n' "$lost" | head -n 3 | sed 's/^/treering:   /' >&2
        status=1
    fi
    added=$(git -c core.quotePath=true diff-tree -r --no-renames --raw --diff-filter=A "$old^{tree}" "$new^{tree}")
    # Links and modules; and blobs by time with other names than they have.
    stray=$(printf '%s\n' "$added" | grep -E "^:0+ [0-9]+ [0-9a-f.]+ [0-9a-f.]+ A$tab" | grep -E -v "^:0+ 100(644|755) " || true)
    kinds="(snapshots|diffs|index|signatures|archives)"
    day="[0-9]{4}/[0-9]{2}/[0-9]{2}"
    key="[0-9]{8}T[0-9]{6}[.][0-9]{9}Z-[0-9a-f]{16}"
    named=$(printf '%s\n' "$added" | grep -E "$tab\"?$kinds(/|$)" | grep -E -v "$tab$kinds/$day/$key[-.0-9a-z]*$" || true)
    if [ -n "$stray$named" ]; then
        echo "treering: the push adds files that no treering repository has, among them" >&2
        printf '%s\n' "$stray" "$named" | grep . | head -n 3 | sed "s/^.*$tab/treering:   /" >&2
        status=1
    fi
done
exit $status
