#!/bin/sh
# The hook `pre-receive` of a treering remote from which nothing may be removed.
# Made by `treering append-only hook`. It needs git alone.
#
# A push may move the branch only to a tree that has everything that the old one has, unchanged. So a thief
# of a client's key can add snapshots, but take none away and change none.

set -eu
status=0
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
done
exit $status
